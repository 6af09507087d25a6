"""Processes to be killed: ``python -m tests.crash.driver`` forks one for each line of its standard input.

Everything is imported once, so that a process costs milliseconds and hundreds of crashes can be tried. The child does
what the line says, with the product's own code and a connection of its own, and prints one line if it comes to the end:
``acknowledged``, ``done N``, or ``unavailable: …``. When it is gone, the driver prints ``ended N``, as of waitpid.

Lines are JSON: {"do": "revoke", "redis": PATH, "ca": ID, "serial": HEX, "at": POSIX seconds} and
{"do": "sign", "redis": PATH, "config": PATH, "now": POSIX seconds}; "do": "sign_all" signs until nothing is due.
{"do": "issue", "redis": PATH, "ca": ID, "depot": PATH} issues a CRL as the publisher does, but for its octets: that says
``published NUMBER ENTRIES``, or ``refused: …`` where another was quicker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from responder import revocation
from responder.clock import ManualClock
from responder.config import load_config
from responder.crl.depot import Depot
from responder.crl.numbering import reserve
from responder.crl.published import Published
from responder.crl.snapshot import take_snapshot
from responder.errors import CommitConflict, StoreUnavailable
from responder.issuers import Issuers
from responder.model import CRLReason
from responder.signing.clock_guard import ClockGuard
from responder.signing.delegation import open_response_signer
from responder.signing.presigner import Presigner
from responder.store.crl_store import Publication
from responder.store.layout import Layout
from responder.store.redis_store import Store
from responder.store.target import Target

ROOT = Path(__file__).resolve().parents[2]


def store_at(socket_path: str | Path, **terms: Any) -> Store:
    """Return a Store on a unix socket."""
    return Store.of(Target("the test's Redis", Layout(), unix_path=str(socket_path), **terms))


def _revoke(task: dict[str, Any]) -> str:
    with store_at(task["redis"]) as store:
        serial = bytes.fromhex(task["serial"])
        outcome = revocation.revoke(store, task["ca"], serial, CRLReason.KEY_COMPROMISE, task["at"], now=task["at"])
    assert outcome.status is not None
    return "acknowledged"


def _sign(task: dict[str, Any], *, everything: bool = False) -> str:
    config = load_config(Path(task["config"]))
    clock = ManualClock(task["now"])
    issuers = Issuers.from_config(config, task["config"])
    signers = {
        issuer.id: open_response_signer(issuer.config, issuer, config.data_dir, clock.now(), task["config"])
        for issuer in issuers
    }
    with store_at(task["redis"]) as store:
        presigner = Presigner(store, issuers, signers, clock, guard=ClockGuard(clock, clock.now))
        if everything:
            return f"done {presigner.run_until_idle()}"
        return f"done {presigner.run_once() + presigner.run_once()}"  # the first one claims little: it does not know the key


def _sign_all(task: dict[str, Any]) -> str:
    return _sign(task, everything=True)


def _issue(task: dict[str, Any]) -> str:
    ca, depot = task["ca"], Depot(Path(task["depot"]))
    fresh, spool = depot.fresh(ca), depot.fresh(ca)
    before = depot.get(ca, "full")
    try:
        with store_at(task["redis"]) as store, take_snapshot(store, ca, spool) as snapshot:
            number = reserve(store, snapshot.instant, before.number if before else None)
            fresh.write_bytes(b"".join(snapshot.chunks()))
            one = Published(
                *(ca, ca, "full", number, None, snapshot.as_of, None, 0, fresh.stat().st_size),
                sha256=f"{number:064x}",
                entries=snapshot.count,
                shares_date=False,
                file="",
            )
            one = depot.put(fresh, one)
            base = snapshot.base(number, snapshot.as_of)
            store.publish_crls(
                ca, [Publication("full", one.to_text(), number, one.this_update, regular=True, base=base)]
            )
    except CommitConflict as conflict:
        return f"refused: {conflict}"
    finally:
        spool.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
    return f"published {number} {snapshot.count}"


def _child(task: dict[str, Any]) -> None:
    try:
        said = {"revoke": _revoke, "sign": _sign, "sign_all": _sign_all, "issue": _issue}[task["do"]](task)
    except StoreUnavailable as error:
        said = f"unavailable: {error}"
    os.write(1, said.encode() + b"\n")


def main() -> None:
    """Fork a process for each line."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _child(json.loads(line))
                code = 0
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


class Driver:
    """The test's end of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.driver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **task: Any) -> tuple[str | None, int]:
        """Have a process do a task; returns what it said, None where it was killed before, and its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        said: str | None = None
        for line in self.process.stdout:
            if line.startswith("ended "):
                return said, int(line.split()[1])
            said = line.rstrip("\n")
        raise AssertionError("the driver died")

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


if __name__ == "__main__":
    main()
