"""The packed commands of a miss are what any Redis client would send."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.redis_commands import pack_answer_reads, pack_answer_writes
from responder.store.edge_store import _begin


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40), st.binary(max_size=600))
def test_two_commands_as_a_client_packs_them(status_key: bytes, answers_key: bytes, serial: bytes) -> None:
    status = _begin(4, b"HMGET", status_key, b".bits")
    answers = _begin(4, b"HMGET", answers_key, b"\x00.0")
    expected = hiredis.pack_command(("HMGET", status_key, b".bits", serial.hex()))
    expected += hiredis.pack_command(("HMGET", answers_key, b"\x00.0", serial))
    assert pack_answer_reads(status, answers, serial) == expected


@pytest.mark.parametrize("size", [0, 1, 4, 5, 49, 50, 499, 500, 999, 1_000, 4_999])
def test_lengths_of_any_number_of_digits(size: int) -> None:
    packed = pack_answer_reads(b"", b"", bytes(size))
    assert packed == b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (2 * size, b"0" * 2 * size, size, bytes(size))


def test_a_serial_beyond_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4999"):
        pack_answer_reads(b"", b"", bytes(5_000))


@given(st.lists(st.tuples(st.binary(max_size=40), st.text(max_size=40), st.binary(max_size=5_000)), max_size=20))
def test_answers_as_a_client_packs_them(answers: list[tuple[bytes, str, bytes]]) -> None:
    flat = [part for serial, text, packed in answers for part in (serial, serial.hex(), text, packed)]
    expected = hiredis.pack_command(tuple(flat))
    assert b"*%d\r\n" % len(flat) + pack_answer_writes(answers) == expected


@pytest.mark.parametrize("answer", [(b"1", "good", "1"), (1, "good", b"1"), (b"1", b"good", b"1"), (b"1", "good")])
def test_what_is_no_answer_is_refused(answer: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        pack_answer_writes([answer])  # type: ignore[list-item]
