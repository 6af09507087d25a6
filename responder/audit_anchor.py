"""Keeps the ends of this machine's audit logs in Redis: a chain alone does not show that its last lines were taken away.

An anchor is the number and hash of a line that is on the disk: the file is brought there first, so that a machine that loses
its power never has less than its anchor says. The roles that may write Redis see to every log of the machine, the
supervisor's and the commands' too, once a second; a command does so at its end.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from responder import audit, metrics
from responder.audit import Head
from responder.clock import Clock, SystemClock, format_utc
from responder.config import Config
from responder.errors import RevocastError, StoreUnavailable
from responder.log import get_logger
from responder.process import Stop
from responder.store.redis_store import Store
from responder.store.target import Role

log = get_logger(__name__)

ANCHOR_EVERY_S = 1.0
TOLD_EVERY_S = 3600.0  # an operator's log system keeps what it is told: another anchor, out of this machine's reach
STOP_WITHIN_S = 0.5


def parse_anchor(text: str) -> Head:
    """Read an anchor's number and hash; raises ValueError."""
    number, _, digest = text.split(" ")
    return Head(int(number), digest)


class Anchors:
    """Compares the logs of a directory with their anchors and moves these on. Used by one thread."""

    def __init__(self, store: Store, directory: Path, machine: str, clock: Clock) -> None:
        self._store = store
        self._directory = directory
        self._machine = machine
        self._clock = clock
        self._seen: dict[str, tuple[str, int]] = {}  # log → segment and size that were anchored
        self._heads: dict[str, Head] = {}
        self._told_at = float("-inf")

    def move_on(self) -> None:
        """Anchor every log's last line; raises StoreUnavailable, OSError."""
        for name, paths in audit.segments(self._directory).items():
            place = (paths[-1].name, paths[-1].stat().st_size)
            if self._seen.get(name) == place:
                continue
            head = self._bring_to_disk(paths[-1])
            if head is not None:
                self._anchor(name, head)
                self._seen[name] = place
        if self._clock.monotonic() - self._told_at >= TOLD_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Write the anchors into the ordinary log, from where they may go to another machine."""
        self._told_at = self._clock.monotonic()
        for name, head in self._heads.items():
            log.info("audit_head", machine=self._machine, log=name, number=head.number, hash=head.hash)

    def _bring_to_disk(self, path: Path) -> Head | None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head, _ = audit.read_tail(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return head

    def _anchor(self, name: str, head: Head) -> None:
        text = f"{head.number} {format_utc(self._clock.now())} {head.hash}"
        done, stood = self._store.anchor(self._machine, name, head.number, head.hash, text, force=False)
        is_new = name not in self._heads
        self._heads[name] = head
        # What stands must be a line of the log. A later one: another role has anchored it since we looked.
        if stood and (is_new or not done) and not self._holds(name, stood):
            metrics.AUDIT_FAILURES.labels("anchor_mismatch").inc()
            log.error("audit_anchor_mismatch", log=name, anchored=stood, found=f"{head.number} {head.hash}")
            # With that written down, the next anchors are of what is there.
            if audit.record("anchor_mismatch", log=name, anchored=stood, found=f"{head.number} {head.hash}"):
                self._store.anchor(self._machine, name, head.number, head.hash, text, force=True)

    def _holds(self, name: str, stood: str) -> bool:
        """Say whether a log has the line of an anchor; True also where its segment is no longer here: verify tells."""
        try:
            wanted = parse_anchor(stood)
        except ValueError:
            return False
        for path in reversed(audit.segments(self._directory).get(name, [])):
            if int(path.name.split(".")[1]) > wanted.number:
                continue
            start = b'{"n":%d,' % wanted.number
            with path.open("rb") as file:
                found = [read for line in file if line.startswith(start) and (read := audit.read_line(line))]
            return any(head == wanted for head, _ in found)
        return True


@contextlib.contextmanager
def role_log(config: Config, config_file: Path, role: Role) -> Iterator[None]:
    """Have a role's audit log, and keep all logs of this machine anchored, in a thread of its own, to the last line."""
    stop = Stop()
    thread = threading.Thread(target=_keep, args=(config, role, stop), name="audit-anchors", daemon=True)
    try:
        with audit.opened(config, config_file, role):
            thread.start()
            yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join(STOP_WITHIN_S)


@contextlib.contextmanager
def command_log(config: Config, config_file: Path, store: Store) -> Iterator[None]:
    """Have the audit log of a command, and anchor it at the end; where that fails, a role will, or verify tells."""
    kept = Anchors(store, audit.directory_of(config), config.audit.machine_name, SystemClock())

    def move_on() -> None:
        try:
            kept.move_on()
        except (StoreUnavailable, OSError) as error:
            log.error("audit_not_anchored", error=str(error))

    with audit.opened(config, config_file, "command"):
        move_on()  # lines that were lost since the last time are told of in the log
        yield
    move_on()


def _keep(config: Config, role: Role, stop: Stop) -> None:
    failed = False
    while not stop.is_set():
        try:
            # Anew after each failure: the embedded server may come up, or come up elsewhere, at any time.
            with Store.connect(config, role) as store:
                clock = SystemClock()
                kept = Anchors(store, audit.directory_of(config), config.audit.machine_name, clock)
                while not stop.is_set():
                    kept.move_on()
                    metrics.AUDIT_ANCHORED.labels(role).set(clock.now())
                    failed = False
                    stop.wait(ANCHOR_EVERY_S)
                kept.move_on()
                kept.tell()
        except (RevocastError, OSError) as error:
            if not failed:
                log.warning("audit_not_anchored", error=str(error))
            failed = True
            stop.wait(ANCHOR_EVERY_S)
