"""Transitions: the table, what may never happen whatever comes, and the one write path on a real Redis."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from responder import revocation
from responder.errors import CommitConflict, InvariantBroken, OperatorError, StoreUnavailable
from responder.model import CertStatus, CRLReason, Status
from responder.revocation import Decision, Refused, Signal, apply, decide, release, revoke
from responder.store import layout
from responder.store.layout import serial_hash
from responder.store.redis_store import Store
from responder.store.values import Change, Committed
from tests.redis_fixture import RedisServer, start_redis
from tests.store_room import CA, GOOD, HOLD, NAMES, REVOKED, everything, open_ca, put, serials

NOW = 1_800_000_000
EARLY, LATE, AHEAD, FAR_AHEAD = NOW - 500, NOW - 100, NOW + 100, NOW + 500
EXP = 1_900_000_000


def good(exp: int | None = EXP) -> Status:
    return Status(CertStatus.GOOD, exp)


def revoked(
    at: int = EARLY,
    reason: CRLReason | None = CRLReason.KEY_COMPROMISE,
    *,
    exp: int | None = EXP,
    operator: bool = False,
) -> Status:
    return Status(CertStatus.REVOKED, exp, at, reason, by_operator=operator)


def hold(at: int = EARLY, *, operator: bool = False) -> Status:
    return revoked(at, CRLReason.CERTIFICATE_HOLD, operator=operator)


BY_ROW: list[tuple[str, Status | None, Status, Decision]] = [
    ("unknown, good", None, good(), Decision(good(), "new")),
    ("unknown, revoked", None, revoked(), Decision(revoked(), "revoked")),
    ("unknown, held", None, hold(), Decision(hold(), "revoked")),
    ("the same", good(), good(), Decision()),
    ("the same revoked", revoked(), revoked(), Decision()),
    ("renewed in place", good(), good(EXP + 1), Decision(good(EXP + 1), "changed")),
    ("expiry not told", good(), good(None), Decision()),
    ("revoked", good(), revoked(), Decision(revoked(), "revoked")),
    ("revoked, expiry not told", good(), revoked(exp=None), Decision(revoked(), "revoked")),
    ("revoked ahead", good(), revoked(AHEAD), Decision(revoked(AHEAD), "revoked")),
    ("good again", revoked(), good(), Decision(refused=Refused.PERMANENT)),
    ("good again without reason", revoked(reason=None), good(), Decision(refused=Refused.PERMANENT)),
    ("good again before its time", revoked(AHEAD), good(), Decision(refused=Refused.PERMANENT)),
    ("hold, good", hold(), good(), Decision(refused=Refused.HOLD_NOT_RELEASED)),
    ("hold made permanent", hold(), revoked(LATE), Decision(revoked(LATE), "revoked")),
    ("weakened to a hold", revoked(), hold(), Decision(refused=Refused.PERMANENT)),
    ("hold at another time", hold(), hold(LATE), Decision(hold(LATE), "changed")),
    ("another reason", revoked(), revoked(reason=CRLReason.SUPERSEDED), Decision(revoked(reason=CRLReason.SUPERSEDED), "changed")),
    ("another time", revoked(), revoked(LATE), Decision(revoked(LATE), "changed")),
    ("put off", revoked(), revoked(AHEAD), Decision(refused=Refused.IN_EFFECT)),
    ("hold ends in a revocation ahead", hold(), revoked(AHEAD), Decision(refused=Refused.IN_EFFECT)),
    ("ahead, and now", revoked(AHEAD), revoked(LATE), Decision(revoked(LATE), "revoked")),
    ("ahead, and further ahead", revoked(AHEAD), revoked(FAR_AHEAD), Decision(revoked(FAR_AHEAD), "changed")),
    ("ahead, suspended meanwhile", revoked(AHEAD), hold(LATE), Decision(hold(LATE), "revoked")),
    ("operator's, good", revoked(operator=True), good(), Decision(refused=Refused.OPERATOR)),
    ("operator's, good tells the expiry", revoked(exp=None, operator=True), good(), Decision(revoked(operator=True), "changed", Refused.OPERATOR)),
    ("operator's, revoked", revoked(operator=True), revoked(LATE), Decision(revoked(LATE), "changed")),
    ("operator's, held", revoked(operator=True), hold(), Decision(refused=Refused.OPERATOR)),
    ("operator's hold, held", hold(operator=True), hold(LATE), Decision(refused=Refused.OPERATOR)),
    ("operator's hold, good", hold(operator=True), good(), Decision(refused=Refused.OPERATOR)),
    ("operator's hold, revoked", hold(operator=True), revoked(LATE), Decision(revoked(LATE), "revoked")),
    ("operator's ahead, held now", revoked(AHEAD, operator=True), hold(LATE), Decision(revoked(LATE, operator=True), "revoked", Refused.OPERATOR)),
    ("operator's hold ahead, held now", hold(AHEAD, operator=True), hold(LATE), Decision(hold(LATE, operator=True), "revoked", Refused.OPERATOR)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), [case[1:] for case in BY_ROW], ids=[case[0] for case in BY_ROW])
def test_a_row(old: Status | None, new: Status, expected: Decision) -> None:
    assert decide(old, new, signal="row", now=NOW) == expected
    if expected.refused is not Refused.HOLD_NOT_RELEASED:
        assert decide(old, new, signal="release", now=NOW) == expected


BY_OPERATOR: list[tuple[str, Status | None, Status, Decision]] = [
    ("unknown", None, revoked(exp=None, operator=True), Decision(revoked(exp=None, operator=True), "revoked")),
    ("good", good(), revoked(LATE, exp=None, operator=True), Decision(revoked(LATE, operator=True), "revoked")),
    ("revoked", revoked(), revoked(LATE, exp=None, operator=True), Decision()),
    ("revoked later than now said", revoked(LATE), revoked(EARLY, operator=True), Decision()),
    ("revoked ahead", revoked(AHEAD), revoked(LATE, operator=True), Decision(revoked(LATE, operator=True), "revoked")),
    ("held", hold(), revoked(LATE, operator=True), Decision(revoked(LATE, operator=True), "revoked")),
    ("held, holds", hold(), hold(LATE, operator=True), Decision(hold(LATE, operator=True), "changed")),
    ("revoked, holds", revoked(), hold(operator=True), Decision(refused=Refused.PERMANENT)),
    ("releases a hold", hold(), good(None), Decision(good(), "released")),
    ("releases the operator's hold", hold(operator=True), good(None), Decision(good(), "released")),
    ("releases what is revoked", revoked(), good(None), Decision(refused=Refused.NOT_A_HOLD)),
    ("releases what the operator revoked", revoked(operator=True), good(None), Decision(refused=Refused.NOT_A_HOLD)),
    ("releases what nobody issued", None, good(None), Decision(refused=Refused.NOT_A_HOLD)),
    ("releases what is good", good(), good(EXP + 1), Decision(refused=Refused.NOT_A_HOLD)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"), [case[1:] for case in BY_OPERATOR], ids=[case[0] for case in BY_OPERATOR]
)
def test_the_operator(old: Status | None, new: Status, expected: Decision) -> None:
    assert decide(old, new, signal="operator", now=NOW) == expected


def test_only_a_hold_is_released_and_only_explicitly() -> None:
    assert decide(hold(), good(), signal="release", now=NOW) == Decision(good(), "released")
    assert decide(revoked(), good(), signal="release", now=NOW) == Decision(refused=Refused.PERMANENT)


@pytest.mark.parametrize("old", [None, good(), revoked(), hold(), revoked(AHEAD), revoked(operator=True)])
def test_what_vanished_or_expired(old: Status | None) -> None:
    """A good row that its CA deleted was never issued, as far as we know; a revoked one stays until it has expired."""
    vanished = decide(old, None, signal="vanished", now=NOW)
    assert vanished == (Decision(None, "purged") if old == good() else Decision())
    expired = decide(old, None, signal="expired", now=NOW)
    assert expired == (Decision(None, "purged") if old is not None else Decision())


def every_status() -> Iterator[Status]:
    """Return a status of every kind."""
    for exp in (None, EXP):
        yield good(exp)
        for at, reason, operator in itertools.product(
            (EARLY, LATE, AHEAD), (None, CRLReason.KEY_COMPROMISE, CRLReason.CERTIFICATE_HOLD), (False, True)
        ):
            yield revoked(at, reason, exp=exp, operator=operator)


def test_no_signal_makes_a_revoked_certificate_good() -> None:
    """DESIGN §5, whatever comes: the whole product of old, new and signal."""
    for old, new, signal in itertools.product([None, *every_status()], [None, *every_status()], get_args(Signal)):
        if (new is None) != (signal in ("vanished", "expired")):
            if new is None:
                with pytest.raises(InvariantBroken):
                    decide(old, new, signal=signal, now=NOW)
            continue
        if new is not None and new.by_operator and signal in ("row", "release", "issued"):
            continue  # no source says so
        decision = decide(old, new, signal=signal, now=NOW)
        after = decision.status if decision.kind is not None else old
        assert (decision.kind is None) <= (decision.status is None)
        assert (decision.kind == "purged") == (decision.kind is not None and decision.status is None)
        if old is None:
            continue
        was, is_ = old.at(NOW), CertStatus.UNKNOWN if after is None else after.at(NOW)
        case = (old.to_text(), new and new.to_text(), signal, decision)
        if was is CertStatus.REVOKED and is_ is CertStatus.GOOD:
            assert decision.kind == "released", case
        if decision.kind == "released":
            assert old.is_hold, case
            assert signal in ("release", "operator"), case
            assert not old.by_operator or signal == "operator", case
        if (
            old.cert_status is CertStatus.REVOKED
            and not old.is_hold
            and after is not None
            and was is not CertStatus.GOOD
        ):
            assert after.cert_status is CertStatus.REVOKED, case
            assert not after.is_hold, case
        if was is CertStatus.REVOKED and is_ is CertStatus.UNKNOWN:
            assert signal == "expired", case
        # What the source says is revoked now is never good after it.
        if signal in ("row", "release", "issued") and new is not None and new.at(NOW) is CertStatus.REVOKED:
            assert is_ is CertStatus.REVOKED, case
        # Deciding again changes nothing: a try that was cut off may be repeated.
        if after is not None and new is not None and decision.refused is None:
            again = decide(after, new, signal=signal, now=NOW)
            assert again.kind is None or again.refused is Refused.NOT_A_HOLD, (case, again)


# --- the write path -------------------------------------------------------------------------------------------------------


def status_of(store: Store, octets: bytes) -> str | None:
    return store.find_status(CA, octets)


def test_rows_are_applied_and_counted(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    a, b, c, d = serials(4, seed=3)
    put(store, {a: GOOD, b: REVOKED, c: HOLD})
    rows = [(a, REVOKED), (b, GOOD), (c, GOOD), (d, GOOD)]
    report = apply(store, CA, rows, signal="row", now=NOW)
    assert report.changes == {"revoked": 1, "new": 1}
    assert report.refused == {Refused.PERMANENT: 1, Refused.HOLD_NOT_RELEASED: 1}
    assert sorted(report.refusals) == sorted([(b, Refused.PERMANENT), (c, Refused.HOLD_NOT_RELEASED)])
    assert (report.rows, report.unchanged, report.changed) == (4, 2, 2)
    assert [status_of(store, octets) for octets in (a, b, c, d)] == [REVOKED, REVOKED, HOLD, GOOD]
    report = apply(store, CA, [(c, GOOD)], signal="release", now=NOW)
    assert report.changes == {"released": 1}
    assert status_of(store, c) == GOOD
    before = everything(client)
    assert apply(store, CA, [(c, GOOD)], signal="release", now=NOW).unchanged == 1
    assert apply(store, CA, [], signal="row", now=NOW).rows == 0
    assert everything(client) == before


@pytest.mark.parametrize(
    ("old", "new", "due"),
    [
        (GOOD, REVOKED, layout.DUE_REVOKED),
        (None, REVOKED, layout.DUE_REVOKED),
        (HOLD, GOOD, layout.DUE_REVOKED),
        (None, GOOD, NOW),
        (GOOD, GOOD.replace("2030", "2031"), NOW),
        (GOOD, revoked(AHEAD).to_text(), NOW),
        (REVOKED, REVOKED.replace("keyCompromise", "superseded"), layout.DUE_REVOKED),
    ],
)
def test_when_a_change_is_to_be_signed(each_redis: RedisServer, old: str | None, new: str, due: float) -> None:
    """DESIGN §7: revocations first. What is dated ahead is signed anew at once: its good answer must end sooner."""
    store, client = open_ca(each_redis), each_redis.client()
    (one,) = serials(1)
    if old is not None:
        put(store, {one: old})
    place = store.locate(CA, [one])[0]
    apply(store, CA, [(one, new)], signal="release", now=NOW)
    assert client.zscore(NAMES.due(place.bucket & 15), layout.due_member(CA, place.bucket)) == due


def test_the_operator_revokes_and_it_stands(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    known, unknown = serials(2)
    put(store, {known: GOOD})
    outcome = revoke(store, CA, known, CRLReason.KEY_COMPROMISE, NOW, now=NOW)
    assert (outcome.kind, outcome.refused) == ("revoked", None)
    text = f"{revoked(NOW).to_text()} by=operator".replace("2030-03-17T17:46:40Z", "2030-12-31T23:59:59Z")
    assert status_of(store, known) == text
    assert outcome.status == Status.from_text(text)
    # A later good row of the source never undoes it.
    assert apply(store, CA, [(known, GOOD)], signal="release", now=NOW).refused == {Refused.OPERATOR: 1}
    assert status_of(store, known) == text
    again = revoke(store, CA, known, None, NOW + 5, now=NOW + 5)
    assert (again.kind, again.refused, again.status) == (None, None, outcome.status)
    # Nor is it lost for a serial that nobody knows yet; its notAfter is learnt from the source.
    assert revoke(store, CA, unknown, CRLReason.UNSPECIFIED, NOW, now=NOW).kind == "revoked"
    assert status_of(store, unknown) == "revoked 2027-01-15T08:00:00Z by=operator"
    apply(store, CA, [(unknown, GOOD)], signal="row", now=NOW)
    assert status_of(store, unknown) == "revoked 2027-01-15T08:00:00Z exp=2030-12-31T23:59:59Z by=operator"
    with pytest.raises(OperatorError, match="removeFromCRL"):
        revoke(store, CA, known, CRLReason.REMOVE_FROM_CRL, NOW, now=NOW)


def test_the_operator_holds_and_releases(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    one, two = serials(2)
    put(store, {one: GOOD, two: REVOKED})
    revoke(store, CA, one, CRLReason.CERTIFICATE_HOLD, NOW, now=NOW)
    apply(store, CA, [(one, GOOD)], signal="release", now=NOW)
    assert "certificateHold" in (status_of(store, one) or "")
    assert release(store, CA, one, now=NOW).kind == "released"
    assert status_of(store, one) == GOOD
    assert release(store, CA, two, now=NOW).refused is Refused.NOT_A_HOLD
    assert status_of(store, two) == REVOKED


def test_the_operator_revokes_before_the_first_load(each_redis: RedisServer) -> None:
    store = each_redis.store()
    with pytest.raises(OperatorError, match="not in Redis yet"):
        revoke(store, CA, b"\x01", None, NOW, now=NOW)
    store.ensure_ca(CA, name="corp", subject="", certificate=b"")
    assert revoke(store, CA, b"\x01", None, NOW, now=NOW).kind == "revoked"
    assert status_of(store, b"\x01") == "revoked 2027-01-15T08:00:00Z by=operator"


def test_a_bucket_that_has_grown_is_split(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    mine = serials(16 * layout.BUCKET_SPLIT_ABOVE + 2_000)
    for start in range(0, len(mine), 500):
        apply(store, CA, [(octets, GOOD) for octets in mine[start : start + 500]], signal="row", now=NOW)
    buckets = store.bucket_map(CA, 4)
    assert not buckets.missing
    assert buckets.bits == 5
    info = store.ca_info(CA)
    assert info is not None
    assert info.bits == 5
    sizes = [len(bucket.entries) for bucket in store.read_status_buckets(CA, list(buckets.buckets))]
    assert sum(sizes) == len(mine)
    assert max(sizes) <= layout.BUCKET_SPLIT_ABOVE + 60


def test_a_conflict_is_decided_again(each_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody commits between our reading and our writing: what stands then counts."""
    store, other = open_ca(each_redis), each_redis.store()
    (one,) = serials(1)
    put(store, {one: HOLD})
    real, interrupted = store.locate, []

    def locate(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        if not interrupted:
            interrupted.append(True)
            put(other, {one: REVOKED}, "revoked")
        return found

    monkeypatch.setattr(store, "locate", locate)
    report = apply(store, CA, [(one, GOOD)], signal="release", now=NOW)
    assert (report.conflicts, report.changes, report.refused) == (1, {}, {Refused.PERMANENT: 1})
    assert status_of(other, one) == REVOKED


def test_endless_conflicts_end(each_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_ca(each_redis)

    def commit_many(commits: object) -> Iterator[Committed | CommitConflict]:
        return (CommitConflict("always") for _ in commits)  # type: ignore[attr-defined]

    monkeypatch.setattr(store, "commit_many", commit_many)
    with pytest.raises(StoreUnavailable, match=f"conflict {revocation.MAX_TRIES} times"):
        apply(store, CA, [(b"\x01", GOOD)], signal="row", now=NOW)


def test_concurrent_writers_never_lose_a_revocation(each_redis: RedisServer) -> None:
    """Loaders that say good, the operator that revokes, another loader that revokes: each revoked serial stays so."""
    setup = open_ca(each_redis)
    mine = serials(60)
    put(setup, dict.fromkeys(mine, GOOD))
    acknowledged: set[bytes] = set()
    stop = threading.Event()
    errors: list[BaseException] = []

    def say_good(seed: int) -> None:
        chance = random.Random(seed)
        with each_redis.store() as store:
            while not stop.is_set():
                rows = {octets: GOOD.replace("2030", str(2030 + seed)) for octets in chance.sample(mine, 20)}
                apply(store, CA, rows.items(), signal="release", now=NOW)

    def revoke_all(step: int) -> None:
        with each_redis.store() as store:
            for octets in mine[::step]:
                if step == 2:
                    revoke(store, CA, octets, CRLReason.KEY_COMPROMISE, NOW, now=NOW)
                else:
                    apply(store, CA, [(octets, REVOKED)], signal="row", now=NOW)
                acknowledged.add(octets)

    def split() -> None:
        with each_redis.store() as store:
            for bits in range(4, 7):
                for number in range(1 << bits):
                    while True:
                        try:
                            store.split_bucket(CA, store.read_status_bucket(CA, number))
                            break
                        except CommitConflict:
                            continue

    def guarded(work: object, *arguments: int) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    talkers = [threading.Thread(target=guarded, args=(say_good, seed)) for seed in (1, 2)]
    revokers = [threading.Thread(target=guarded, args=(revoke_all, step)) for step in (2, 3)]
    splitter = threading.Thread(target=guarded, args=(split,))
    for thread in (*talkers, *revokers, splitter):
        thread.start()
    for thread in (*revokers, splitter):
        thread.join()
    stop.set()
    for thread in talkers:
        thread.join()
    assert not errors
    assert acknowledged == {*mine[::2], *mine[::3]}
    for octets, place in zip(mine, setup.locate(CA, mine), strict=True):
        assert (place.text or "").startswith("revoked" if octets in acknowledged else "good")


# --- a model ----------------------------------------------------------------------------------------------------------------

SERIALS = serials(12, seed=11)
STATUSES = [status for status in every_status() if not status.by_operator]


class Model(RuleBasedStateMachine):
    """Random signals on a real Redis against a plain dict of statuses."""

    version = "7"

    def __init__(self) -> None:
        super().__init__()
        self.server = _SERVERS.setdefault(self.version, None) or start_redis(self.version)
        _SERVERS[self.version] = self.server
        self.server.client().flushall()
        self.store = open_ca(self.server)
        self.statuses: dict[bytes, Status] = {}

    @initialize()
    def begin(self) -> None:
        self.now = NOW

    @rule(
        rows=st.dictionaries(st.sampled_from(SERIALS), st.sampled_from(STATUSES), min_size=1, max_size=6),
        signal=st.sampled_from(["row", "release", "issued"]),
    )
    def source_says(self, rows: dict[bytes, Status], signal: Signal) -> None:
        texts = [(octets, status.to_text()) for octets, status in rows.items()]
        report = apply(self.store, CA, texts, signal=signal, now=self.now)
        expected = [self.take(octets, status, signal) for octets, status in rows.items()]
        assert report.changed == sum(decision.kind is not None for decision in expected)

    @rule(serial=st.sampled_from(SERIALS), reason=st.sampled_from(list(CRLReason)), offset=st.integers(-200, 200))
    def operator_revokes(self, serial: bytes, reason: CRLReason, offset: int) -> None:
        if reason is CRLReason.REMOVE_FROM_CRL:
            return
        at = self.now + offset
        revoke(self.store, CA, serial, reason, at, now=self.now)
        kept = None if reason is CRLReason.UNSPECIFIED else reason
        self.take(serial, Status(CertStatus.REVOKED, None, at, kept, by_operator=True), "operator")

    @rule(serial=st.sampled_from(SERIALS))
    def operator_releases(self, serial: bytes) -> None:
        release(self.store, CA, serial, now=self.now)
        self.take(serial, Status(CertStatus.GOOD), "operator")

    @rule(serial=st.sampled_from(SERIALS), signal=st.sampled_from(["vanished", "expired"]))
    def row_is_gone(self, serial: bytes, signal: Signal) -> None:
        apply(self.store, CA, [(serial, "")], signal=signal, now=self.now)
        self.take(serial, None, signal)

    @rule(seconds=st.integers(1, 150))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 31))
    def bucket_is_split(self, number: int) -> None:
        buckets = self.store.bucket_map(CA, 4)
        if buckets.buckets.get(number, 9) < 8:
            self.store.split_bucket(CA, self.store.read_status_bucket(CA, number))

    def take(self, octets: bytes, new: Status | None, signal: Signal) -> Decision:
        old = self.statuses.get(octets)
        decision = decide(old, new, signal=signal, now=self.now)
        if decision.kind is not None:
            if decision.status is None:
                del self.statuses[octets]
            else:
                self.statuses[octets] = decision.status
        return decision

    @invariant()
    def store_and_model_agree(self) -> None:
        expected = {octets: status.to_text() for octets, status in self.statuses.items()}
        places = self.store.locate(CA, SERIALS)
        assert {o: p.text for o, p in zip(SERIALS, places, strict=True) if p.text} == expected
        client = self.server.client()
        index: dict[str, str] = {}
        for octets in SERIALS:
            value = client.hget(NAMES.revoked(CA, serial_hash(octets)), octets.hex())
            if value is not None:
                index[octets.hex()] = value.decode()
        assert index == {o.hex(): text for o, text in expected.items() if text.startswith("revoked")}
        for partition, end in self.store.journal_ends().items():
            numbers = [entry.number for entry in self.store.read_journal({partition: 0})]
            assert numbers == list(range(1, end + 1))

    def teardown(self) -> None:
        self.store.close()


_SERVERS: dict[str, RedisServer | None] = {}


@pytest.fixture(scope="module", autouse=True)
def model_servers() -> Iterator[None]:
    """End the servers of the model's many runs."""
    yield
    for server in _SERVERS.values():
        if server is not None:
            server.stop()
    _SERVERS.clear()


class Model62(Model):
    """The same on Redis 6.2."""

    version = "6.2"


MODEL_SETTINGS = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestModel = Model.TestCase
TestModel.settings = MODEL_SETTINGS
TestModel62 = Model62.TestCase
TestModel62.settings = MODEL_SETTINGS


def test_a_change_needs_what_was_read(each_redis: RedisServer) -> None:
    """The compare-and-set itself, without the retry around it."""
    store = open_ca(each_redis)
    (one,) = serials(1)
    put(store, {one: GOOD})
    place = store.locate(CA, [one])[0]
    store.commit(CA, place.bucket, place.bits, [Change(one, GOOD, REVOKED, "revoked")], 0)
    with pytest.raises(CommitConflict):
        store.commit(CA, place.bucket, place.bits, [Change(one, GOOD, GOOD, "changed")], 0)
