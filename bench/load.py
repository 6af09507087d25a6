"""A million rows of an index.txt into Redis: seconds on the wall, and the loading process's peak of memory.

    .venv/bin/python -m bench.load [--rows N] [--json FILE] [--version 7|6.2]

Makes an index.txt as ``openssl ca`` writes it (every tenth revoked, 128-bit serials), starts a private redis-server, and
runs ``revocast load`` twice in processes of their own: into the empty store, and again with nothing changed. Target of
the first: 10 s for a million rows, in memory that does not grow with the rows. Generator and server are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.pki import make_ca
from tests.redis_fixture import RedisServer, start_redis

TARGET_S = 10.0
TARGET_ROWS = 1_000_000
REASONS = ["", ",unspecified", ",keyCompromise", ",superseded", ",cessationOfOperation", ",affiliationChanged"]


def write_index(path: Path, rows: int) -> None:
    """Write an index.txt with dates over a year."""
    chance = random.Random(1)  # the same file every time
    year = int(time.strftime("%y"))
    with path.open("w") as file:
        for number in range(rows):
            month, day, hour = chance.randint(1, 12), chance.randint(1, 28), chance.randint(0, 23)
            clock = f"{month:02d}{day:02d}{hour:02d}{chance.randint(0, 59):02d}{chance.randint(0, 59):02d}Z"
            serial = f"{chance.getrandbits(127) | 1 << 120:X}"
            serial = "0" * (len(serial) % 2) + serial
            if number % 10 == 0:
                head = f"R\t{year + 2}{clock}\t{year - 1}{clock}{chance.choice(REASONS)}"
            else:
                head = f"V\t{year + 2}{clock}\t"
            file.write(f"{head}\t{serial}\tunknown\t/O=Example Trust Services/CN=host-{number}.example-shop.com\n")


_CHILD = """
import json, resource, sys, time
from pathlib import Path
from responder.config import load_config
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.store.redis_store import Store
from loaders.runner import load_ca
configure_logging("bench", "error")
path = Path(sys.argv[1])
config = load_config(path)
issuers = Issuers.from_config(config, str(path))
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
phases = {}
def progress(what, done, total):
    phases[what] = time.monotonic() - start
start, cpu = time.monotonic(), time.process_time()
with Store.connect(config, "follow") as store:
    for issuer in issuers:
        report = load_ca(store, issuers, issuer, config, path, progress=progress)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "seconds": round(time.monotonic() - start, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
    "reading_seconds": round(phases.get("reading", 0), 2),
    "peak_rss_mb": round(usage.ru_maxrss / 1024, 1), "idle_rss_mb": round(idle / 1024, 1),
    "listed": report.listed, "changes": report.done.changes, "settled": report.settled,
}))
"""


def load(config_file: Path) -> dict[str, Any]:
    """Load in a process of its own; returns what it measured."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(config_file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(rows: int, version: str, server: RedisServer, directory: Path) -> dict[str, Any]:
    """Make the file, load it twice, and ask Redis what it holds."""
    make_ca(directory)
    write_index(directory / "index.txt", rows)
    config_file = directory / "revocast.toml"
    config_file.write_text(
        f"{server.config_section()}\n[[ca]]\nname = 'bench'\ncertificate = 'ca.pem'\n"
        "source = { type = 'openssl', path = 'index.txt' }\nocsp = { key = 'ca.key' }\n"
    )
    first = load(config_file)
    used = server.client().info("memory")["used_memory"]
    again = load(config_file)
    return {
        "rows": rows,
        "redis": version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "file_mb": round((directory / "index.txt").stat().st_size / 1e6, 1),
        "first_load": first,
        "rows_per_second": int(rows / first["seconds"]),
        "load_with_nothing_changed": again,
        "redis_bytes_per_certificate": round(used / rows),
    }


def main() -> None:
    """Measure, print, and say whether the target was met."""
    parser = argparse.ArgumentParser(description="Rows of an index.txt into Redis: seconds and memory.")
    parser.add_argument("--rows", type=int, default=TARGET_ROWS)
    parser.add_argument("--version", choices=("7", "6.2"), default="7")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    server = start_redis(arguments.version)
    try:
        with tempfile.TemporaryDirectory(prefix="rc-bench-") as directory:
            result = measure(arguments.rows, arguments.version, server, Path(directory))
    finally:
        server.stop()
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    target = TARGET_S * arguments.rows / TARGET_ROWS
    print(f"target {target:.1f} s: {'met' if result['first_load']['seconds'] <= target else 'missed'}", file=sys.stderr)


if __name__ == "__main__":
    main()
