"""Keeps a CA's CRLs in date: watches the clock, the journal and the source, and issues what is due, CA by CA.

Whatever goes wrong with one CA's CRLs, the published ones stay, it is tried again, ever more seldom, and said in the log and
the metrics; the other CAs' go on. One thread of one process; roles/publish.py runs it, commands use its ``Keys``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from responder import metrics
from responder.clock import Clock, format_utc
from responder.config import Config
from responder.config_crl import FULL
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.issue import Issue, NoNews, Office, Progress
from responder.crl.previous import fetch_previous
from responder.crl.published import Published
from responder.crl.replica import Replica
from responder.crl.schedule import Due, Pace, next_due
from responder.crl.size import say_if_large, show_sizes
from responder.errors import (
    CommitConflict,
    ConfigError,
    CRLError,
    OperatorError,
    PublicationRefused,
    SignerUnavailable,
    SourceUnavailable,
    StoreDamaged,
    StoreOutrun,
    StoreUnavailable,
)
from responder.issuers import Issuer, Issuers, load_issuer
from responder.log import get_logger
from responder.signing.clock_guard import ClockGuard
from responder.signing.crl_signer import CRLSigner, open_crl_signer
from responder.signing.rollover import files_digest
from responder.store.crl_store import CRLState
from responder.store.redis_store import Store
from responder.store.values import JournalEntry

log = get_logger(__name__)

POLL_S = 0.25  # how long a revocation may go unseen; its CRL is put off by the debounce anyway
LOOK_AGAIN_S = 5.0  # at what is published: a command, or another machine, may have issued too
SHARDS_AT_A_LOOK = 64  # more of them are looked at more seldom
LEASE_S = 120  # of making a CA's CRLs; it only keeps two publishers from doing the same work
LEASED_WAIT_S = 1.0
NEWS_WAIT_S = 1.0  # while a CRL is due and the source stands still
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
CONFLICT_WAIT_S = 0.1
REMIND_EVERY_S = 300.0
SAID_AFTER_S = 60.0  # that the source stands still: it is read every few seconds, and a restart takes some too
URGENT_KINDS = frozenset({"revoked", "released", "override"})


class Stopped(Exception):
    """The process is to end; whatever is half made is thrown away."""


class Keys:
    """A CA's CRL signer: opened when it is needed, again when its files have changed or its token has failed."""

    def __init__(self, issuer: Issuer, config: Config, config_file: str, clock: Clock) -> None:
        self._issuer = issuer
        self._config = config
        self._config_file = config_file
        self._clock = clock
        self._signer: CRLSigner | None = None
        self._digest = b""

    def signer(self) -> CRLSigner:
        """Return the signer; raises ConfigError or SignerUnavailable, one line."""
        crl = self._issuer.config.crl
        assert crl is not None  # noqa: S101 - only such CAs have keys
        digest = files_digest(crl.signer, self._issuer.config.certificate)
        if self._signer is not None and digest == self._digest:
            return self._signer
        issuer = load_issuer(self._issuer.config, self._config_file)
        if issuer.id != self._issuer.id:
            key = f"ca[{issuer.name}].certificate"
            raise ConfigError(self._config_file, key, "now has another subject or key; send SIGHUP")
        opened = open_crl_signer(issuer, self._config.data_dir, self._clock.now(), self._config_file)
        self.close()
        self._signer, self._digest = opened, digest
        for warning in opened.warnings:
            log.warning("signer_warning", ca=issuer.name, text=warning)
        return opened

    def close(self) -> None:
        """Let go of the key; it is opened again when it is asked for."""
        if self._signer is not None:
            self._signer.close()
            self._signer = None


class Series:
    """One CA's CRLs. ``turn`` issues what is due; ``note`` hears what the journal says."""

    def __init__(
        self,
        office: Office,
        keys: Keys,
        holder: str,
        *,
        replica: Replica | None = None,
        progress: Progress = lambda _what, _done: None,
    ) -> None:
        """``holder`` names this machine in the lease; ``replica`` brings what other machines have issued."""
        self._replica = replica
        self.office = office
        self._keys = keys
        self._holder = holder
        self._progress = progress
        self._pace = Pace()
        self._has_previous = False  # whether it was asked for the CA's own last CRL
        self._seen: tuple[int, ...] | None = None  # journal numbers that the published CRLs have seen
        self._full: Published | None = None
        self._delta: Published | None = None
        self._look_at = 0.0  # monotonic, as those below
        self._retry_at = 0.0
        self._pause_s = RETRY_FIRST_S
        self._conflict_s = CONFLICT_WAIT_S
        self._said: tuple[str, float] = ("", 0.0)
        self._ended = False
        self._is_stopped = (
            False  # what Redis or the depot has of this CA cannot be used: it is tried again, as after a start
        )

    def start(self) -> Mapping[int, int] | None:
        """See what is published; returns the journal numbers to follow from, None: all that came is unknown."""
        try:
            return self._start()
        except (StoreDamaged, StoreOutrun, OSError) as error:
            self._stopped_by(error)
            return None

    def _start(self) -> Mapping[int, int] | None:
        office = self.office
        office.depot.sweep(office.issuer.name)
        state = office.store.crl_state(office.issuer.id)
        self._ended = state.ended is not None
        self.look()
        self._pace.is_torn = self._is_torn(state)
        bases = [state.bases.get(slot) for slot in office.crl.complete_slots]
        if self._full is None or any(base is None or base.history != office.store.run_id() for base in bases):
            self._pace.urgent_since = office.clock.now()
            return None
        self._seen = tuple(min(numbers) for numbers in zip(*(base.cut for base in bases if base), strict=True))
        return dict(enumerate(self._seen))

    def _is_torn(self, state: CRLState) -> bool:
        """Say whether Redis was not told of a CRL that is published here: then other machines never see it."""
        for slot in self.office.depot.slots(self.office.issuer.name):
            here, text = self.office.published(slot), state.published.get(slot)
            if here is None:
                continue
            try:
                known = Published.from_text(text).number if text is not None else None
            except ValueError:
                return True
            if here.number is not None and (known is None or known < here.number):
                return True
        return False

    def note(self, entry: JournalEntry) -> None:
        """Hear of a change; of this CA's revocations that no CRL has seen yet one is due at once."""
        if entry.ca != self.office.issuer.id or entry.kind not in URGENT_KINDS:
            return
        if self._seen is not None and entry.number <= self._seen[entry.partition]:
            return
        self.missed()

    def missed(self) -> None:
        """Take it that there are revocations that no CRL has."""
        if self._pace.urgent_since is None:
            self._pace.urgent_since = self.office.clock.now()

    def turn(self) -> float:
        """Issue what is due; returns after how many seconds there may be something to do. Raises StoreUnavailable.

        What is damaged of this CA in Redis or the depot, or changes too fast, stops this CA alone.
        """
        try:
            if self._is_stopped:
                if (left := self._retry_at - self.office.clock.monotonic()) > 0:
                    return left
                self._start()
                self.missed()
                self._is_stopped = False
            return self._turn()
        except (StoreDamaged, StoreOutrun, OSError) as error:
            return self._stopped_by(error)

    def _turn(self) -> float:
        clock = self.office.clock
        if clock.monotonic() >= self._look_at:
            self.look()
        if self.is_ended:
            return self._watch_last()
        due = self._next()[0]
        if due.at > clock.now():
            metrics.CRL_OVERDUE.labels(self.office.issuer.name).set(0)
            return due.at - clock.now()
        if clock.monotonic() < self._retry_at:
            metrics.CRL_OVERDUE.labels(self.office.issuer.name).set(clock.now() - due.at if due.at else 0)
            return self._retry_at - clock.monotonic()
        return self._try()

    @property
    def has_crls(self) -> bool:
        """Say whether every complete CRL is published, in date or not."""
        return self._full is not None

    @property
    def is_ended(self) -> bool:
        """Say whether the CA's last CRL was issued: nothing is, after that."""
        return self._ended or (self._full is not None and self._full.is_last)

    def now(self, *, full: bool, last: bool = False, let_go: frozenset[bytes] = frozenset()) -> list[Published]:
        """Issue at once, by an operator's word; waits for whoever is issuing just now. Raises as ``issue``, OperatorError."""
        office = self.office
        deadline = office.clock.monotonic() + LEASE_S
        while True:
            with self._turn_to_issue() as mine:
                if mine:
                    self.look()
                    if self.is_ended:
                        raise OperatorError(
                            f"ca {office.issuer.name}: its last CRL has been issued, and no other follows"
                        )
                    due = Due(office.clock.now(), full=full, regular=False, why="operator")
                    return self.issue(due, last=last, let_go=let_go)
            if office.clock.monotonic() > deadline:
                raise OperatorError(f"ca {office.issuer.name}: another publisher has been issuing for {LEASE_S} s")
            time.sleep(LEASED_WAIT_S / 4)

    @contextmanager
    def _turn_to_issue(self) -> Iterator[bool]:
        """Have the CA to oneself: on this machine by a lock, among machines by a lease; yields False where another has it.

        The lock ends with its process, and the lease is the machine's: whoever takes the place of a publisher that was killed
        need not wait for its end.
        """
        office = self.office
        with office.depot.only_issuer(office.issuer.name) as mine:
            if not mine or not office.store.lease_crls(office.issuer.id, self._holder, LEASE_S):
                yield False
                return
            try:
                yield True
            finally:
                office.store.lease_crls(office.issuer.id, self._holder, 0)

    def _next(self) -> list[Due]:
        return next_due(self.office.crl, self._full, self._delta, self._pace, self.office.clock.now())

    def look(self) -> None:
        """See what is published by now, here or by another machine. Raises StoreUnavailable."""
        if self._replica is not None:
            self._replica.look()
        self._full, self._delta = self.office.first_due()
        if any(one is not None and one.lost is not None for one in (self._full, self._delta)):
            self._pace.is_torn = True  # what is served is not the newest
        shards = self.office.crl.shards
        self._look_at = self.office.clock.monotonic() + LOOK_AGAIN_S * max(1, shards / SHARDS_AT_A_LOOK)
        self._show()

    def _try(self) -> float:
        """Issue in turn with others, unless meanwhile somebody else has."""
        with self._turn_to_issue() as mine:
            if not mine:
                return LEASED_WAIT_S
            self.look()
            if self.is_ended:
                return LOOK_AGAIN_S
            now = self.office.clock.now()
            return self._issue([due for due in self._next() if due.at <= now])

    def _issue(self, dues: Sequence[Due]) -> float:
        """Issue the first of what is due for which there is news: a revocation is, also where the source stands still."""
        for due in dues:
            if self._issued(due):
                return 0.0
        return self._stands_still(dues[0]) if dues else 0.0

    def _issued(self, due: Due) -> bool:
        """Try to issue; False: there is no news."""
        office = self.office
        try:
            self.issue(due)
        except NoNews:
            return False
        except CommitConflict as error:
            # Somebody else was quicker, or Redis's journal has moved: no alarm, unless it lasts (revocast_crl_overdue_seconds).
            metrics.CRL_FAILURES.labels(office.issuer.name, "conflict").inc()
            log.warning("crl_conflict", ca=office.issuer.name, error=str(error))
            self._pace.is_torn = self._is_torn(office.store.crl_state(office.issuer.id))
            # Each try builds a CRL and uses a number up: less and less often, where it is refused again and again.
            self._retry_at = office.clock.monotonic() + self._conflict_s
            self._conflict_s = min(2 * self._conflict_s, RETRY_MOST_S)
        except StoreUnavailable:  # StoreDamaged and StoreOutrun among them: ``turn`` tells them apart
            raise
        except PublicationRefused as error:
            metrics.CRL_CHECKS_FAILED.labels(office.issuer.name, error.check).inc()
            self._failed(due.at, "check", error)
        except SignerUnavailable as error:
            self._keys.close()
            self._failed(due.at, "signer", error)
        except ConfigError as error:
            self._failed(due.at, "config", error)
        except OSError as error:
            self._failed(due.at, "disk", error)
        except Stopped:
            raise
        except Exception as error:  # whatever is the matter with one CA, the other CAs' CRLs go on
            self._failed(due.at, "source" if isinstance(error, SourceUnavailable | CRLError) else "other", error)
        else:
            self._pause_s, self._conflict_s, self._said = RETRY_FIRST_S, CONFLICT_WAIT_S, ("", 0.0)
            metrics.CRL_OVERDUE.labels(office.issuer.name).set(0)
        return True

    def issue(self, due: Due, *, last: bool = False, let_go: frozenset[bytes] = frozenset()) -> list[Published]:
        """Issue what ``due`` says, with the lease held; raises as Issue.run, and ConfigError."""
        began = self.office.clock.monotonic()
        if not self._has_previous:
            self.office = replace(self.office, foreign=fetch_previous(self.office))
            self._has_previous = True
        office = self.office
        issue = Issue(office, self._keys.signer(), due, last=last, let_go=let_go, progress=self._progress)
        published = issue.run()
        took = office.clock.monotonic() - began
        self._seen = issue.cut
        fell_back = not due.full and not any(one.base_number for one in published)
        again = fell_back and self._pace.fell_back
        self._pace = Pace(None, office.clock.now(), took, fell_back=fell_back)
        if again:
            self._pace.no_delta_before = office.clock.now() + (office.crl.delta_every or 0)
        self._ended = last
        kind = "full" if due.full else "delta"
        metrics.CRLS_ISSUED.labels(office.issuer.name, kind, due.why).inc(len(published))
        metrics.CRL_BUILD_SECONDS.labels(office.issuer.name, kind).set(took)
        self.look()
        log.info(
            "crl_issued",
            ca=office.issuer.name,
            kind=kind,
            why=due.why,
            number=published[0].number,
            this_update=format_utc(published[0].this_update),
            entries=sum(one.entries for one in published),
            bytes=sum(one.size for one in published),
            seconds=round(took, 3),
        )
        say_if_large(office.issuer, published)
        return published

    def close(self) -> None:
        """Let go of the key."""
        self._keys.close()

    # --- alarms -------------------------------------------------------------------------------------------------------

    def _stopped_by(self, error: StoreUnavailable | OSError) -> float:
        self._is_stopped = True
        due = self._next()[0]
        reason = "disk" if isinstance(error, OSError) else "store"
        self._failed(due.at if due.at <= self.office.clock.now() else 0.0, reason, error)
        return self._retry_at - self.office.clock.monotonic()

    def _watch_last(self) -> float:
        """No CRL takes the place of the last one, should that be lost, unless the operator says so."""
        office = self.office
        if self._full is not None and self._full.lost is not None and office.clock.monotonic() >= self._retry_at:
            text = (
                f"the CA's last CRL, number {self._full.lost}, was lost: redis-cli HDEL {office.store.layout.crl(office.issuer.id)} ended, "
                f"restart, and once a CRL is issued: revocast crl last --ca {office.issuer.name}"
            )
            self._failed(0.0, "disk", OperatorError(text))
        return LOOK_AGAIN_S

    def _failed(self, due_at: float, reason: str, error: Exception) -> None:
        clock, ca = self.office.clock, self.office.issuer.name
        metrics.CRL_FAILURES.labels(ca, reason).inc()
        self._retry_at = clock.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_MOST_S)
        self._say("crl_not_issued", " ".join(str(error).split()) or type(error).__name__, reason=reason)
        metrics.CRL_OVERDUE.labels(ca).set(clock.now() - due_at if due_at else 0)

    def _stands_still(self, due: Due) -> float:
        """Promise 2: nothing is dated afresh while the source is out of reach; say so long before clients have no CRL."""
        late = self.office.clock.now() - due.at if due.at else 0.0
        metrics.CRL_OVERDUE.labels(self.office.issuer.name).set(late)
        if late >= SAID_AFTER_S:
            metrics.CRL_FAILURES.labels(self.office.issuer.name, "source").inc()
            self._say("crl_source_stands_still", "the source was not read since the last CRL, which therefore stays")
        self._retry_at = self.office.clock.monotonic() + NEWS_WAIT_S
        return NEWS_WAIT_S

    def _say(self, event: str, text: str, **fields: str) -> None:
        """Log an alarm: once, and again when it has lasted."""
        now = self.office.clock.monotonic()
        if self._said[0] == text and now - self._said[1] < REMIND_EVERY_S:
            return
        self._said = (text, now)
        ends = self._full.next_update if self._full is not None else None
        stays = f"the published CRL stays, until {format_utc(ends)}" if ends else "there is no CRL yet"
        log.error(event, ca=self.office.issuer.name, error=text, consequence=stays, **fields)

    def _show(self) -> None:
        office = self.office
        complete = office.crl.complete_slots
        for kind, slots in (("full", complete), ("delta", [f"{slot}-delta" for slot in complete])):
            names = ["delta"] if kind == "delta" and complete == (FULL,) else slots
            found = [one for slot in names if (one := office.published(slot)) is not None]
            if not found:
                continue
            label = (office.issuer.name, kind)
            metrics.CRL_THIS_UPDATE.labels(*label).set(min(one.this_update for one in found))
            metrics.CRL_NEXT_UPDATE.labels(*label).set(min(one.next_update or 0 for one in found))
            show_sizes(office.issuer, kind, found)
            metrics.CRL_ENTRIES.labels(*label).set(sum(one.entries for one in found))


def open_series(
    config: Config,
    config_file: str,
    issuer: Issuer,
    store: Store,
    clock: Clock,
    progress: Progress = lambda _what, _done: None,
) -> Series:
    """Make ready to issue one CA's CRLs; to be closed."""
    crl = issuer.config.crl
    assert crl is not None  # noqa: S101 - only such CAs have a series
    depot = Depot(config.data_dir / DIRECTORY)
    share = config.redis is not None and crl.share
    office = Office(issuer, store, depot, clock, share)
    keys = Keys(issuer, config, config_file, clock)
    replica = Replica(store, depot, Issuers([issuer])) if share else None
    return Series(office, keys, config.audit.machine_name, replica=replica, progress=progress)


class Publisher:
    """Every CA whose CRLs are issued here."""

    def __init__(self, series: Sequence[Series], store: Store, clock: Clock, guard: ClockGuard) -> None:
        self._series = series
        self._store = store
        self._guard = guard
        self._history = store.run_id()
        self._after = store.journal_ends()
        for one in series:
            seen = one.start()
            if seen is not None:
                self._after = {p: min(number, seen[p]) for p, number in self._after.items()}

    def turn(self) -> float:
        """Follow the journal and issue what is due; returns after how many seconds to come again.

        Raises StoreUnavailable: then a new one is to be made, on a new connection.
        """
        self._follow()
        if not self._guard.agrees():
            return POLL_S
        return max(0.0, min([POLL_S, *(one.turn() for one in self._series)]))

    def _follow(self) -> None:
        entries = self._store.read_journal(self._after)
        by_partition: dict[int, list[JournalEntry]] = {}
        for entry in entries:
            by_partition.setdefault(entry.partition, []).append(entry)
        for partition, some in by_partition.items():
            if some[0].number > self._after[partition] + 1:
                self._missed()  # trimmed before it was read
            self._after[partition] = some[-1].number
        for one in self._series:
            for entry in entries:
                one.note(entry)
        if not entries and (history := self._store.run_id()) != self._history:
            # A restart or a failover: journal numbers may have gone back.
            self._history, self._after = history, self._store.journal_ends()
            self._missed()

    def _missed(self) -> None:
        for one in self._series:
            one.missed()
