"""Grows the corpora of this folder: one small input for each distinct outcome that mutations of the vectors reach.

    python -m tests.fuzz.make_corpus

Files are named by their SHA-256, so the same input is never kept twice. A crash or a difference that a fuzzer finds is
put beside them, and becomes a vector of tests/vectors named after it.
"""

from __future__ import annotations

import base64
import hashlib
import random
from pathlib import Path

from fastpath.crl_decode import EntryError, EntryReader
from fastpath.crl_entries import Terms, encode_entries
from fastpath.http_target import TargetError, decode_target
from tests.crl_records import chunks_of
from tests.reference import ocsp_request
from tests.reference.mutate import mutate_octets, mutate_tree
from tests.vectors.catalog import load_catalog

CORPUS = Path(__file__).parent / "corpus"
ROUNDS = 30_000
MAX_OCTETS = 400  # larger inputs are the vectors' business


def request_outcome(data: bytes) -> str:
    """Return what tells one way through the request parser from another."""
    try:
        return " ".join(sorted(ocsp_request.parse(data).features))
    except ocsp_request.RefusedError as error:
        return f"{error.code} {error.is_within_signature} {min(error.offset // 128, 2)}"


def target_outcome(data: bytes) -> str:
    """Return the same of the target decoder."""
    try:
        return f"good {len(decode_target(data)) % 3} {b'%' in data} {data[:2] == b'//'}"
    except TargetError as error:
        return f"{error.code} {error.offset % 4}"


def entries_outcome(data: bytes) -> str:
    """Return the same of the reader of CRL entries."""
    reader = EntryReader([data], len(data))
    try:
        entries = [entry for batch in reader for entry in batch]
    except EntryError as error:
        return f"{error.code} {min(error.offset // 24, 4)}"
    return " ".join(map(str, (len(entries), [entry.reason for entry in entries], sorted(reader.faults))))


def entries_seeds() -> list[bytes]:
    """Return entries with everything that ours may have, one by one and all together."""
    statuses = {
        b"\x05": "revoked 2026-11-01T00:00:00Z keyCompromise invalid=2026-01-01T00:00:00Z",
        b"\x00\xff": "revoked 2050-01-01T00:00:00Z superseded",
        b"\x7f" * 20: "revoked 2026-11-02T00:00:00Z",
        b"\x80": "revoked 2026-11-02T00:00:00Z certificateHold",
    }
    chunks = chunks_of(statuses)
    name = bytes.fromhex("300f310d300b06035504030c044f74686572")
    terms = [Terms(2_600_000_000), Terms(2_600_000_000, certificate_issuer=name)]
    seeds = [encode_entries(chunk, one, first=True).der for chunk in chunks for one in terms]
    return [*seeds, b"".join(encode_entries(chunk, terms[0]).der for chunk in chunks)]


def keep(folder: str, found: dict[str, bytes]) -> None:
    """Write the inputs that are not there yet."""
    directory = CORPUS / folder
    directory.mkdir(parents=True, exist_ok=True)
    for data in found.values():
        (directory / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> None:
    """Write the corpora."""
    rng = random.Random(1)
    seeds = [vector.data for vector in load_catalog("requests") if len(vector.data) < MAX_OCTETS]
    requests: dict[str, bytes] = {}
    targets: dict[str, bytes] = {}
    for _ in range(ROUNDS):
        data = rng.choice([mutate_octets, mutate_tree])(rng, rng.choice(seeds))
        outcome = request_outcome(data)
        if len(data) < min(len(requests.get(outcome, bytes(MAX_OCTETS))), MAX_OCTETS):
            requests[outcome] = data
        target = mutate_octets(rng, rng.choice([b"/", b"//"]) + base64.b64encode(data[:60]).replace(b"+", b"%2B"))
        outcome = target_outcome(target)
        if len(target) < len(targets.get(outcome, bytes(MAX_OCTETS))):
            targets[outcome] = target
    keep("ocsp_request", requests)
    keep("http_target", targets)
    entries: dict[str, bytes] = {}
    seeds = entries_seeds()
    for _ in range(ROUNDS):
        data = rng.choice([mutate_octets, mutate_tree])(rng, rng.choice(seeds))
        outcome = entries_outcome(data)
        if len(data) < min(len(entries.get(outcome, bytes(MAX_OCTETS))), MAX_OCTETS):
            entries[outcome] = data
    keep("crl_entries", entries)


if __name__ == "__main__":
    main()
