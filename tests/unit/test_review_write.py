"""What must not stop the write side, nor undo a revocation: bad rows, lost buckets, clocks that were wrong for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from responder.clock import format_utc
from responder.errors import OperatorError, StoreDamaged, StoreUnavailable
from responder.live import Question, ReplyKind, decode_replies, encode_ask
from responder.model import CertStatus, CRLReason, Status, serial_to_octets
from responder.revocation import decide, revoke
from responder.signing.presigner import MISSING_RECHECK_S
from responder.store.layout import DUE_REVOKED, bucket_number, serial_hash
from tests.loader_room import NOW, LoaderRoom, good, revoked
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

NONCE = bytes.fromhex("0410") + bytes(16)


def test_half_of_a_split_bucket_that_is_lost_is_told_and_not_looked_for_for_ever(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 200), GOOD))
    ca = room.issuer.id
    parent, child = room.store.split_bucket(ca, room.store.read_status_bucket(ca, 3))
    room.store.grow(ca, 5)
    room.server.client().delete(room.store.layout.status(ca, child))
    lost = next(o for o in map(serial_to_octets, range(1, 200)) if bucket_number(serial_hash(o), 5) == child)
    found: list[object] = []

    def look() -> None:
        try:
            found.append(room.store.locate(ca, [lost]))
        except StoreUnavailable as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(5)
    assert [type(one) for one in found] == [StoreDamaged]
    assert parent == 3


def test_a_lost_bucket_does_not_keep_the_others_from_being_signed(room: Room) -> None:
    """With nothing else claimed beside it, a bucket that Redis has lost is put off like one among many."""
    room.load(dict.fromkeys(range(1, 50), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    bucket = room.bucket_of(7)
    room.server.client().delete(room.store.layout.status(room.issuer.id, bucket))
    room.store.make_due(room.issuer.id, bucket, DUE_REVOKED)
    assert presigner.run_once() == 0
    assert room.store.due_at(room.issuer.id, bucket) == room.clock.now() + MISSING_RECHECK_S


def test_a_time_that_no_answer_can_say_costs_its_own_bucket_alone(room: Room) -> None:
    texts = dict.fromkeys(range(1, 50), GOOD)
    room.load(texts | {7: "revoked 1960-01-01T00:00:00Z"})
    made = room.presigner().run_until_idle()
    others = [serial for serial in texts if room.bucket_of(serial) != room.bucket_of(7)]
    assert set(room.all_stored(others)) == set(others)
    assert made >= len(others)


def test_a_status_that_is_none_does_not_end_the_live_signer(room: Room) -> None:
    room.load({1: GOOD, 2: "nonsense"})
    live = room.live()
    questions = [Question(serial, room.issuer.id, "sha1", (serial_to_octets(serial),), NONCE) for serial in (1, 2)]
    client, at_ms = room.server.client(), int(room.clock.now() * 1000)
    client.xadd(room.store.layout.ask(), encode_ask("w1", at_ms, questions), id=f"{at_ms}-*")
    while live.poll(None) or live._queue:
        pass
    entries = client.xrange(room.store.layout.replies("w1"))
    kinds = {reply.id: reply.kind for _, fields in entries for reply in decode_replies(fields)}
    assert kinds == {1: ReplyKind.ANSWER, 2: ReplyKind.TRY_LATER}


def test_the_operator_cannot_revoke_as_of_a_time_that_no_answer_can_say(room: Room) -> None:
    room.load({1: GOOD})
    with pytest.raises(OperatorError, match="1970"):
        revoke(room.store, room.issuer.id, b"\x01", None, -1, now=room.clock.now())


@pytest.mark.clause("RFC 5280", "5.3.1", "MUST")
def test_remove_from_crl_undoes_no_permanent_revocation() -> None:
    """A removeFromCRL row releases a hold, and nothing else."""
    old = Status(CertStatus.REVOKED, revoked_at=NOW - 10, reason=CRLReason.KEY_COMPROMISE)
    gone = Status(CertStatus.REVOKED, revoked_at=NOW - 10, reason=CRLReason.REMOVE_FROM_CRL)
    decision = decide(old, gone, signal="row", now=NOW)
    assert decision.status is None
    assert decision.refused is not None
    held = Status(CertStatus.REVOKED, revoked_at=NOW - 10, reason=CRLReason.CERTIFICATE_HOLD)
    assert decide(held, gone, signal="row", now=NOW).kind is None
    released = decide(held, gone, signal="release", now=NOW)
    assert released.kind == "released"
    assert released.status == Status(CertStatus.GOOD)


@pytest.fixture
def loads(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> LoaderRoom:
    return LoaderRoom(tmp_path, redis_server())


def test_an_expiry_that_was_wrong_for_a_while_undoes_no_revocation(loads: LoaderRoom) -> None:
    """A good row long expired does not purge a revocation that has not expired, to be good again afterwards."""
    loads.load(revoked("07", "keyCompromise"), good("08"))
    loads.load(good("07", "20010101000000Z"), good("08"))
    loads.load(good("07"), good("08"))
    assert loads.statuses()["07"].startswith("revoked ")


def test_an_as_of_from_a_clock_that_ran_ahead_does_not_last(loads: LoaderRoom) -> None:
    """thisUpdate never goes back, but for an as_of that lies ahead: nothing would be signed until its time."""
    loads.load(good("07"))
    loads.store.set_as_of(loads.issuer.id, loads.store.time() + 86_400)
    before = loads.clock.now()
    loads.load(good("07"), good("08"))
    assert format_utc(before) <= format_utc(loads.as_of() or 0) <= format_utc(loads.clock.now())
