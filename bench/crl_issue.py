"""Issues CRLs as ``revocast crl now`` does and prints how long that took: the process that bench/crl.py measures.

    .venv/bin/python -m bench.crl_issue full|delta CONFIG

Imports nothing of the tests, so that its memory is the publisher's.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from responder.audit_anchor import command_log
from responder.clock import SystemClock
from responder.config import load_config
from responder.crl.publisher import open_series
from responder.issuers import Issuers
from responder.store.redis_store import Store


def main() -> None:
    """Issue what the arguments say."""
    kind, config_file = sys.argv[1], Path(sys.argv[2])
    config = load_config(config_file)
    (issuer,) = Issuers.from_config(config, str(config_file))
    with Store.connect(config, "publish") as store, command_log(config, config_file, store):
        series = open_series(config, str(config_file), issuer, store, SystemClock())
        try:
            series.look()
            cpu, began = time.process_time(), time.perf_counter()
            (published, *_) = series.now(full=kind == "full")
            took = {"issue_seconds": time.perf_counter() - began, "issue_cpu_seconds": time.process_time() - cpu}
        finally:
            series.close()
    # Not ru_maxrss, which begins with what the parent had.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    took["peak_mb"] = int(peak[1]) / 1024 if peak else 0.0
    print(json.dumps({**took, "entries": published.entries, "bytes": published.size, "number": published.number}))


if __name__ == "__main__":
    main()
