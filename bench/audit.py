"""What the audit log costs an answer: CPU of the presigner with and without it, in one run.

    .venv/bin/python -m bench.audit [--certificates 20000] [--rounds 5] [--json FILE]

Each round signs all certificates twice from an empty store, with a software P-256 key, once with the audit log (written, hashed,
synced and anchored each second, as the role does) and once without; which of the two goes first alternates. Counted is the CPU
of the presigner's process alone, which does not depend on what else the machine does. Target: less than 3 %.

Rounds scatter by more than that on a busy machine, so what the log itself takes is also counted directly: the CPU within
``ledger.signed``, per answer, as a share of what an answer takes in all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.serve.machine import describe_commit, describe_machine
from responder import audit
from responder.audit import AuditLog
from responder.audit_anchor import Anchors
from responder.clock import SystemClock
from responder.signing import ledger, presigner
from tests.redis_fixture import start_redis
from tests.signing_room import GOOD, Room

TARGET = 0.03


class _Watch:
    """Counts the CPU within ``ledger.signed``."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._signed = ledger.signed

    def signed(self, *arguments: Any) -> None:
        began = time.thread_time()
        self._signed(*arguments)
        self.seconds += time.thread_time() - began


def one_pass(room: Room, certificates: int, directory: Path | None) -> float:
    """Sign everything from an empty store; returns CPU microseconds an answer."""
    room.server.client().flushall()
    room.load(dict.fromkeys(range(1, certificates + 1), GOOD), bits=max(4, (certificates // 128).bit_length()))
    signer = room.presigner()
    if directory is None:
        began = time.process_time()
        made = signer.run_until_idle()
        return (time.process_time() - began) / made * 1e6
    log = AuditLog(directory, "presign", machine="bench", max_bytes=64 << 20)
    kept = Anchors(room.new_store(), directory, "bench", SystemClock())
    anchored = time.monotonic()

    def each_second(_made: int) -> None:
        nonlocal anchored
        if time.monotonic() - anchored >= 1:
            anchored = time.monotonic()
            kept.move_on()

    with audit.installed(log):
        began = time.process_time()
        made = signer.run_until_idle(each_second)
        kept.move_on()
        return (time.process_time() - began) / made * 1e6


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--certificates", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    watch = _Watch()
    presigner.ledger.signed = watch.signed  # type: ignore[attr-defined]
    with_log: list[float] = []
    without: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        server = start_redis()
        try:
            room = Room(server, Path(folder))
            one_pass(room, options.certificates // 4, None)  # warm up
            watch.seconds = 0.0
            for at in range(options.rounds):
                for is_audited in (at % 2 == 0, at % 2 == 1):
                    if is_audited:
                        counted = watch.seconds
                        with_log.append(one_pass(room, options.certificates, Path(folder) / "audit"))
                        own = watch.seconds - counted
                        direct = own / options.certificates * 1e6
                        print(f"with the log    {with_log[-1]:6.1f} us an answer, of these in the ledger {direct:.2f}")
                    else:
                        seconds = watch.seconds
                        without.append(one_pass(room, options.certificates, None))
                        watch.seconds = seconds  # what the ledger does for no log is not the log's
                        print(f"without the log {without[-1]:6.1f} us an answer")
            octets = sum(path.stat().st_size for path in (Path(folder) / "audit").glob("*.log"))
            room.close()
        finally:
            server.stop()
    each = watch.seconds / (options.certificates * options.rounds) * 1e6
    share = each / statistics.median(with_log)
    difference = statistics.median(with_log) / statistics.median(without) - 1
    result = {
        "machine": describe_machine(),
        "commit": describe_commit(),
        "certificates": options.certificates,
        "us_with": with_log,
        "us_without": without,
        "us_ledger_each": each,
        "share": share,
        "difference_of_medians": difference,
        "octets_each": octets / (options.certificates * options.rounds),
        "target": TARGET,
    }
    print(
        f"the ledger: {each:.2f} us an answer, {share:.1%} of it (target {TARGET:.0%}); medians differ by {difference:+.1%}"
    )
    print(f"the log: {result['octets_each']:.1f} octets an answer")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
