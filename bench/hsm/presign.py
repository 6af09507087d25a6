"""One presigning process under measurement: signs all that is due and prints a line of JSON. Started by bench.hsm.

Usage: python -m bench.hsm.presign CONFIG [--phases]

Its CPU time counts from the moment at which the keys are open, with that of the process that holds the token's sessions.
``--phases`` measures how long each step of the pipeline takes instead, which costs time itself.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.serve.processes import cpu_seconds, cpu_times, descendants
from responder.audit_anchor import command_log
from responder.clock import SystemClock
from responder.config import load_config
from responder.log import configure_logging
from responder.roles.presign import opened_signers
from responder.signing import presigner as pipeline
from responder.signing.press import Press
from responder.store.redis_store import Store

# Step → what it is called; time in a step that is called from another counts for the inner one alone.
PHASES: list[tuple[str, Any, str]] = [
    ("claim", Store, "claim_due"),
    ("read statuses", Store, "read_status_buckets"),
    ("read answers", Store, "read_answer_buckets"),
    ("plan", pipeline, "plan_bucket"),
    ("decide", pipeline.Presigner, "_wanted"),
    ("encode", pipeline, "_messages"),
    ("hash and send to the key", Press, "submit"),
    ("sign, or take in, and verify a sample", Press, "pump"),
    ("pack and send to the store", pipeline.Presigner, "_send"),
    ("wait for the store", pipeline.Presigner, "_settle"),
    ("wait for the token", pipeline.Presigner, "wait"),
]


class Phases:
    """CPU seconds of this thread, by step."""

    def __init__(self) -> None:
        self.seconds = {name: 0.0 for name, _, _ in PHASES} | {"the rest": 0.0}
        self._stack = ["the rest"]
        self._at = time.thread_time()

    def _switch(self) -> None:
        now = time.thread_time()
        self.seconds[self._stack[-1]] += now - self._at
        self._at = now

    def install(self) -> None:
        """Measure every step from now on."""
        for name, owner, attribute in PHASES:
            setattr(owner, attribute, self._measured(name, getattr(owner, attribute)))
        self._at = time.thread_time()

    def _measured(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            self._switch()
            self._stack.append(name)
            try:
                return call(*arguments, **options)
            finally:
                self._switch()
                self._stack.pop()

        return measured

    def take(self) -> dict[str, float]:
        """Return what was measured."""
        self._switch()
        return self.seconds


def peak_kb(pid: int) -> int:
    """Return a process's peak of resident memory in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    """Presign, and print the figures."""
    path = Path(sys.argv[1])
    configure_logging("bench", "error")
    settings, clock = load_config(path), SystemClock()
    with (
        Store.connect(settings, "presign") as store,
        command_log(settings, path, store),
        opened_signers(settings, str(path), clock) as (issuers, signers),
    ):
        one = pipeline.Presigner(store, issuers, signers, clock)
        phases = Phases() if "--phases" in sys.argv else None
        if phases is not None:
            phases.install()
        family = descendants(os.getpid())
        before, began = cpu_times(family), time.monotonic()
        made = one.run_until_idle()
        seconds, after = time.monotonic() - began, cpu_times(family)
        memory = {"presigner_kb": peak_kb(os.getpid()), "token_kb": sum(peak_kb(pid) for pid in family[1:])}
        figures: dict[str, Any] = {
            "made": made,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds(before, after),
            **memory,
        }
        own = {key: value for key, value in after.items() if key[0] == os.getpid()}
        figures["presigner_cpu_seconds"] = cpu_seconds({k: v for k, v in before.items() if k in own}, own)
        if phases is not None:
            figures["phases"] = phases.take()
    figures["max_rss_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
