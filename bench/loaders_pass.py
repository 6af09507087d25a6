"""Makes one whole pass over a CA's database and prints how long that took: the process that bench/loaders.py measures.

    .venv/bin/python -m bench.loaders_pass CONFIG

A process of its own, so that its memory is the follower's.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from loaders.follow import CAFollower
from responder.clock import SystemClock
from responder.config import load_config
from responder.issuers import Issuers
from responder.log import configure_logging


def main() -> None:
    """Read what the configuration's only CA has."""
    configure_logging("bench", "error")
    config_file = Path(sys.argv[1])
    config = load_config(config_file)
    issuers = Issuers.from_config(config, str(config_file))
    (issuer,) = issuers
    follower = CAFollower(issuer, config, str(config_file), issuers, SystemClock())
    began = time.perf_counter()
    follower.step()
    seconds = time.perf_counter() - began
    follower.close()
    # Not ru_maxrss, which begins with what the parent had.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "peak_mb": int(peak[1]) / 1024 if peak else 0.0}))


if __name__ == "__main__":
    main()
