"""Loads what a configuration's CAs have, as ``revocast load`` does, and prints how long that took: the process that bench/load.py measures.

    .venv/bin/python -m bench.load_pass CONFIG

A process of its own that imports nothing of the tests, so that its memory is the loader's.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from loaders.runner import load_ca
from responder.config import load_config
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.store.redis_store import Store


def peak_mb() -> float:
    """Return the most memory that this process had; ru_maxrss would begin with what its parent had."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(peak[1]) / 1024, 1) if peak else 0.0


def main() -> None:
    """Read what the configuration's only CA has."""
    configure_logging("bench", "error")
    config_file = Path(sys.argv[1])
    config = load_config(config_file)
    issuers = Issuers.from_config(config, str(config_file))
    (issuer,) = issuers
    idle = peak_mb()
    phases: dict[str, float] = {}
    began, cpu = time.monotonic(), time.process_time()

    def progress(what: str, _done: int, _total: int) -> None:
        phases[what] = time.monotonic() - began

    with Store.connect(config, "follow") as store:
        report = load_ca(store, issuers, issuer, config, config_file, progress=progress)
    found = {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "reading_seconds": round(phases.get("reading", 0), 2),
        "peak_rss_mb": peak_mb(),
        "idle_rss_mb": idle,
        "listed": report.listed,
        "changes": report.done.changes,
        "settled": report.settled,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
