"""fastpath.live_wire against the plain Python of tests/reference: the same values, the same refusals, and never a crash."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import live_wire
from fastpath.live_wire import Question, Reply, ReplyKind, check_answer
from fastpath.ocsp_response import (
    EXTENDED_REVOKE_DER,
    ResponseTemplate,
    encode_cert_id,
    encode_response_extension_nonce,
    encode_single_response,
)
from tests.reference import live_wire as reference
from tests.reference.live_check import check_live_answer as reference_check

octets = st.binary(min_size=1, max_size=live_wire.MAX_SERIAL_OCTETS)
question_fields = st.tuples(
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
    st.lists(octets, min_size=1, max_size=9).map(tuple),
    st.none() | st.binary(min_size=1, max_size=live_wire.MAX_NONCE_EXTN_VALUE),
)
reply_fields = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(ReplyKind),
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)


def fields(one: Any, names: str) -> list[Any]:
    return [getattr(one, name) for name in names.split()]


def outcome(call: Any, data: bytes, names: str) -> Any:
    """Return the fields of what a decoder makes of octets; None where it refuses them."""
    try:
        return [fields(one, names) for one in call(data)]
    except ValueError:
        return None
    except (TypeError, IndexError, KeyError) as error:
        raise AssertionError("refused otherwise than by ValueError") from error


QUESTION = "id ca hash_name serials nonce_octets"
REPLY = "id kind response_der this_update next_update store_hint"


def reference_replies(data: bytes) -> Any:
    try:
        return reference.decode_replies({reference.FIELD_REPLIES: data})
    except reference.struct.error as error:
        raise ValueError from error


@given(st.lists(question_fields, max_size=9))
def test_questions_are_the_same_octets(made: list[Any]) -> None:
    encoded = live_wire.encode_questions(Question(*one) for one in made)
    assert encoded == reference.encode_questions([reference.Question(*one) for one in made])
    assert outcome(live_wire.decode_questions, encoded, QUESTION) == [list(one) for one in made]


@given(st.lists(reply_fields, max_size=9))
def test_replies_are_the_same_octets(made: list[Any]) -> None:
    encoded = live_wire.encode_replies(Reply(*one) for one in made)
    assert encoded == reference.encode_replies([reference.Reply(*one) for one in made])[reference.FIELD_REPLIES]
    assert outcome(live_wire.decode_replies, encoded, REPLY) == [list(one) for one in made]


def damage(encoded: bytes, data: st.DataObject) -> bytes:
    """Change, cut or lengthen octets somewhere."""
    at = data.draw(st.integers(0, len(encoded)))
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            return encoded[:at] + data.draw(st.binary(min_size=1, max_size=4)) + encoded[at + 1 :]
        case "cut":
            return encoded[:at]
        case _:
            return encoded[:at] + data.draw(st.binary(max_size=9)) + encoded[at:]


@given(st.lists(question_fields, min_size=1, max_size=3), st.data())
def test_damaged_questions_are_read_or_refused_alike(made: list[Any], data: st.DataObject) -> None:
    damaged = damage(live_wire.encode_questions(Question(*one) for one in made), data)
    ours = outcome(live_wire.decode_questions, damaged, QUESTION)
    assert ours == outcome(reference.decode_questions, damaged, QUESTION)


@given(st.lists(reply_fields, min_size=1, max_size=3), st.data())
def test_damaged_replies_are_read_or_refused_alike(made: list[Any], data: st.DataObject) -> None:
    damaged = damage(live_wire.encode_replies(Reply(*one) for one in made), data)
    assert outcome(live_wire.decode_replies, damaged, REPLY) == outcome(reference_replies, damaged, REPLY)


@given(st.binary(max_size=100))
def test_any_octets_are_read_or_refused_alike(data: bytes) -> None:
    for start in (b"", b"\x01"):
        octets_given = start + data
        ours = outcome(live_wire.decode_questions, octets_given, QUESTION)
        assert ours == outcome(reference.decode_questions, octets_given, QUESTION)
        assert outcome(live_wire.decode_replies, octets_given, REPLY) == outcome(reference_replies, octets_given, REPLY)


def test_too_many_questions_are_refused() -> None:
    encoded = live_wire.encode_questions([Question(1, "00" * 8, "sha1", (b"\x01",))] * live_wire.MAX_QUESTIONS)
    assert len(live_wire.decode_questions(encoded)) == live_wire.MAX_QUESTIONS
    with pytest.raises(ValueError, match="more than"):
        live_wire.decode_questions(encoded + encoded[1:])


def test_values_cannot_be_changed_and_are_compared_by_what_they_hold() -> None:
    one, same = (Question(1, "00" * 8, "sha1", (b"\x01",)) for _ in range(2))
    assert one == same
    assert one != Question(2, "00" * 8, "sha1", (b"\x01",))
    assert one != (1,)
    with pytest.raises(AttributeError):
        one.id = 2
    assert Reply(1, ReplyKind.TRY_LATER) == Reply(1, ReplyKind.TRY_LATER) != Reply(1, ReplyKind.UNAUTHORIZED)
    for bad in (Question(2**32, "00" * 8, "sha1", (b"\x01",)), Question(1, "zz" * 8, "sha1", (b"\x01",))):
        with pytest.raises(ValueError, match=r"\w"):
            live_wire.encode_questions([bad])


# --- the worker's last look -------------------------------------------------------------------------------------------

TEMPLATE = ResponseTemplate(bytes(20), bytes.fromhex("300a06082a8648ce3d040302"), ())
NONCES = (None, b"\x04\x01\x00", b"\x04\x20" + bytes(range(32)), b"\x04\x81\x80" + bytes(128))


def cert_id(serial: bytes) -> bytes:
    return encode_cert_id("sha1", bytes(20), bytes(20), serial)


def answer(serials: list[bytes], statuses: list[int], nonce: bytes | None, extensions: tuple[bytes, ...] = ()) -> bytes:
    singles = [
        encode_single_response(cert_id(serial), status, 1_000 if status == 1 else 0, -1, 2_000, 3_000, -1)
        for serial, status in zip(serials, statuses, strict=True)
    ]
    extra = list(extensions)
    if nonce is not None:
        extra.append(encode_response_extension_nonce(nonce))
    return TEMPLATE.response(TEMPLATE.tbs_response_data(singles, 2_500, extra), b"\x30\x06\x02\x01\x01\x02\x01\x01")


answers = st.lists(
    st.tuples(st.sampled_from([b"\x01", b"\x02", b"\x7f" * 20]), st.integers(0, 2)), min_size=1, max_size=4
)


@given(answers, st.sampled_from(NONCES), st.booleans())
def test_a_fitting_answer_is_let_through(made: list[tuple[bytes, int]], nonce: bytes | None, extended: bool) -> None:
    serials, statuses = [one[0] for one in made], [one[1] for one in made]
    response = answer(serials, statuses, nonce, (EXTENDED_REVOKE_DER,) if extended else ())
    cert_ids = [cert_id(serial) for serial in serials]
    assert check_answer(cert_ids, nonce, response) == reference_check(cert_ids, nonce, response)
    assert check_answer(cert_ids, nonce, response) == (0 if 0 in statuses else statuses[0])
    for other in NONCES:
        if other != nonce:
            with pytest.raises(ValueError, match="nonce"):
                check_answer(cert_ids, other, response)
    with pytest.raises(ValueError, match="CertID"):
        check_answer([*cert_ids[:-1], cert_id(b"\x03")], nonce, response)


@given(answers, st.sampled_from(NONCES), st.data())
def test_a_damaged_answer_is_never_let_through_where_the_reference_refuses_it(
    made: list[tuple[bytes, int]], nonce: bytes | None, data: st.DataObject
) -> None:
    serials, statuses = [one[0] for one in made], [one[1] for one in made]
    damaged = damage(answer(serials, statuses, nonce), data)
    cert_ids = [cert_id(serial) for serial in serials]
    try:
        found = check_answer(cert_ids, nonce, damaged)
    except ValueError:
        return  # it is the stricter of the two
    assert found == reference_check(cert_ids, nonce, damaged)


def test_two_nonces_are_refused() -> None:
    nonce = NONCES[1]
    assert nonce is not None
    twice = answer([b"\x01"], [0], nonce, (encode_response_extension_nonce(nonce),))
    with pytest.raises(ValueError, match="nonce"):
        check_answer([cert_id(b"\x01")], nonce, twice)
