"""Bytes of Redis memory per certificate: its status, its part of the revoked index, one P-256 answer.

    .venv/bin/python -m bench.redis_memory [--certificates 200000,1000000] [--version 7|6.2] [--defaults] [--signature 2420] [--json FILE]

Every tenth certificate is revoked, serials have 16 octets, signatures are as long as ECDSA signatures on P-256 are in DER.
Everything is written as in operation: the first load by a pass, the answers bucket by bucket under one header. Counted is
what Redis itself says that it uses, above what it used when it was empty: journals and due times hence too. Target: 220
bytes at a million. ``--defaults`` leaves the limits of packed hashes as Redis has them; ``--signature`` has other signatures,
such as ML-DSA's of 2420, 3309 or 4627 octets, which are past these limits; ``--packed-value`` raises them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastpath.ocsp_response import AnswerHeader, pack_answer
from responder.full_pass import HashedRow, PassTerms, apply_pass, map_buckets
from responder.model import CertStatus, CRLReason
from responder.store.layout import bucket_number
from responder.store.redis_store import Store
from responder.store.values import AnswerBucket, SignedAnswer
from tests.redis_fixture import RedisServer, start_redis

TARGET_BYTES = 220
TARGET_COUNT = 1_000_000
CA = "0123456789abcdef"
NOW = 1_800_000_000
GROUP_BITS = 4
GOOD = "good exp=2030-12-31T23:59:59Z"
REVOKED_AT = NOW - 4_000_000
REVOKED = "revoked 2026-11-29T20:53:20Z keyCompromise exp=2030-12-31T23:59:59Z"
REDIS_DEFAULTS = {"hash_max_ziplist_entries": "128", "hash_max_ziplist_value": "64"}


def groups(count: int) -> Iterator[tuple[int, int, list[HashedRow]]]:
    """Return the rows as a spool gives them."""
    grouped: list[list[HashedRow]] = [[] for _ in range(1 << GROUP_BITS)]
    for number in range(count):
        serial = b"\x5a" + hashlib.sha256(b"%d" % number).digest()[:15]
        hash_octets = hashlib.sha256(serial).digest()[-4:]
        text = REVOKED if number % 10 == 0 else GOOD
        grouped[bucket_number(hash_octets[3], GROUP_BITS)].append((hash_octets, serial, text))
    for number, rows in enumerate(grouped):
        yield number, GROUP_BITS, rows


def used(server: RedisServer) -> int:
    """Return what Redis says that it uses, in bytes."""
    return int(server.client().info("memory")["used_memory"])


def sign_all(store: Store, bits: int, signature_octets: int | None) -> None:
    """Store an answer for every certificate, as a routine batch does."""
    chance = random.Random(1)
    header = AnswerHeader(NOW, NOW + 345_600, NOW, "00112233aabbccdd").to_bytes()
    for bucket in range(1 << bits):
        answers = []
        for serial, text in store.read_status_bucket(CA, bucket).entries.items():
            # SEQUENCE of two INTEGERs of 32 octets, each with a leading zero octet half the time.
            signature = chance.randbytes(signature_octets or 70 + chance.getrandbits(1) + chance.getrandbits(1))
            if text is GOOD or text == GOOD:
                packed = pack_answer(0, CertStatus.GOOD, 0, -1, False, signature)
            else:
                packed = pack_answer(0, CertStatus.REVOKED, REVOKED_AT, CRLReason.KEY_COMPROMISE, False, signature)
            answers.append(SignedAnswer(serial, text, packed))
        store.put_answers(CA, bucket, "sha1", 0, header, answers, seen=AnswerBucket(), replace=True)


def measure(count: int, version: str, settings: dict[str, str], signature_octets: int | None = None) -> dict[str, Any]:
    """Fill a fresh Redis and measure it."""
    server = start_redis(version, **settings)
    try:
        empty = used(server)
        with server.store() as store:
            store.ensure_ca(CA, name="bench", subject="CN=bench", certificate=b"")
            buckets = map_buckets(store, CA, count)
            rows = list(groups(count))
            began = time.perf_counter()
            for _ in apply_pass(store, CA, buckets, rows, PassTerms(NOW, 0.0)):
                pass
            load_s = time.perf_counter() - began
            del rows
            loaded = used(server)
            sign_all(store, buckets.bits, signature_octets)
            full = used(server)
        info = server.client().info("memory")
        return {
            "certificates": count,
            "buckets": 1 << buckets.bits,
            "status_bytes": round((loaded - empty) / count, 1),
            "answer_bytes": round((full - loaded) / count, 1),
            "bytes_per_certificate": round((full - empty) / count, 1),
            "resident_bytes_per_certificate": round(info["used_memory_rss"] / count, 1),
            "rows_per_second": round(count / load_s),
            "redis": server.client().info("server")["redis_version"],
        }
    finally:
        server.stop()


def main() -> None:
    """Measure, and print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", default="200000,1000000", help="sizes, with commas between")
    parser.add_argument("--version", default="7", choices=("7", "6.2"))
    parser.add_argument("--defaults", action="store_true", help="Redis's own limits of packed hashes")
    parser.add_argument("--signature", type=int, help="octets of a signature; absent: ECDSA's on P-256")
    parser.add_argument("--packed-value", help="hash-max-ziplist-value; absent: what Revocast sets")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results = []
    for count in (int(size) for size in options.certificates.split(",")):
        settings = dict(REDIS_DEFAULTS) if options.defaults else {}
        if options.packed_value:
            settings["hash_max_ziplist_value"] = options.packed_value
        result = measure(count, options.version, settings, options.signature)
        results.append(result)
        print(
            f"{count:>9} certificates: {result['bytes_per_certificate']} B each "
            f"(status and index {result['status_bytes']}, answer {result['answer_bytes']}; "
            f"resident {result['resident_bytes_per_certificate']}), loaded at {result['rows_per_second']} rows/s, "
            f"Redis {result['redis']}"
        )
        if count == TARGET_COUNT and not (options.defaults or options.signature or options.packed_value):
            met = result["bytes_per_certificate"] <= TARGET_BYTES
            print(f"          target {TARGET_BYTES} B: {'met' if met else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"machine": platform.platform(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
