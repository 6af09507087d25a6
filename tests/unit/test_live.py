"""Live questions: their encoding, and how the presigning role answers them on a real Redis."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from responder import live
from responder.clock import ManualClock, format_utc
from responder.errors import SignerUnavailable
from responder.live import Question, Reply, ReplyKind
from responder.model import serial_to_octets
from responder.signing import drafts
from responder.signing import live as live_signing
from responder.signing.clock_guard import ClockGuard
from responder.signing.desk import put_desk
from responder.signing.live import LiveSigner
from tests.signing_room import DAY_S, GOOD, Room

RoomMaker = Callable[..., Room]
NONCE = b"\x04\x20" + bytes(range(32))
CA = "00112233445566ff"

# --- encoding ---------------------------------------------------------------------------------------------------------

octets = st.binary(min_size=1, max_size=live.MAX_SERIAL_OCTETS)
questions = st.builds(
    Question,
    id=st.integers(0, 2**32 - 1),
    ca=st.binary(min_size=8, max_size=8).map(bytes.hex),
    hash_name=st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
    serials=st.lists(octets, min_size=1, max_size=20).map(tuple),
    nonce_octets=st.none() | st.binary(min_size=1, max_size=live.MAX_NONCE_EXTN_VALUE),
)
replies = st.builds(
    Reply,
    id=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(ReplyKind),
    response_der=st.binary(max_size=300),
    this_update=st.integers(0, 2**40),
    next_update=st.integers(0, 2**40),
    store_hint=st.booleans(),
)


@given(st.lists(questions, max_size=20))
def test_questions_come_back_as_they_went(asked: list[Question]) -> None:
    fields = live.encode_ask("worker-1.x_Y", 1_795_000_000_123, asked)
    ask = live.decode_ask(fields)
    assert (ask.worker, ask.sent_ms, ask.questions) == ("worker-1.x_Y", 1_795_000_000_123, asked)


@given(st.lists(replies, max_size=20))
def test_replies_come_back_as_they_went(given_back: list[Reply]) -> None:
    assert live.decode_replies(live.encode_replies(given_back)) == given_back


@given(st.lists(questions, min_size=1, max_size=3), st.data())
def test_damaged_questions_are_refused_or_bounded(asked: list[Question], data: st.DataObject) -> None:
    encoded = bytearray(live.encode_questions(asked))
    at = data.draw(st.integers(0, len(encoded) - 1))
    if data.draw(st.booleans()):
        encoded[at] = data.draw(st.integers(0, 255))
    else:
        del encoded[at:]
    try:
        found = live.decode_questions(bytes(encoded))
    except ValueError:
        return
    for one in found:
        assert 1 <= len(one.serials) <= live.MAX_SERIALS
        assert one.nonce_octets is None or len(one.nonce_octets) <= live.MAX_NONCE_EXTN_VALUE


@given(st.lists(replies, min_size=1, max_size=3), st.data())
def test_damaged_replies_are_refused(given_back: list[Reply], data: st.DataObject) -> None:
    encoded = bytearray(live.encode_replies(given_back)[live.FIELD_REPLIES])
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        live.decode_replies({live.FIELD_REPLIES: bytes(encoded)})
    except ValueError:
        return


@pytest.mark.parametrize(
    ("worker", "sent", "encoded"),
    [
        (b"", b"1", b"\x01"),
        (b"x" * 65, b"1", b"\x01"),
        (b"..:journal}", b"1", b"\x01"),
        (b"w\n", b"1", b"\x01"),
        (b"w", b"-1", b"\x01"),
        (b"w", b"", b"\x01"),
        (b"w", b"1", b""),
        (b"w", b"1", b"\x02"),
    ],
)
def test_malformed_asks(worker: bytes, sent: bytes, encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        live.decode_ask({live.FIELD_WORKER: worker, live.FIELD_SENT: sent, live.FIELD_QUESTIONS: encoded})


def test_what_is_out_of_bounds_is_not_encoded() -> None:
    one = Question(1, CA, "sha1", (b"\x01",))
    with pytest.raises(ValueError, match="questions"):
        live.encode_questions([one] * (live.MAX_QUESTIONS + 1))
    for bad in (
        Question(1, CA, "sha1", ()),
        Question(1, CA, "sha1", (b"",)),
        Question(1, CA, "sha1", (b"\x01",) * (live.MAX_SERIALS + 1)),
        Question(1, CA, "sha1", (b"\x01",), bytes(live.MAX_NONCE_EXTN_VALUE + 1)),
        Question(1, CA, "md5", (b"\x01",)),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            live.encode_questions([bad])
    with pytest.raises(ValueError, match="worker"):
        live.encode_ask("a:b", 1, [one])


# --- answering --------------------------------------------------------------------------------------------------------


class Asker:
    """A worker, as far as the presigning role sees one."""

    def __init__(self, room: Room, live_signer: LiveSigner, worker: str = "w1") -> None:
        self.room = room
        self.live = live_signer
        self.worker = worker
        self.store = room.new_store()
        self.last = b"0"
        self.next_id = 1

    def send(self, *asked: tuple[str, list[int], bytes | None], age_s: float = 0.0, ca: str | None = None) -> None:
        """Put questions (hash, serials, nonce) on the stream as Redis would have at the test's time."""
        made = []
        for hash_name, serials, nonce in asked:
            made.append(
                Question(
                    self.next_id,
                    ca or self.room.issuer.id,
                    hash_name,
                    tuple(serial_to_octets(serial) for serial in serials),
                    nonce,
                )
            )
            self.next_id += 1
        at_ms = int((self.room.clock.now() - age_s) * 1000)
        fields = live.encode_ask(self.worker, at_ms, made)
        # The entry's id is Redis's clock; the test's clock stands in for it.
        self.room.server.client().xadd(self.store.layout.ask(), fields, id=f"{at_ms}-*")

    def receive(self) -> list[Reply]:
        client, key = self.room.server.client(), self.store.layout.replies(self.worker)
        entries = client.xrange(key, b"(" + self.last)
        if entries:
            self.last = entries[-1][0]
        return [reply for _, fields in entries for reply in live.decode_replies(fields)]

    def ask(self, hash_name: str, serials: list[int], nonce: bytes | None = None) -> Reply:
        self.send((hash_name, serials, nonce))
        self.live.poll()
        (reply,) = self.receive()
        assert reply.id == self.next_id - 1
        return reply

    def answer(self, hash_name: str, serials: list[int], nonce: bytes | None = None) -> ocsp.OCSPResponse:
        reply = self.ask(hash_name, serials, nonce)
        assert reply.kind is ReplyKind.ANSWER
        return self.room.read(reply.response_der)


@pytest.fixture
def asker(room: Room) -> Asker:
    return Asker(room, room.live())


def revoked(at: float, reason: str = "keyCompromise", *words: str) -> str:
    return " ".join(["revoked", format_utc(at), reason, "exp=2049-12-31T23:59:59Z", *words])


def nonce_of(answer: ocsp.OCSPResponse) -> bytes | None:
    for extension in answer.extensions:
        if extension.oid.dotted_string == "1.3.6.1.5.5.7.48.1.2":
            return extension.value.public_bytes()  # type: ignore[no-any-return]
    return None


def singles_of(reply: Reply) -> list[tuple[int, str]]:
    """Return (serial, CertStatus) of each SingleResponse."""
    response = asn1_ocsp.OCSPResponse.load(reply.response_der, strict=True)
    data = response["response_bytes"]["response"].parsed["tbs_response_data"]
    return [(one["cert_id"]["serial_number"].native, one["cert_status"].name) for one in data["responses"]]


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
def test_a_nonce_is_echoed_and_its_answer_never_stored(room: Room, asker: Asker) -> None:
    """NON-03, NON-06: extnValue byte for byte, and for nobody but who asked."""
    room.load({1: GOOD})
    for nonce in (NONCE, b"\x04\x01\x00", b"\x04\x81\x80" + bytes(128)):
        reply = asker.ask("sha1", [1], nonce)
        answer = room.read(reply.response_der)
        assert nonce_of(answer) == nonce
        assert not reply.store_hint
    assert room.stored(1) is None
    for alternate in range(10):
        mine = b"\x04\x10" + os.urandom(16) if alternate % 2 else None
        assert nonce_of(asker.answer("sha1", [1], mine)) == mine


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_an_ordinary_question_is_answered_and_stored(room: Room, asker: Asker, hash_name: str) -> None:
    room.load({1: GOOD, 2: revoked(room.clock.now() - 9)}, as_of=room.clock.now() - 30)
    reply = asker.ask(hash_name, [2])
    answer = room.read(reply.response_der)
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.issuer_key_hash == room.ca.issuer_key_hash(hash_name)
    now = int(room.clock.now())
    assert (reply.this_update, reply.next_update) == (now - 30, now - 30 + 4 * DAY_S)
    assert answer.this_update_utc.timestamp() == now - 30
    assert answer.produced_at_utc.timestamp() == now
    assert reply.store_hint
    stored = room.stored(2, hash_name)
    assert stored is not None
    assert stored.signature == answer.signature, "the very answer that was given"
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.sha256_asked == now) is (hash_name == "sha256")
    # The presigner has one less to sign.
    made = room.presigner().run_until_idle()
    assert made == (1 if hash_name == "sha1" else 3)


def test_the_same_question_asked_often_is_signed_once(room: Room, asker: Asker) -> None:
    room.load({1: GOOD})
    other = Asker(room, asker.live, "w2")
    asker.send(("sha1", [1], None), ("sha1", [1], None), ("sha1", [1], NONCE))
    other.send(("sha1", [1], None))
    while asker.live.poll() or asker.live._queue:
        pass
    mine, others = asker.receive(), other.receive()
    assert [reply.id for reply in mine] == [1, 2, 3]
    assert len(others) == 1
    assert mine[0].response_der == mine[1].response_der == others[0].response_der != mine[2].response_der
    assert room.key.count == 2


@pytest.mark.parametrize("hash_name", ["sha384", "sha512"])
def test_other_hash_algorithms_are_never_stored(room: Room, asker: Asker, hash_name: str) -> None:
    room.load({1: GOOD})
    reply = asker.ask(hash_name, [1])
    assert reply.kind is ReplyKind.ANSWER
    assert not reply.store_hint
    assert room.read(reply.response_der).issuer_key_hash == room.ca.issuer_key_hash(hash_name)
    assert room.server.client().keys("*answers*") == []


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
def test_several_cert_ids_are_all_answered(room: Room, asker: Asker) -> None:
    """REQ-04: a request with several CertIDs of one CA gets a SingleResponse for each."""
    room.load({1: GOOD, 2: revoked(room.clock.now() - 9), 3: "good exp=" + format_utc(room.clock.now() - 40 * DAY_S)})
    reply = asker.ask("sha1", [2, 1, 77, 1, 3], NONCE)
    assert singles_of(reply) == [(2, "revoked"), (1, "good"), (77, "unknown"), (1, "good"), (3, "unknown")]
    assert not reply.store_hint
    assert asker.ask("sha1", [1, 2]).store_hint is False
    assert room.server.client().keys("*answers*") == []
    assert asker.ask("sha1", [77, 78]).kind is ReplyKind.UNAUTHORIZED


@pytest.mark.clause("RFC 9919", "3.2.3", "MUST")
def test_an_unassigned_serial_is_unauthorized(room: Room, asker: Asker) -> None:
    """STS-05: no record, no signed answer; the same past the retention (ERR-05)."""
    room.load({1: GOOD, 2: "good exp=" + format_utc(room.clock.now() - 31 * DAY_S)})
    assert asker.ask("sha1", [77]).kind is ReplyKind.UNAUTHORIZED
    assert asker.ask("sha1", [2], NONCE).kind is ReplyKind.UNAUTHORIZED
    assert room.key.count == 0


def test_unassigned_is_unknown(make_room: RoomMaker) -> None:
    room = make_room(ocsp_options='unassigned = "unknown"')
    asker = Asker(room, room.live())
    room.load({1: GOOD, 2: "good exp=" + format_utc(room.clock.now() - 31 * DAY_S)})
    reply = asker.ask("sha1", [77])
    assert room.read(reply.response_der).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    assert reply.next_update == int(room.clock.now()) + 900
    assert not reply.store_hint
    assert asker.ask("sha1", [2]).kind is ReplyKind.UNAUTHORIZED, "issued, and past its retention"
    assert room.server.client().keys("*answers*") == []


@pytest.mark.clause("RFC 6960", "4.4.8", "MUST")
def test_unassigned_is_revoked(make_room: RoomMaker) -> None:
    """STS-03, EXT-08: certificateHold since 1970-01-01, and the extension in responseExtensions."""
    room = make_room(ocsp_options='unassigned = "revoked"')
    asker = Asker(room, room.live())
    room.load({1: GOOD})
    answer = asker.answer("sha1", [77], NONCE)
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_time_utc is not None
    assert answer.revocation_time_utc.timestamp() == 0
    assert answer.revocation_reason is not None
    assert answer.revocation_reason.value == "certificateHold"
    assert bytes.fromhex("180f31393730303130313030303030305a") in answer.tbs_response_bytes
    assert {extension.oid.dotted_string for extension in answer.extensions} == {
        "1.3.6.1.5.5.7.48.1.2",
        "1.3.6.1.5.5.7.48.1.9",
    }
    assert len(answer.single_extensions) == 0
    assert len(asker.answer("sha1", [1]).extensions) == 0, "not with an assigned one"


def test_a_status_that_changes_while_it_is_signed(room: Room, asker: Asker) -> None:
    """Promise 1: the answer is dropped, and not stored either."""
    room.load({1: GOOD, 2: GOOD})
    room.key.on_sign = lambda: room.change(1, revoked(room.clock.now()))
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER
    room.key.on_sign = lambda: room.change(2, revoked(room.clock.now()))
    assert asker.ask("sha1", [1, 2], NONCE).kind is ReplyKind.TRY_LATER
    room.key.on_sign = lambda: None
    assert room.stored(1) is None
    assert asker.answer("sha1", [1]).certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_an_override(room: Room, asker: Asker) -> None:
    """STS-07: from the first moment on, also for serials on no list, and while it is being signed."""
    room.load({1: GOOD})
    text = f"revoked {format_utc(room.clock.now() - 60)} cACompromise"
    room.key.on_sign = lambda: room.store.set_override(room.issuer.id, text)
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER
    room.key.on_sign = lambda: None
    for serial in (1, 77):
        answer = asker.answer("sha1", [serial])
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert answer.revocation_reason is not None
        assert answer.revocation_reason.value == "cACompromise"
    assert room.stored(1) is not None


def test_what_cannot_be_said_is_try_later(room: Room, asker: Asker) -> None:
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER, "never loaded"
    room.load({1: GOOD}, as_of=room.clock.now() - 4 * DAY_S)
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER, "the source is too old"
    room.set_as_of(room.clock.now() + 10)
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER, "the source is of the future"
    room.set_as_of()

    def fail() -> None:
        raise SignerUnavailable("the token is gone")

    room.key.on_sign = fail
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER
    room.key.on_sign = lambda: None
    room.clock.advance(31)
    assert asker.ask("sha1", [1]).kind is ReplyKind.ANSWER
    room.server.client().delete(room.store.layout.status(room.issuer.id, room.bucket_of(1)))
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER, (
        "Redis has lost the bucket: never unauthorized, never good"
    )
    asker.send(("sha1", [1], None), ca=CA)
    asker.live.poll()
    assert asker.receive()[0].kind is ReplyKind.TRY_LATER, "another presigner's CA"


def test_a_wrong_clock_answers_nothing(room: Room) -> None:
    redis_clock = ManualClock(room.clock.now() + 60)
    asker = Asker(room, room.live(guard=ClockGuard(room.clock, redis_clock.now)))
    room.load({1: GOOD})
    assert asker.ask("sha1", [1]).kind is ReplyKind.TRY_LATER
    assert room.key.count == 0


@pytest.mark.clause("RFC 6960", "2.3", "MAY")
def test_old_questions_are_dropped(room: Room, asker: Asker) -> None:
    """ERR-03: bounded in time: whoever asked has been told tryLater by its worker long ago."""
    room.load({1: GOOD})
    before = REGISTRY.get_sample_value("revocast_live_replies_total", {"outcome": "too_old"}) or 0
    asker.send(("sha1", [1], NONCE), age_s=2.5)
    asker.send(("sha1", [1], NONCE), age_s=1.5)
    asker.live.poll()
    assert [reply.id for reply in asker.receive()] == [2]
    assert REGISTRY.get_sample_value("revocast_live_replies_total", {"outcome": "too_old"}) == before + 1
    # One that waits here too long is dropped as well.
    asker.send(*[("sha1", [1], NONCE)] * 900)
    asker.live.poll()
    assert (REGISTRY.get_sample_value("revocast_live_queue") or 0) > 0
    assert 0 < len(asker.receive()) < 900
    room.clock.advance(3)
    while asker.live._queue:
        asker.live.poll()
    assert asker.receive() == []


def test_nobody_waits_behind_questions_that_are_void(room: Room, asker: Asker) -> None:
    """A presigner that comes back after a pause finds many of them."""
    room.load({1: GOOD})
    asker.send(*[("sha1", [1], NONCE)] * 900, age_s=2.5)
    asker.send(("sha1", [1], NONCE))
    asker.live.poll()
    assert [reply.kind for reply in asker.receive()] == [ReplyKind.ANSWER]


def test_the_queue_is_bounded_and_the_rest_stays_in_the_stream(
    room: Room, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SEC-01: however many workers ask; what is left is dropped when it is old."""
    monkeypatch.setattr(live_signing, "QUEUE_MOST", 10)
    monkeypatch.setattr(live_signing, "READ_ENTRIES", 2)
    room.load({1: GOOD})
    for _ in range(9):
        asker.send(*[("sha1", [1], NONCE)] * 20)
    stream, taken = room.store.layout.ask(), 0
    while asker.live.poll() or asker.live._queue:
        left = room.server.client().xlen(stream)
        assert 9 - left - taken <= 4, "two entries at a time, and two more in the first poll"
        assert len(asker.live._queue) <= 9 + 2 * 20
        taken = 9 - left
    assert taken == 9
    assert len(asker.receive()) == 180


def test_a_slice_grows_to_what_the_key_signs_in_its_time(room: Room, asker: Asker) -> None:
    """A key of which little is known gets little to sign; afterwards ready answers' bounds decide, not the first guess."""
    room.load({1: GOOD})
    room.key.on_sign = lambda: room.clock.advance(0.0001)
    asker.send(*[("sha1", [1], NONCE)] * 300)
    made = [asker.live.poll() for _ in range(4)]
    assert made[0] == live_signing.FIRST_SLICE
    assert made[-1] > 60
    room.key.on_sign = lambda: room.clock.advance(0.2)  # a slice, whatever it holds
    asker.send(*[("sha1", [1], NONCE)] * 300)
    made = [asker.live.poll()]
    asker.send(*[("sha1", [1], NONCE)] * 300)
    made += [asker.live.poll() for _ in range(2)]
    assert made[0] > made[1] > made[2] == 1


def test_of_several_presigners_one_answers_each_question(room: Room, asker: Asker) -> None:
    room.load(dict.fromkeys(range(1, 200), GOOD))
    other = Asker(room, room.live())
    for first in range(1, 200, 5):
        asker.send(*[("sha1", [serial], NONCE) for serial in range(first, first + 5) if serial < 200])
    while asker.live.poll() or other.live.poll() or asker.live._queue or other.live._queue:
        pass
    replies = asker.receive()
    assert sorted(reply.id for reply in replies) == list(range(1, 200))
    assert {reply.kind for reply in replies} == {ReplyKind.ANSWER}
    assert room.key.count == 199


def test_a_slice_costs_two_trips_whatever_it_holds(room: Room, asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statuses before are read with the replies to the slice before; statuses after with the taking of what is next."""
    room.load(dict.fromkeys(range(1, 200), GOOD))
    asker.ask("sha1", [1], NONCE)  # scripts, clock and the key's pace are known from here on
    trips: list[int] = []
    link = asker.live._store._link
    real = link.send_packed

    def counted(packed: bytes, count: int) -> Any:
        trips.append(count)
        return real(packed, count)

    link.send_packed = counted  # type: ignore[method-assign]
    asker.send(*[("sha1", [serial], NONCE) for serial in range(1, 4)])
    asker.live.poll()
    assert trips == [1, 4, 5, 2], "take; look; look and take; reply and take"
    assert len(asker.receive()) == 3
    monkeypatch.setattr(live_signing, "MOST_IN_SLICE", 2)
    asker.live._slice = 2
    asker.send(*[("sha1", [serial], NONCE) for serial in range(1, 7)])
    del trips[:]
    for _ in range(3):
        asker.live.poll()
    assert trips == [1, 3, *[4, 4], *[4, 4], *[4, 2]], "from the second slice on: look and take; reply and look"
    assert len(asker.receive()) == 6


def test_a_new_signer_answers_what_waited_for_the_old_one(
    room: Room, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEL-04: questions that were picked before the desk was replaced, and the old key closed, get the new one's answers."""
    room.load(dict.fromkeys(range(1, 9), GOOD))
    monkeypatch.setattr(live_signing, "MOST_IN_SLICE", 2)
    asker.live._slice = 2
    asker.send(*[("sha1", [serial], NONCE) for serial in range(1, 5)])
    asker.live.poll()
    old = room.signer
    room.take_up_signer()
    put_desk(asker.live._desks, room.store, room.issuer, room.signer, room.clock)  # type: ignore[arg-type]
    old.close()
    asker.live.poll()
    assert [reply.kind for reply in asker.receive()] == [ReplyKind.ANSWER] * 4
    assert room.key.count == 2, "the new one's key has signed what waited"


def test_what_a_captured_worker_may_write(room: Room, asker: Asker) -> None:
    room.load({1: GOOD})
    client, key = room.server.client(), room.store.layout.ask()
    for number, fields in enumerate(
        [
            {"x": "y"},
            {"worker": "../..", "sent": "1", "questions": b"\x01"},
            {"worker": "w1", "sent": "1", "questions": b"\x01" + b"\xff" * 40},
            live.encode_ask("w1", 1, [Question(9, room.issuer.id, "sha1", (b"\x00\x00\x01",))]),
            live.encode_ask("w1", 1, [Question(8, room.issuer.id, "sha1", (b"\x01",), b"\x04\x00")]),
        ]
    ):
        client.xadd(key, fields, id=f"{int(room.clock.now() * 1000)}-{number + 1}")
    asker.live.poll()
    asker.live.poll()
    assert {reply.id: reply.kind for reply in asker.receive()} == {
        9: ReplyKind.UNAUTHORIZED,
        8: ReplyKind.TRY_LATER,
    }
    assert asker.ask("sha1", [1]).kind is ReplyKind.ANSWER


def test_a_bucket_without_a_free_header_is_signed_afresh(room: Room, asker: Asker) -> None:
    serials = list(range(1, 400))
    room.load(dict.fromkeys(serials, GOOD))
    here = [serial for serial in serials if room.bucket_of(serial) == room.bucket_of(1)]
    assert len(here) > 17
    for serial in here[:17]:
        assert asker.ask("sha1", [serial]).kind is ReplyKind.ANSWER
        room.clock.advance(1)
    assert room.stored(here[15]) is not None
    assert room.stored(here[16]) is None
    assert room.store.due_counts(1.0) == (1, 0), "asked for"
    room.presigner().run_until_idle()
    assert len(room.all_stored(here)) == len(here)


def test_questions_are_answered_between_slices_of_the_presigner(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 300), GOOD))
    answered: list[Reply] = []

    presigner = room.presigner()
    asker = Asker(room, room.live(presigner))
    room.key.on_sign = lambda: room.clock.advance(0.001)
    asker.send(("sha1", [5], NONCE))
    presigner.turn()
    assert not presigner.is_idle
    asker.live.poll()
    answered = asker.receive()
    assert [reply.kind for reply in answered] == [ReplyKind.ANSWER]
    presigner.give_back()


# --- the usual question -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ocsp_options", ["", 'archive_cutoff = "none"'])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256", "sha384"])
def test_the_usual_question_is_drafted_as_any_other(
    make_room: RoomMaker, monkeypatch: pytest.MonkeyPatch, ocsp_options: str, hash_name: str
) -> None:
    """One certificate and a nonce: every status, times, cutoff and refusal octet for octet as the general way."""
    room = make_room(ocsp_options=ocsp_options)
    room.load({1: GOOD})
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    (desk,) = room.presigner().desks.values()
    now = room.clock.now()
    moment = desk.moment(now, info)
    assert moment is not None
    texts = [
        GOOD,
        f"good exp={format_utc(now + 60)}",
        f"good exp={format_utc(now - 60)}",
        f"good exp={format_utc(now - 9_000 * DAY_S)}",
        revoked(now - 90),
        revoked(now - 90, "unspecified"),
        revoked(now + 90),
        revoked(now - 90, "removeFromCRL"),
        "rubbish",
    ]
    for text in texts:
        for serial in (b"\x01", b"\x00" + b"\x80" * 20):
            for nonce in (NONCE, b"\x04\x01x", b"\x04\x81\x80" + bytes(128), b"raw", b"\x04\x00"):
                one = drafts.Waiting("w1", Question(1, room.issuer.id, hash_name, (serial,), nonce), 0.0)
                both = []
                for usual in (drafts.draft_usual, lambda *_: None):
                    with monkeypatch.context() as patched:
                        patched.setattr(drafts, "draft_usual", usual)
                        both.append(drafts.draft_answer(desk, moment, 0, one, [text], 3))
                assert both[0] == both[1], (text, nonce)
                quick = drafts.draft_usual(desk, moment, 0, one, [text], text, nonce, 3)
                assert (quick is None) == isinstance(both[0], ReplyKind)
