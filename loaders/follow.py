"""The follow role: every CA's source is watched, and each change is brought in within a second.

A source that tells what changed is read from a cursor, also while a whole pass is under way; any other as a whole. One
thread for each CA, so that one that is slow or out of reach holds up no other. While a source stays as it is, its
``as_of`` moves on; while it is out of reach, it does not, and the answers run out. A store that was restarted, failed
over or emptied is brought up to date by a whole pass (DESIGN §5, Commit). Started by the supervisor through
loaders/cli.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from loaders.base import Incremental, Loader
from loaders.reading import PassReport
from loaders.reconcile import reconcile_ca
from loaders.registry import open_loader
from loaders.report import log_report
from loaders.runner import CONFIRM_AFTER_S, Runner, Stopped, is_ahead
from responder.clock import Clock
from responder.config import Config
from responder.errors import RevocastError, SourceUnavailable, StoreUnavailable
from responder.issuers import Issuer, Issuers
from responder.log import get_logger
from responder.metrics import (
    SOURCE_AS_OF,
    SOURCE_COMPARED_AT,
    SOURCE_DIFFERENCES,
    SOURCE_ERRORS,
    SOURCE_HELD_BACK,
    SOURCE_REJECTED,
)
from responder.process import Stop
from responder.store.redis_store import Store

log = get_logger(__name__)

POLL_S = 0.5  # a change is seen within this, and brought in within a second where it is small
POLL_DATABASE_S = 1.0  # of a source that is asked for its changes: each costs it a query
SHRUNK_AGAIN_S = 60  # a source that listed too few is read as a whole again; no change would tell that it recovered
CHANGES_AGAIN_S = 60.0  # changes that could not be read beside a whole pass; each try may keep it waiting for seconds
AS_OF_EVERY_S = 2.0  # an unchanged source's as_of is written this often: one small write
COMPARED_ANSWERS = 1000  # of each comparison
LOGGED_DIFFERENCES = 10
BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 5.0
ALARM_EVERY_S = 60.0
LEAST_LEFT = 1 / 8  # of the time for which a source says that it holds; below it the next one is late
STOP_WITHIN_S = 0.8


class CAFollower:
    """Follows one CA. ``step`` does what is due and says how long nothing will be; used by one thread."""

    def __init__(
        self,
        issuer: Issuer,
        config: Config,
        config_file: str,
        issuers: Issuers,
        clock: Clock,
        is_stopped: Callable[[], bool] = lambda: False,
        connect: Callable[[], Store] | None = None,
    ) -> None:
        """Raises ConfigError for a source that is not configured rightly; connects to nothing yet."""
        self._issuer = issuer
        self._clock = clock
        self._is_stopped = is_stopped
        self._connect = connect or (lambda: Store.connect(config, "follow"))
        self._spool_dir = config.data_dir / "spool"
        self._loader: Loader
        self._loader, self._options = open_loader(issuers, issuer, config_file, clock)
        self._is_incremental = isinstance(self._loader, Incremental)
        self._store: Store | None = None
        self._runner: Runner | None = None
        self._run_id = ""
        self._journal_ends: dict[int, int] = {}
        self._peeked: str | None = None  # what the last pass read; None: a pass is due
        self._report: PassReport | None = None
        self._next_pass_at = 0.0  # monotonic; a pass that wants to be confirmed is done again then
        self._reconcile_at = 0.0
        self._is_current = False  # a whole pass is in since the store was last doubted: changes may move as_of
        self._owes_pass = False  # the changes have asked for one
        self._changes_at = 0.0
        self._poll_s = float(self._options.poll or (POLL_DATABASE_S if self._is_incremental else POLL_S))
        self._as_of = 0.0  # last written
        self._until: float | None = None  # the source itself says that it holds no longer
        self._backoff_s = BACKOFF_FIRST_S
        self._last_alarm = -ALARM_EVERY_S

    def step(self) -> float:
        """Look at store and source once, and do what is due; returns the seconds to wait. Raises Stopped."""
        try:
            self._watch_store()
            self._watch_source()
        except StoreUnavailable as error:
            # What of a pass is committed is not known: the next one compares everything again.
            log.error("store_unavailable", ca=self._issuer.name, error=str(error), again_in_s=self._backoff_s)
            self._redo(lost=True)
            wait, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, BACKOFF_MOST_S)
        except SourceUnavailable as error:
            SOURCE_ERRORS.labels(self._issuer.name).inc()
            log.error("source_unavailable", ca=self._issuer.name, error=str(error))
            if not self._is_incremental:  # whose cursor says where to go on
                self._peeked = None
            wait = self._poll_s
        except RevocastError as error:
            log.error("load_failed", ca=self._issuer.name, error=str(error))
            self._redo()
            wait = BACKOFF_MOST_S
        else:
            self._backoff_s = BACKOFF_FIRST_S
            wait = self._poll_s if not self._wants_confirmation else CONFIRM_AFTER_S
        self._watch_age()
        return wait

    def close(self) -> None:
        """Drop the connection."""
        if self._store is not None:
            self._store.close()

    # --- the store ----------------------------------------------------------------------------------------------

    def _watch_store(self) -> None:
        """See to it that the store still has what was committed: another run, or journal numbers gone back, say no."""
        if self._store is None or self._runner is None:
            self._store = self._connect()
            self._runner = Runner(
                self._store,
                self._issuer,
                self._loader,
                self._options,
                self._clock,
                self._spool_dir,
                is_stopped=self._is_stopped,
            )
            info = self._store.ca_info(self._issuer.id)
            self._as_of = float(info.as_of or 0) if info is not None else 0.0
            self._runner.resume(info.cursor if info is not None else None)
        run_id, ends = self._store.run_id(), self._store.journal_ends()
        went_back = [partition for partition, number in self._journal_ends.items() if ends[partition] < number]
        lost = bool(self._run_id) and (run_id != self._run_id or bool(went_back))
        if not lost and self._report is not None and self._report.settled:
            info = self._store.ca_info(self._issuer.id)
            lost = info is None or info.as_of is None or info.as_of < int(self._as_of)
        if lost:
            log.warning("store_changed", ca=self._issuer.name, run_id=run_id, partitions_gone_back=went_back)
            self._redo(lost=True)
            info = self._store.ca_info(self._issuer.id)
            if info is None or info.bits is None:
                self._runner.forget(cursor=True)
        self._run_id, self._journal_ends = run_id, ends

    def _redo(self, *, lost: bool = False) -> None:
        """Have the next step do a whole pass; until then a store that may have ``lost`` something is not current."""
        self._peeked = None
        self._next_pass_at = 0.0
        if lost:
            self._is_current, self._changes_at = False, 0.0
        if self._runner is not None:
            self._runner.forget()

    # --- the source ---------------------------------------------------------------------------------------------

    @property
    def _wants_confirmation(self) -> bool:
        return self._report is not None and self._report.wants_confirmation

    def _watch_source(self) -> None:
        assert self._runner is not None  # noqa: S101 - _watch_store has made it
        as_of, now = self._clock.now(), self._clock.monotonic()
        if self._is_incremental:
            # Also before a pass that is due: what was revoked lately is in while that still reads.
            self._watch_changes()
            peeked = "" if self._runner.has_cursor else None
        else:
            peeked = self._loader.peek()
        if now >= self._reconcile_at:
            self._redo()
        if peeked is None or peeked != self._peeked or self._wants_confirmation:
            if now >= self._next_pass_at:
                self._pass(peeked or "")
        elif (
            self._report is not None
            and self._report.settled
            and self._loader.follows_clock
            and not self._is_incremental
        ):
            self._move_as_of(as_of)

    def _watch_changes(self) -> None:
        """Bring in what changed since the cursor, where that is due and there is one."""
        assert self._store is not None and self._runner is not None  # noqa: S101, PT018 - _watch_store has made them
        now = self._clock.monotonic()
        if not self._runner.has_cursor or now < self._changes_at:
            return
        self._changes_at = now + self._poll_s
        report = self._runner.changes()
        if report.listed or report.rejected:
            log_report(report, None)
        if report.done.changed:
            self._journal_ends = self._store.journal_ends()
        if not report.whole:
            self._redo()
            self._is_current, self._owes_pass = False, True
        elif self._is_current:
            self._until = report.until
            self._move_as_of(report.as_of, at_once=report.done.changed > 0)

    def _pass(self, peeked: str) -> None:
        assert self._runner is not None and self._store is not None  # noqa: S101, PT018 - _watch_store has made them
        self._owes_pass = False
        report = self._runner.run(meanwhile=self._meanwhile)
        self._changes_at = min(self._changes_at, self._clock.monotonic() + self._poll_s)
        # Of this pass's own commits too: if the store loses them before the next look, its numbers go back.
        self._journal_ends = self._store.journal_ends()
        # What was peeked before the reading: a change in between is seen as one afterwards.
        self._peeked = None if self._owes_pass else peeked
        if self._clock.monotonic() >= self._reconcile_at:
            again_s = self._options.reconcile
            if report.shrunk_from is not None and self._is_incremental:
                again_s = min(again_s, SHRUNK_AGAIN_S)
            self._reconcile_at = self._clock.monotonic() + again_s
        self._next_pass_at = self._clock.monotonic() + (CONFIRM_AFTER_S if report.wants_confirmation else 0.0)
        log_report(report, self._report)
        if not report.skipped:
            self._report = report
            SOURCE_REJECTED.labels(self._issuer.name).set(report.rejected)
            SOURCE_HELD_BACK.labels(self._issuer.name).set(0 if report.shrunk_from is None else 1)
        self._is_current = report.settled and not self._owes_pass
        if report.settled:
            self._as_of, self._until = report.as_of, report.until
            SOURCE_AS_OF.labels(self._issuer.name).set(report.as_of)

    def _meanwhile(self) -> None:
        """Look for changes also while a whole pass reads and compares: of a large CA that takes minutes.

        Where that fails the pass goes on all the same, by a connection of its own: in a SQLite file without a write-ahead
        log whoever writes waits for the pass, and lets nobody else begin to read, so that no pass would come to its end.
        """
        if not self._is_incremental:
            return
        try:
            self._watch_changes()
        except SourceUnavailable as error:
            self._changes_at = self._clock.monotonic() + CHANGES_AGAIN_S
            log.warning("changes_put_off", ca=self._issuer.name, error=str(error))

    def _move_as_of(self, as_of: float, *, at_once: bool = False) -> None:
        """Say that all that the source said at ``as_of``, the moment before it was looked at, is in the store."""
        assert self._store is not None and self._runner is not None  # noqa: S101, PT018 - _watch_store has made them
        # One that lies ahead was written by a clock that has been set right: nothing would be signed until its time.
        since = as_of - self._as_of
        if since < (0 if at_once else AS_OF_EVERY_S) and not (
            since < 0 and is_ahead(self._as_of, self._clock, self._store)
        ):
            return
        self._store.set_as_of(self._issuer.id, as_of, cursor=self._runner.saved_cursor, until=self._until)
        self._as_of = as_of
        SOURCE_AS_OF.labels(self._issuer.name).set(as_of)

    def _watch_age(self) -> None:
        """Raise the alarm long before the answers run out."""
        age = self._clock.now() - self._as_of
        most = float(self._issuer.config.ocsp.max_source_age)
        if self._until is not None:
            # A CRL may be days old and as good as on its first: what counts is how much is left of it.
            most = (self._until - self._as_of) * (1 - LEAST_LEFT)
        now = self._clock.monotonic()
        if self._as_of and age > most and now - self._last_alarm >= ALARM_EVERY_S:
            self._last_alarm = now
            log.error("source_too_old", ca=self._issuer.name, age_s=int(age))


def follow_all(config: Config, config_file: Path, clock: Clock, stop: Stop, on_ready: Callable[[], None]) -> None:
    """Follow every CA until ``stop`` is set; raises ConfigError before the first is looked at."""
    issuers = Issuers.from_config(config, str(config_file))
    followers = [CAFollower(issuer, config, str(config_file), issuers, clock, stop.is_set) for issuer in issuers]
    # Daemons: one that waits for a Redis that does not answer must not hold up the end.
    threads = [
        threading.Thread(target=_follow, args=(follower, stop), name=f"follow-{index}", daemon=True)
        for index, follower in enumerate(followers)
    ]
    threads += [
        threading.Thread(
            target=_compare,
            args=(config, config_file, issuers, issuer, clock, stop),
            name=f"compare-{issuer.name}",
            daemon=True,
        )
        for issuer in issuers
        if issuer.config.source.options.get("compare") is not None
    ]
    for thread in threads:
        thread.start()
    on_ready()
    stop.wait()
    deadline = clock.monotonic() + STOP_WITHIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - clock.monotonic()))


def _follow(follower: CAFollower, stop: Stop) -> None:
    try:
        while not stop.wait(follower.step()):
            pass
    except Stopped:
        log.info("load_interrupted")
    except BaseException:
        # A bug of ours: the process ends, and its supervisor starts it again.
        log.exception("follow_died")
        stop.set()
        raise
    finally:
        follower.close()


def _compare(config: Config, config_file: Path, issuers: Issuers, issuer: Issuer, clock: Clock, stop: Stop) -> None:
    """Compare a source each ``compare``, beside the follower and by a loader and a connection of its own."""
    _, options = open_loader(issuers, issuer, str(config_file), clock)
    while options.compare is not None and not stop.wait(options.compare):
        try:
            with Store.connect(config, "follow") as store:
                result = reconcile_ca(store, config, config_file, issuers, issuer, clock, COMPARED_ANSWERS)
        except (RevocastError, OSError) as error:
            log.error("compare_failed", ca=issuer.name, error=str(error))
            continue
        SOURCE_DIFFERENCES.labels(issuer.name).set(result.count)
        SOURCE_COMPARED_AT.labels(issuer.name).set(clock.now())
        for difference in result.differences[:LOGGED_DIFFERENCES]:
            log.error("source_differs", ca=issuer.name, difference=str(difference))
        log.info("source_compared", ca=issuer.name, rows=result.rows, answers=result.asked, differences=result.count)
