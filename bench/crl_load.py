"""A CRL into Redis: entries a second from a file, and the loading process's peak of memory.

    .venv/bin/python -m bench.crl_load [--entries N] [--json FILE] [--version 7|6.2]

Makes a signed CRL (128-bit serials, every second with a reason), starts a private redis-server, and loads the CRL as ``revocast
load`` does, in a process of its own: into the empty store, and again with nothing changed. The signature is verified, every
entry read, and each revoked serial put into its bucket and into the revoked index. Target: 150 000 entries/s. Making the CRL and
starting the server are not counted; a million entries are 38 MB.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

from cryptography import x509

from bench.load import load, run
from responder.crl.der import SEQUENCE, element
from tests.crl_made import make_crl
from tests.pki import PKI, make_ca
from tests.redis_fixture import RedisServer

TARGET_PER_S = 150_000
REASONS = [bytes.fromhex(f"300c300a0603551d1504030a01{reason:02x}") for reason in (1, 3, 4, 5)]


def write_crl(path: Path, ca: PKI, entries: int) -> None:
    """Put entries into a CRL of the CA's in the place of its only one, and sign it."""
    chance = random.Random(1)  # the same entries every time
    now = int(time.time())
    model = make_crl(ca, [(1, now - 100)], this_update=now - 60, next_update=now + 86_400)
    tbs = x509.load_der_x509_crl(model).tbs_certlist_bytes
    one = element(SEQUENCE, b"\x02\x01\x01\x17\x0d" + time.strftime("%y%m%d%H%M%SZ", time.gmtime(now - 100)).encode())
    contents = tbs[tbs.index(b"\x02\x01\x01") :]  # from the version on
    before, behind = contents.split(element(SEQUENCE, one))
    made = []
    for number in range(entries):
        serial = (chance.getrandbits(127) | 1 << 120).to_bytes(16, "big")
        at = time.strftime("%y%m%d%H%M%SZ", time.gmtime(now - 1000 - chance.randrange(31_000_000))).encode()
        more = chance.choice(REASONS) if number % 2 else b""
        made.append(element(SEQUENCE, b"\x02\x10" + serial + b"\x17\x0d" + at + more))
    new_tbs = element(SEQUENCE, before + element(SEQUENCE, b"".join(made)) + behind)
    signature = element(0x03, b"\0" + ca.sign(new_tbs))
    path.write_bytes(element(SEQUENCE, new_tbs + ca.signature_algorithm_der + signature))


def measure(entries: int, version: str, server: RedisServer, directory: Path) -> dict[str, Any]:
    """Make the file, load it twice, and ask Redis what it holds."""
    write_crl(directory / "corp.crl", make_ca(directory), entries)
    config_file = directory / "revocast.toml"
    config_file.write_text(
        f"{server.config_section()}\n[[ca]]\nname = 'bench'\ncertificate = 'ca.pem'\n"
        "source = { type = 'crl', path = 'corp.crl' }\nocsp = { key = 'ca.key' }\n"
    )
    first = load(config_file)
    assert first["listed"] == entries
    used = server.client().info("memory")["used_memory"]
    again = load(config_file)
    return {
        "entries": entries,
        "redis": version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "file_mb": round((directory / "corp.crl").stat().st_size / 1e6, 1),
        "whole_load": first,
        "entries_per_second": int(entries / first["seconds"]),
        "figures": [
            {
                "what": "entries of a CRL into Redis",
                "value": int(entries / first["seconds"]),
                "unit": "a second",
                "at_least": TARGET_PER_S,
            }
        ],
        "load_with_nothing_changed": again,
        "redis_bytes_per_entry": round(used / entries),
    }


def main() -> None:
    """Measure, print, and say whether the target was met."""
    parser = argparse.ArgumentParser(description="Entries of a CRL into Redis: seconds and memory.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--version", choices=("7", "6.2"), default="7")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = run(measure, arguments.entries, arguments.version, arguments.json)
    met = result["entries_per_second"] >= TARGET_PER_S
    print(f"target {TARGET_PER_S:,} entries/s: {'met' if met else 'missed'}", file=sys.stderr)


if __name__ == "__main__":
    main()
