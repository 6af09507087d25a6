"""Random histories on a real Redis: every base with every later delta upon it says what is so, and what a complete CRL would say.

RFC 5280 §5.2.4, with the rule by which OpenSSL combines the two: what the delta lists counts, removeFromCRL means good, the
rest is the base's. Also §3.3: how long what has expired stays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fastpath.crl_decode import Entry, EntryReader
from fastpath.crl_entries import Terms, encode_entries
from responder.crl.numbering import reserve
from responder.crl.snapshot import take_changes, take_snapshot
from responder.model import CertStatus, CRLReason, Status
from responder.revocation import apply
from responder.store.crl_store import Publication
from tests.redis_fixture import RedisServer, start_redis
from tests.store_room import CA, open_ca, serials

NOW = 1_795_700_000
RETENTION_S = 60
SERIALS = serials(10, seed=7)
REASONS = (None, CRLReason.CERTIFICATE_HOLD, CRLReason.CERTIFICATE_HOLD, CRLReason.KEY_COMPROMISE, CRLReason.SUPERSEDED)

Listed = dict[bytes, tuple[int, int | None]]  # serial: revocationDate, reason


@dataclass(frozen=True)
class Complete:
    """A complete CRL. ``dropped_before``: what had expired before this was left out."""

    number: int
    this_update: int
    regular: bool
    dropped_before: int
    listed: Listed


@dataclass(frozen=True)
class Delta:
    """A delta CRL."""

    number: int
    base_number: int
    listed: Listed


def listed(chunks: Iterator[bytes], terms: Terms) -> Listed:
    """Return the entries that records become, as a strict reader finds them."""
    der = b"".join(encode_entries(chunk, terms).der for chunk in chunks)
    entries: list[Entry] = [entry for some in EntryReader([der], len(der)) for entry in some]
    found = {entry.serial_octets: (entry.revocation_date, entry.reason) for entry in entries}
    assert len(found) == len(entries)
    return found


def combined(base: Listed, delta: Listed) -> Listed:
    """Combine as OpenSSL does."""
    both = base | delta
    return {serial: said for serial, said in both.items() if said[1] != CRLReason.REMOVE_FROM_CRL}


class Histories(RuleBasedStateMachine):
    """A CA, its certificates, and all the CRLs that it has issued."""

    def __init__(self) -> None:
        super().__init__()
        SERVER[0].client().flushall()
        self.store = open_ca(SERVER[0])
        self.directory = tempfile.TemporaryDirectory()
        self.complete: list[Complete] = []
        self.deltas: list[Delta] = []
        self.purged: set[bytes] = set()
        self.ahead: set[bytes] = set()  # ever dated ahead: a delta may say without need that it is not revoked
        self.only_on_deltas: set[bytes] = set()  # since the last complete CRL
        self.had_its_turn: set[bytes] = set()  # on a regular complete CRL after its expiry

    @initialize()
    def begin(self) -> None:
        self.now = NOW

    # --- what happens to certificates -----------------------------------------------------------------------------------

    def status(self, serial: bytes) -> Status | None:
        text = self.store.find_status(CA, serial)
        return None if text is None else Status.from_text(text)

    @rule(serial=st.sampled_from(SERIALS), lasts=st.sampled_from([40, 150, 5_000]))
    def certificate_is_issued(self, serial: bytes, lasts: int) -> None:
        if serial not in self.purged and self.status(serial) is None:
            text = Status(CertStatus.GOOD, not_after=self.now + lasts).to_text()
            apply(self.store, CA, [(serial, text)], signal="row", now=self.now)

    @rule(serial=st.sampled_from(SERIALS), reason=st.sampled_from(REASONS), at=st.sampled_from([-9, 0, 0, 70]))
    def certificate_is_revoked(self, serial: bytes, reason: CRLReason | None, at: int) -> None:
        if serial not in self.purged and self.status(serial) is not None:
            text = Status(CertStatus.REVOKED, revoked_at=self.now + at, reason=reason).to_text()
            apply(self.store, CA, [(serial, text)], signal="row", now=self.now)
            if at > 0:
                self.ahead.add(serial)

    @rule(serial=st.sampled_from(SERIALS))
    def hold_is_released(self, serial: bytes) -> None:
        if self.status(serial) is not None:
            text = Status(CertStatus.GOOD).to_text()
            apply(self.store, CA, [(serial, text)], signal="release", now=self.now)

    @rule(seconds=st.sampled_from([1, 30, 100]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def what_is_over_is_purged(self) -> None:
        let_go = self.store.crl_state(CA).all_let_go
        for serial in SERIALS:
            status = self.status(serial)
            if status is None or status.not_after is None or status.not_after >= self.now - RETENTION_S:
                continue
            if status.cert_status is CertStatus.GOOD or let_go is None or status.not_after < let_go:
                apply(self.store, CA, [(serial, "")], signal="expired", now=self.now)
                self.purged.add(serial)

    # --- CRLs -------------------------------------------------------------------------------------------------------------

    @rule(regular=st.booleans())
    def complete_crl_is_issued(self, regular: bool) -> None:
        self.store.set_as_of(CA, self.now)
        self.store.keep_changes(CA)
        with take_snapshot(self.store, CA, Path(self.directory.name) / "spool") as snapshot:
            number = reserve(self.store, snapshot.instant)
            dropped_before = snapshot.instant.state.regular.get("full", 0)
            terms = Terms(self.now, drop_expired_before=dropped_before or None)
            one = Complete(number, self.now, regular, dropped_before, listed(snapshot.chunks(), terms))
            changes = snapshot.changes(self.store, ["full"])
            if changes is not None:
                base_number = changes.base("full").number
                said = listed(changes.chunks("full"), Terms(self.now, delta=True))
                self.check_delta(Delta(number, base_number, said))
                self.check_same(one, combined(self.complete[-1].listed, said))
            else:
                assert not self.complete
            text = f'{{"number": {number}, "this_update": {self.now}}}'
            base = snapshot.base(number, self.now)
            publication = Publication("full", text, number, self.now, regular=regular, let_go=dropped_before, base=base)
            self.store.publish_crls(CA, [publication])
        self.check_complete(one)
        self.complete.append(one)
        self.only_on_deltas.clear()
        for serial in one.listed:
            expiry = self.expiry(serial)
            if regular and expiry is not None and expiry < self.now:
                self.had_its_turn.add(serial)

    @rule()
    def delta_crl_is_issued(self) -> None:
        self.store.set_as_of(CA, self.now)
        changes = take_changes(self.store, CA, ["full"])
        if changes is None:
            assert not self.complete
            return
        number = reserve(self.store, changes.instant)
        said = listed(changes.chunks("full"), Terms(self.now, delta=True))
        self.check_delta(Delta(number, changes.base("full").number, said))
        text = f'{{"number": {number}, "this_update": {self.now}}}'
        self.store.publish_crls(CA, [Publication("delta", text, number, self.now)])

    # --- what must hold -------------------------------------------------------------------------------------------------

    def expiry(self, serial: bytes) -> int | None:
        status = self.status(serial)
        return None if status is None else status.not_after

    def truth(self) -> Listed:
        found: Listed = {}
        for serial in SERIALS:
            status = self.status(serial)
            if status is not None and status.at(self.now) is CertStatus.REVOKED:
                assert status.revoked_at is not None
                found[serial] = (status.revoked_at, status.reason)
        return found

    def may_miss(self, serial: bytes, complete: Complete) -> bool:
        """Say whether a CRL may lack a serial that is revoked: it was left out since it had expired."""
        expiry = self.expiry(serial)
        return expiry is not None and expiry < complete.dropped_before

    def check_complete(self, one: Complete) -> None:
        truth = self.truth()
        assert one.listed.items() <= truth.items()
        assert all(self.may_miss(serial, one) for serial in truth.keys() - one.listed.keys())
        assert CRLReason.REMOVE_FROM_CRL not in {reason for _, reason in one.listed.values()}
        assert self.only_on_deltas & truth.keys() <= one.listed.keys(), "DLT-06: it was never on a complete CRL"
        if self.complete:
            for serial in self.complete[-1].listed.keys() - one.listed.keys():
                status = self.status(serial)
                is_released = status is not None and status.cert_status is CertStatus.GOOD
                assert is_released or serial in self.had_its_turn, "CRL-09: it left too early"

    def check_delta(self, delta: Delta) -> None:
        truth = self.truth()
        bases = [one for one in self.complete if one.number >= delta.base_number]
        assert bases
        assert bases[0].number == delta.base_number, "DLT-01: the base was published"
        for base in bases:
            seen = combined(base.listed, delta.listed)
            assert seen.items() <= truth.items(), "said to be revoked, and is not, or not so"
            assert all(self.may_miss(serial, base) for serial in truth.keys() - seen.keys())
        said = {serial for serial, (_, reason) in delta.listed.items() if reason != CRLReason.REMOVE_FROM_CRL}
        assert self.only_on_deltas & truth.keys() <= said, "DLT-06: it left the deltas too early"
        known = {serial for one in bases for serial in one.listed} | {
            serial for one in self.deltas if one.number >= delta.base_number for serial in one.listed
        }
        needless = delta.listed.keys() - said - known
        assert all(serial in self.ahead or serial in self.had_its_turn for serial in needless), "nobody has heard of it"
        self.only_on_deltas = (self.only_on_deltas | said) & truth.keys() - bases[-1].listed.keys()
        self.deltas.append(delta)

    def check_same(self, one: Complete, seen: Listed) -> None:
        """DLT-03: what was issued together says the same, but for what has expired and left."""
        assert one.listed.items() <= seen.items()
        assert all(self.may_miss(serial, one) for serial in seen.keys() - one.listed.keys())

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()


SERVER: list[RedisServer] = []


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Give one server to the many runs."""
    SERVER.append(start_redis())
    yield
    SERVER.pop().stop()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestHistories.pytestmark = [
    pytest.mark.clause("RFC 5280", "5.2.4", "MUST"),
    pytest.mark.clause("RFC 5280", "3.3", "MUST NOT"),
]
