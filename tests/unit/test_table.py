"""The worker's memory: bounded, least used first out, and everything goes that the journal could mean."""

from __future__ import annotations

import random

import pytest

from responder.http.message import Response
from responder.model import CertStatus
from responder.ocsp.answer import Answer
from responder.ocsp.table import ENTRY_OVERHEAD_BYTES, AbsentTable, AnswerTable, could_hold
from responder.store.layout import MIN_BITS, bucket_number, partition_of, serial_hash

CA, OTHER_CA = "aa" * 8, "bb" * 8


def answer(key: bytes, size: int = 100) -> Answer:
    return Answer(key, CertStatus.GOOD, 2**31, Response(200, bytes(size)))


def filled(serials: list[bytes], max_bytes: int = 10**9) -> AnswerTable:
    table = AnswerTable(max_bytes)
    for serial in serials:
        for ca in (CA, OTHER_CA):
            table.put(ca.encode() + serial, answer(serial), ca, serial_hash(serial))
    return table


_RANDOM = random.Random(7)
SERIALS = [_RANDOM.randbytes(16) for _ in range(600)]


@pytest.mark.parametrize("bits", [MIN_BITS, 5, 9, 11, 12, 13, 16, 20])
def test_a_named_bucket_takes_all_that_could_lie_in_it_at_any_bits(bits: int) -> None:
    for bucket in {bucket_number(serial_hash(serial), bits) for serial in SERIALS[:5]}:
        table = filled(SERIALS)
        expected = [s for s in SERIALS if could_hold(bucket, serial_hash(s))]
        assert {s for s in SERIALS if bucket_number(serial_hash(s), bits) == bucket} <= set(expected)
        assert table.drop_bucket(CA, bucket) == len(expected) > 0
        for serial in SERIALS:
            assert (table.get(CA.encode() + serial) is None) == (serial in expected)
            assert table.get(OTHER_CA.encode() + serial) is not None


def test_could_hold_covers_every_deeper_and_shallower_bucket_of_that_number() -> None:
    for serial in SERIALS[:200]:
        for bits in range(MIN_BITS, 25):
            assert could_hold(bucket_number(serial_hash(serial), bits), serial_hash(serial))
    assert not could_hold(0x1234, 0x0234)


def test_a_partition_goes_whole_for_all_cas() -> None:
    table = filled(SERIALS)
    expected = [s for s in SERIALS if partition_of(serial_hash(s)) == 3]
    assert table.drop_partition(3) == 2 * len(expected)
    assert all((table.get(CA.encode() + s) is None) == (s in expected) for s in SERIALS)


def test_clear_forgets_everything_and_its_bytes() -> None:
    table = filled(SERIALS[:10])
    assert table.clear() == 20
    assert len(table) == 0
    assert table.used_bytes == 0
    assert table.drop_bucket(CA, 0) == 0


def test_the_least_used_goes_first_when_the_budget_is_full() -> None:
    each = 2 * 100 + 2 * 18 + ENTRY_OVERHEAD_BYTES
    table = AnswerTable(3 * each)
    keys = [b"%018d" % n for n in range(4)]
    for key in keys[:3]:
        table.put(key, answer(key), CA, serial_hash(key))
    assert table.used_bytes == 3 * each
    assert table.get(keys[0]) is not None  # used just now, so the second is the oldest
    table.put(keys[3], answer(keys[3]), CA, serial_hash(keys[3]))
    assert [key for key in keys if table.get(key) is None] == [keys[1]]
    assert table.used_bytes == 3 * each


def test_putting_again_replaces_and_an_entry_above_the_budget_is_not_kept() -> None:
    table = AnswerTable(3000)
    table.put(b"k", answer(b"old"), CA, 5)
    table.put(b"k", answer(b"new"), CA, 5)
    kept = table.get(b"k")
    assert kept is not None
    assert kept.cert_id_der == b"new"
    assert len(table) == 1
    table.put(b"big", answer(b"big", 5000), CA, 5)
    assert table.get(b"big") is None
    assert table.get(b"k") is not None


def test_absent_serials_have_a_budget_of_their_own() -> None:
    absent = AbsentTable(100_000)
    for number in range(10_000):
        serial = number.to_bytes(4, "big")
        absent.put(CA, serial, serial_hash(serial))
    assert absent.used_bytes <= 100_000
    assert 0 < len(absent) < 300
    last = (9_999).to_bytes(4, "big")
    assert absent.get((CA, last))
    assert absent.get((OTHER_CA, last)) is None
    absent.drop_bucket(CA, bucket_number(serial_hash(last), 20))
    assert absent.get((CA, last)) is None
