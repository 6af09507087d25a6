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
from collections.abc import Callable
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


def load(config_file: Path) -> dict[str, Any]:
    """Load in a process of its own; returns what it measured."""
    command = [sys.executable, "-m", "bench.load_pass", str(config_file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent
    )
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


def run(
    measure: Callable[[int, str, RedisServer, Path], dict[str, Any]], count: int, version: str, to: Path | None
) -> dict[str, Any]:
    """Measure with a Redis and a directory of its own; prints and writes what was found, and returns it."""
    server = start_redis(version)
    try:
        with tempfile.TemporaryDirectory(prefix="rc-bench-") as directory:
            result = measure(count, version, server, Path(directory))
    finally:
        server.stop()
    text = json.dumps(result, indent=2)
    print(text)
    if to:
        to.write_text(text + "\n")
    return result


def main() -> None:
    """Measure, print, and say whether the target was met."""
    parser = argparse.ArgumentParser(description="Rows of an index.txt into Redis: seconds and memory.")
    parser.add_argument("--rows", type=int, default=TARGET_ROWS)
    parser.add_argument("--version", choices=("7", "6.2"), default="7")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = run(measure, arguments.rows, arguments.version, arguments.json)
    target = TARGET_S * arguments.rows / TARGET_ROWS
    print(f"target {target:.1f} s: {'met' if result['first_load']['seconds'] <= target else 'missed'}", file=sys.stderr)


if __name__ == "__main__":
    main()
