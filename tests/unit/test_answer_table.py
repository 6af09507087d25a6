"""The worker's memory: byte for byte what was put last, in bounded octets, and gone when the journal could mean it.

A plain dict is the model: the table may forget what it likes, but must never say anything else than the model.
"""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath.answer_table import MAX_TABLE_BYTES, AbsentTable, AnswerTable, AnswerTerms, TableAnswer
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, assemble, encode_cert_id, pack_answer
from responder.store.layout import MAX_BITS, MIN_BITS, PARTITIONS, bucket_number, could_hold, partition_of, serial_hash
from tests.pki import SIGNATURE_ALGORITHM_DER

ROOT = Path(__file__).parents[2]
CA, OTHER_CA, THIRD_CA = CAS = ("aa" * 8, "bb" * 8, "cc" * 8)
HASH_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
THIS_UPDATE, NEXT_UPDATE = 1_795_000_000, 1_795_345_600
LEAST_BYTES = 140_000  # a record may have 64 KiB, and there is room for one more while it moves
LAST_EPOCHS = 2**32 - 2  # a group's epoch begins anew when a bucket is named for the second time
TEMPLATE = ResponseTemplate(bytes(20), SIGNATURE_ALGORITHM_DER["p256"], ())


def make_terms(this_update: int = THIS_UPDATE, archive_cutoff: int = -1, *, whole: bool = False) -> AnswerTerms:
    """Make terms that are told apart by their thisUpdate."""
    header = AnswerHeader(this_update, NEXT_UPDATE, this_update, "0123456789abcdef", archive_cutoff)
    made_of = () if whole else (TEMPLATE, header)
    return AnswerTerms(
        this_update, NEXT_UPDATE, this_update + 1_000, 500, b"Last-Modified: %d\r\n" % this_update, b"Expires: x\r\n", *made_of
    )  # fmt: skip


def cert_id_of(hash_name: str, serial: bytes) -> bytes:
    size = HASH_SIZES[hash_name]
    return encode_cert_id(hash_name, bytes(size), bytes(size), serial)


def random_serials(count: int, seed: int, size: int = 16) -> list[bytes]:
    chance = random.Random(seed)
    return [b"\x11" + chance.randbytes(size - 1) for _ in range(count)]


TERMS = make_terms()
SIGNATURE = random.Random(1).randbytes(71)
PACKED = pack_answer(3, 0, 0, -1, False, SIGNATURE)


def put(table: AnswerTable, serial: bytes, ca: str = CA, terms: AnswerTerms = TERMS, packed: bytes = PACKED) -> None:
    """Put an answer of a P-256 signer's size."""
    table.put(ca, "sha1", serial, serial_hash(serial), terms, packed, bytes(32))


def get(table: AnswerTable, serial: bytes, ca: str = CA) -> TableAnswer | None:
    return table.get(ca, "sha1", serial, cert_id_of("sha1", serial))


def filled(serials: list[bytes], max_bytes: int = 10_000_000) -> AnswerTable:
    """Make a table that has the serials of two CAs."""
    table = AnswerTable(max_bytes, CAS)
    for serial in serials:
        put(table, serial)
        put(table, serial, OTHER_CA)
    return table


# --- against a plain dict -------------------------------------------------------------------------------------------

# Every length that a request may have; each serial is the beginning of the next.
_BASES = [bytes([0x11 + n]) + random.Random(n).randbytes(20) for n in range(8)]
SERIALS = [base[:size] for base in _BASES for size in range(1, 22)]
KEYS = [(ca, hash_name, serial) for ca in CAS for hash_name in HASH_SIZES for serial in SERIALS]
PACKED_TERMS = [make_terms(THIS_UPDATE + n, archive_cutoff=1_700_000_000) for n in range(3)]
WHOLE_TERMS = [make_terms(THIS_UPDATE + 10 + n, whole=True) for n in range(2)]

Key = tuple[str, str, bytes]


def both_cert_ids(serial: bytes) -> tuple[bytes, bytes]:
    return cert_id_of("sha1", serial), cert_id_of("sha256", serial)


@dataclass
class Put:
    """What was put, as ``get`` has to give it back; ``is_dual``: for SHA-256 too."""

    cert_status: int
    terms: AnswerTerms
    etag_digest: bytes
    response_der: bytes
    is_dual: bool = False


class Model:
    """An AnswerTable beside a dict; every step compares them."""

    def __init__(self, max_bytes: int, first_epoch: int) -> None:
        self.table = AnswerTable(max_bytes, CAS, first_epoch=first_epoch)
        self.kept: dict[Key, Put] = {}  # all that may still be found
        self.named: set[Key] = set()  # all that the index may still name: journal entries are noticed late
        self.last: Key | None = None  # put, and nothing was dropped since: it must be there
        self.evicted = self.found = self.found_by_the_other = 0

    def put(self, key: Key, chance: random.Random, size: int) -> None:
        """Put an answer of ``size`` octets or a few more, packed or whole, dual or not."""
        ca, hash_name, serial = key
        is_dual = hash_name in ("sha1", "sha256") and chance.random() < 0.4
        etag_digest = chance.randbytes(32)
        cert_status = chance.randrange(3)
        if chance.random() < 0.7:
            terms = chance.choice(PACKED_TERMS)
            packed = pack_answer(
                chance.randrange(16), cert_status, chance.randrange(2**31), chance.choice([-1, 1, 10]),
                chance.random() < 0.5, chance.randbytes(size), is_dual,
            )  # fmt: skip
            self.table.put(ca, hash_name, serial, serial_hash(serial), terms, packed, etag_digest)
            cert_ids = both_cert_ids(serial) if is_dual else (cert_id_of(hash_name, serial),)
            response_der = assemble(terms.template, terms.header, cert_ids[0], packed, *cert_ids[1:])  # type: ignore[attr-defined]
        else:
            terms = chance.choice(WHOLE_TERMS)
            response_der = chance.randbytes(size)
            self.table.put_whole(
                ca, hash_name, serial, serial_hash(serial), terms, cert_status, response_der, etag_digest, is_dual
            )
        if is_dual:
            key = (ca, "sha1", serial)
            self.kept.pop((ca, "sha256", serial), None)
            self.named.discard((ca, "sha256", serial))
        self.kept[key] = Put(cert_status, terms, etag_digest, response_der, is_dual)
        self.named.add(key)
        self.last = key

    def get(self, key: Key) -> None:
        """Ask: what was put, or nothing; and nothing ever after."""
        ca, hash_name, serial = key
        found = self.table.get(ca, hash_name, serial, cert_id_of(hash_name, serial), both_cert_ids)
        # What was put for SHA-256 alone is found before a dual answer, as long as it is there.
        for one in self._answering(key):
            expected = self.kept.get(one)
            if found is not None and expected is not None and found.etag_digest == expected.etag_digest:
                seen = Put(found.cert_status, found.terms, found.etag_digest, found.response_der, expected.is_dual)
                assert seen == expected
                assert found.terms is expected.terms
                self.found += 1
                self.found_by_the_other += one != key
                return
            assert one != self.last, "the newest answer is gone"
            self.evicted += expected is not None
            self._gone(one)
        assert found is None, "an answer that was dropped, or never put"

    def _answering(self, key: Key) -> list[Key]:
        dual = (key[0], "sha1", key[2])
        return [key, dual] if key[1] == "sha256" and dual in self.kept and self.kept[dual].is_dual else [key]

    def _gone(self, key: Key) -> None:
        self.kept.pop(key, None)
        self.named.discard(key)
        self.last = None if key == self.last else self.last

    def drop(self, key: Key) -> None:
        self.table.drop(*key)
        for one in self._answering(key):
            self._gone(one)

    def drop_bucket(self, ca: str, bucket: int) -> None:
        self.table.drop_bucket(ca, bucket)
        self._forget({key for key in self.kept if key[0] == ca and could_hold(bucket, serial_hash(key[2]))})

    def drop_partition(self, partition: int) -> None:
        self.table.drop_partition(partition)
        self._forget({key for key in self.kept if partition_of(serial_hash(key[2])) == partition})

    def clear(self) -> None:
        self.table.clear()
        self._forget(set(self.kept))

    def _forget(self, keys: set[Key]) -> None:
        for key in keys:
            del self.kept[key]
        self.last = None  # it may have gone with the others

    def check_bounds(self) -> None:
        assert 0 <= len(self.table) <= len(self.named)
        assert 0 <= self.table.used_bytes <= self.table.max_bytes

    def check_all(self) -> None:
        """Ask for every key there is."""
        for key in KEYS:
            self.get(key)
        assert len(self.table) == len(self.named) == len(self.kept)


def random_size(chance: random.Random) -> int:
    """Mostly as answers are; a few fill the ring by themselves, so that it wraps at any place."""
    return chance.choice([chance.randint(1, 400)] * 60 + [chance.randint(1, 5_000)] * 4 + [chance.randint(1, 60_000)])


@pytest.mark.parametrize("first_epoch", [0, LAST_EPOCHS])
@pytest.mark.parametrize("max_bytes", [LEAST_BYTES, 200_001, 800_000])
@pytest.mark.parametrize("seed", range(3))
def test_long_random_runs_against_a_dict(max_bytes: int, first_epoch: int, seed: int) -> None:
    """Thousands of loads, questions, journal entries and evictions; the ring wraps all the time."""
    chance = random.Random(seed)
    model = Model(max_bytes, first_epoch)
    hot = chance.sample(KEYS, 60)
    for _ in range(10_000):
        key = chance.choice(hot if chance.random() < 0.3 else KEYS)
        what = chance.random()
        if what < 0.5:
            model.put(key, chance, random_size(chance))
            if chance.random() < 0.5:
                model.get(key)
        elif what < 0.95:
            model.get(key)
        elif what < 0.98:
            model.drop(key)
        elif what < 0.998:
            bits = chance.randint(MIN_BITS, MAX_BITS)
            model.drop_bucket(key[0], bucket_number(serial_hash(chance.choice(SERIALS)), bits))
        elif what < 0.9995:
            model.drop_partition(chance.randrange(PARTITIONS))
        else:
            model.clear()
        model.check_bounds()
    assert model.found > 500
    assert model.found_by_the_other > 30
    assert model.evicted > 100 or max_bytes > LEAST_BYTES
    model.check_all()


class Machine(RuleBasedStateMachine):
    """The same, with hypothesis to make a failure small."""

    @initialize(max_bytes=st.sampled_from([LEAST_BYTES, 160_000]), first_epoch=st.sampled_from([0, LAST_EPOCHS]))
    def begin(self, max_bytes: int, first_epoch: int) -> None:
        self.model = Model(max_bytes, first_epoch)

    @rule(key=st.sampled_from(KEYS), seed=st.integers(0, 1_000), size=st.integers(1, 400) | st.integers(1, 60_000))
    def put(self, key: Key, seed: int, size: int) -> None:
        self.model.put(key, random.Random(seed), size)

    @rule(seed=st.integers(0, 1_000), count=st.integers(1, 600))
    def put_many(self, seed: int, count: int) -> None:
        chance = random.Random(seed)
        for key in chance.sample(KEYS, count):
            self.model.put(key, chance, chance.randint(1, 400))

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: Key) -> None:
        self.model.get(key)

    @rule(seed=st.integers(0, 1_000), count=st.integers(1, 600))
    def get_many(self, seed: int, count: int) -> None:
        for key in random.Random(seed).sample(KEYS, count):
            self.model.get(key)

    @rule()
    def get_newest(self) -> None:
        if self.model.last is not None:
            self.model.get(self.model.last)

    @rule(key=st.sampled_from(KEYS))
    def drop(self, key: Key) -> None:
        self.model.drop(key)

    @rule(
        ca=st.sampled_from(CAS),
        serial=st.sampled_from(SERIALS).map(serial_hash) | st.integers(0, 2**32 - 1),
        bits=st.integers(MIN_BITS, MAX_BITS),
    )
    def drop_bucket(self, ca: str, serial: int, bits: int) -> None:
        self.model.drop_bucket(ca, bucket_number(serial, bits))

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def drop_partition(self, partition: int) -> None:
        self.model.drop_partition(partition)

    @rule()
    def clear(self) -> None:
        self.model.clear()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "model"):
            self.model.check_bounds()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.check_all()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- the journal ----------------------------------------------------------------------------------------------------

UNIFORM = random_serials(600, seed=7)


@pytest.mark.parametrize("first_epoch", [0, LAST_EPOCHS])
@pytest.mark.parametrize("max_bytes", [LEAST_BYTES, 10_000_000])
@pytest.mark.parametrize("bits", [MIN_BITS, 5, 9, 11, 12, 13, 16, 20, MAX_BITS])
def test_a_named_bucket_takes_all_that_could_lie_in_it_at_any_bits(bits: int, max_bytes: int, first_epoch: int) -> None:
    """Promise 1: an entry names a bucket's number and not its bits."""
    for bucket in {bucket_number(serial_hash(serial), bits) for serial in UNIFORM[:20]}:
        table = AnswerTable(max_bytes, CAS, first_epoch=first_epoch)
        for serial in UNIFORM[:100]:
            put(table, serial)
        expected = {serial for serial in UNIFORM[:100] if could_hold(bucket, serial_hash(serial))}
        in_it = {serial for serial in UNIFORM[:100] if bucket_number(serial_hash(serial), bits) == bucket}
        assert in_it <= expected
        table.drop_bucket(CA, bucket)
        assert expected <= {serial for serial in UNIFORM[:100] if get(table, serial) is None}


@pytest.mark.parametrize("bits", [4, 8, 12, 16, 20, MAX_BITS])
def test_a_named_bucket_takes_few_others(bits: int) -> None:
    """A table for a million entries: one CA's news costs the others next to nothing."""
    table = AnswerTable(200_000_000, CAS)
    serials = random_serials(8_000, seed=11)
    for serial in serials:
        put(table, serial)
        put(table, serial, OTHER_CA)
    top = 1 << (bits - 1)
    bucket = next(h for serial in serials if (h := bucket_number(serial_hash(serial), bits)) & top)
    table.drop_bucket(CA, bucket)
    related = {serial for serial in serials if could_hold(bucket, serial_hash(serial))}
    assert related <= {serial for serial in serials if get(table, serial) is None}
    own = sum(get(table, serial) is None for serial in serials if serial not in related)
    others = sum(get(table, serial, OTHER_CA) is None for serial in serials)
    assert own <= 0.001 * len(serials)
    # At four bits a sixteenth of a CA is named, and as much of another may share its groups.
    assert others <= (0.08 if bits == 4 else 0.01) * len(serials)


def test_a_bucket_of_an_unknown_ca_is_nobodys() -> None:
    """The store may hold a CA that this configuration does not name."""
    table = filled(UNIFORM[:50])
    table.drop_bucket("dd" * 8, bucket_number(serial_hash(UNIFORM[0]), 4))
    assert all(get(table, serial, ca) for serial in UNIFORM[:50] for ca in (CA, OTHER_CA))


@pytest.mark.parametrize("first_epoch", [0, LAST_EPOCHS])
def test_a_partition_goes_whole_for_all_cas(first_epoch: int) -> None:
    """A gap in a journal: nothing of that partition may be believed."""
    for max_bytes in (LEAST_BYTES, 10_000_000):
        table = AnswerTable(max_bytes, CAS, first_epoch=first_epoch)
        for serial in UNIFORM[:200]:
            put(table, serial)
            put(table, serial, OTHER_CA)
        gone = {serial for serial in UNIFORM[:200] if partition_of(serial_hash(serial)) == 3}
        table.drop_partition(3)
        for serial in UNIFORM[:200]:
            for ca in (CA, OTHER_CA):
                assert (get(table, serial, ca) is None) == (serial in gone)


@pytest.mark.parametrize("first_epoch", [0, LAST_EPOCHS])
def test_clear_forgets_everything_each_time(first_epoch: int) -> None:
    """Another Redis: nothing may be believed. Three times, so that every epoch has wrapped."""
    table = AnswerTable(LEAST_BYTES, CAS, first_epoch=first_epoch)
    for _ in range(3):
        for serial in UNIFORM[:100]:
            put(table, serial)
        assert all(get(table, serial) for serial in UNIFORM[:100])
        table.clear()
        assert not any(get(table, serial) for serial in UNIFORM[:100])
        assert len(table) == 0


def test_what_the_journal_ended_takes_no_room_from_the_living() -> None:
    """However much it was asked for: it is not written again when the ring comes around."""
    table = AnswerTable(400_000, CAS)
    for serial in random_serials(3_000, seed=21):
        put(table, serial)
        get(table, serial)
    full = len(table)
    table.clear()
    fresh = random_serials(full - 1, seed=22)
    for serial in fresh:
        put(table, serial)
    assert all(get(table, serial) for serial in fresh)


def test_what_is_put_after_the_entry_stays() -> None:
    """A fresh answer of a bucket that was named is found, and the next entry ends it too."""
    table = AnswerTable(LEAST_BYTES, CAS, first_epoch=LAST_EPOCHS)
    bucket = bucket_number(serial_hash(UNIFORM[0]), 12)
    for _ in range(5):
        put(table, UNIFORM[0])
        assert get(table, UNIFORM[0])
        table.drop_bucket(CA, bucket)
        assert get(table, UNIFORM[0]) is None


# --- what stays and what goes ---------------------------------------------------------------------------------------


def test_what_was_put_last_stays() -> None:
    """Without questions the ring is first in, first out: the newest answers are all there, the oldest are gone."""
    table = AnswerTable(400_000, CAS)
    serials = random_serials(10_000, seed=3)
    for serial in serials:
        put(table, serial)
    there = [get(table, serial) is not None for serial in serials]
    kept = sum(there)
    assert kept == len(table) > 2_000
    assert there == [False] * (len(serials) - kept) + [True] * kept


def test_what_is_asked_for_stays_through_any_number_of_strangers() -> None:
    """Scan resistance: what was asked for once goes through once, and pushes out nothing that is wanted."""
    table = AnswerTable(1_000_000, CAS)
    hot, strangers = random_serials(1_000, seed=1), random_serials(60_000, seed=2)
    for serial, stranger in zip(hot, random_serials(1_000, seed=3), strict=True):
        put(table, serial)
        put(table, stranger)
    for number, serial in enumerate(strangers):
        if number % 2 == 0:  # all of them in 2000 steps; the ring has room for about 5000 strangers
            assert get(table, hot[number // 2 % len(hot)]) is not None
        put(table, serial)
    assert all(get(table, serial) for serial in hot)
    assert not any(get(table, serial) for serial in strangers[:-6_000])


def test_hot_ones_that_lie_side_by_side_stay_but_for_a_few() -> None:
    """What a put may move is bounded: of a long run of wanted records it takes one now and then."""
    table = AnswerTable(1_000_000, CAS)
    hot = random_serials(1_000, seed=1)
    for serial in hot:
        put(table, serial)
    missed = 0
    for number, serial in enumerate(random_serials(60_000, seed=2)):
        if number % 2 == 0:
            wanted = hot[number // 2 % len(hot)]
            if get(table, wanted) is None:
                missed += 1
                put(table, wanted)
        put(table, serial)
    assert missed < 30_000 // 100  # of that many questions
    assert sum(get(table, serial) is not None for serial in hot) > 970


def test_what_is_no_longer_asked_for_goes() -> None:
    """Having been wanted once is no right to stay."""
    table = AnswerTable(1_000_000, CAS)
    hot = random_serials(1_000, seed=1)
    for serial in hot:
        put(table, serial)
        assert get(table, serial)
    for serial in random_serials(30_000, seed=2):
        put(table, serial)
    assert not any(get(table, serial) for serial in hot)


def test_an_answer_that_came_again_counts_as_asked_for() -> None:
    """A hot answer is fetched anew when the journal names its bucket; it need not earn its place again."""
    table = AnswerTable(1_000_000, CAS)
    again, once = UNIFORM[:100], UNIFORM[100:200]
    for _ in range(2):
        for serial in again:
            put(table, serial)
    for serial in once:
        put(table, serial)
    table.drop_bucket(CA, bucket_number(serial_hash(again[0]), MAX_BITS))
    put(table, again[0])
    for serial in random_serials(6_500, seed=5):  # the ring has room for about 6200
        put(table, serial)
    assert not any(get(table, serial) for serial in once)
    assert get(table, again[0]) is not None
    assert sum(get(table, serial) is not None for serial in again) >= 98


def test_everything_is_wanted_and_yet_there_is_room() -> None:
    """A put moves a bounded number of records, and takes the next one however much it is wanted."""
    table = AnswerTable(400_000, CAS)
    serials = random_serials(2_200, seed=4)
    for serial in serials:
        put(table, serial)
    full = len(table)
    for round_ in range(300):
        for serial in serials:
            get(table, serial)
        newest = b"\x12" + round_.to_bytes(15, "big")
        put(table, newest)
        assert get(table, newest) is not None
        assert table.used_bytes <= table.max_bytes
        assert len(table) >= min(full, 2_200) - 1
    assert sum(get(table, serial) is not None for serial in serials) >= len(serials) - 300


def test_a_large_answer_makes_room_for_itself() -> None:
    """The largest that may be kept, where everything else has to go for it."""
    table = AnswerTable(LEAST_BYTES, CAS)
    for serial in UNIFORM[:300]:
        put(table, serial)
        assert get(table, serial)
    whole = random.Random(1).randbytes(65_535)
    terms = make_terms(whole=True)
    for serial in UNIFORM[300:310]:
        table.put_whole(CA, "sha1", serial, serial_hash(serial), terms, 1, whole, bytes(32))
        found = get(table, serial)
        assert found is not None
        assert found.response_der == whole
        put(table, UNIFORM[0])
        assert get(table, UNIFORM[0]) is not None


@pytest.mark.parametrize("sizes", [(1, 400), (400, 1), (60_000, 1), (1, 60_000), (70, 70)])
def test_a_newer_answer_replaces_the_older(sizes: tuple[int, int]) -> None:
    """One serial, one answer, whatever its size."""
    table = AnswerTable(LEAST_BYTES, CAS)
    older, newer = (pack_answer(1, status, 0, -1, False, bytes(size)) for status, size in zip((0, 2), sizes, strict=True))  # fmt: skip
    for packed in (older, newer, older, newer):
        put(table, UNIFORM[0], packed=packed)
    found = get(table, UNIFORM[0])
    assert found is not None
    assert found.cert_status == 2
    assert len(table) == 1


def test_an_answer_that_is_too_large_takes_the_older_one_with_it() -> None:
    """It is not kept, but what it replaces is no longer the last word."""
    table = AnswerTable(1_000_000, CAS)
    put(table, UNIFORM[0])
    table.put_whole(
        CA, "sha1", UNIFORM[0], serial_hash(UNIFORM[0]), make_terms(whole=True), 1, bytes(65_536), bytes(32)
    )
    assert get(table, UNIFORM[0]) is None
    assert len(table) == 0


def test_a_serial_that_no_request_may_have_is_not_kept() -> None:
    """The parser takes 21 octets at most."""
    table = AnswerTable(LEAST_BYTES, CAS)
    for size, is_kept in ((21, True), (22, False), (300, False)):
        serial = b"\x11" * size
        put(table, serial)
        assert (get(table, serial) is not None) == is_kept
        table.drop(CA, "sha1", serial)
        assert len(table) == 0


def test_small_records_are_bounded_by_the_index_too() -> None:
    """Far more small records would fit in the ring than the index has slots for."""
    table = AnswerTable(LEAST_BYTES, CAS)
    tiny = pack_answer(0, 0, 0, -1, False, b"\0")
    for number in range(20_000):
        table.put(CA, "sha1", number.to_bytes(3, "big"), number, TERMS, tiny, bytes(32))
    assert 800 < len(table) < 1_000
    assert table.used_bytes < LEAST_BYTES
    for number in range(19_999, 19_999 - 800, -1):
        assert table.get(CA, "sha1", number.to_bytes(3, "big"), cert_id_of("sha1", b"\x01")) is not None


# --- terms ----------------------------------------------------------------------------------------------------------


def test_records_own_their_terms() -> None:
    """Each record counts its terms once, however it comes to its end: replaced, dropped, moved, evicted, outdated."""
    table = AnswerTable(LEAST_BYTES, CAS)
    terms, others = make_terms(1), make_terms(2)
    at_rest = sys.getrefcount(terms)
    for serial in UNIFORM[:100]:
        put(table, serial, terms=terms)
    assert sys.getrefcount(terms) == at_rest + 100
    put(table, UNIFORM[0], terms=terms)  # replaced by itself
    assert sys.getrefcount(terms) == at_rest + 100
    put(table, UNIFORM[0], terms=others)
    table.drop(CA, "sha1", UNIFORM[1])
    table.drop(CA, "sha1", UNIFORM[1])
    assert sys.getrefcount(terms) == at_rest + 98
    found = get(table, UNIFORM[2])
    assert sys.getrefcount(terms) == at_rest + 99
    del found
    table.drop_bucket(CA, bucket_number(serial_hash(UNIFORM[3]), MAX_BITS))
    there = [serial for serial in UNIFORM[2:100] if get(table, serial) is not None]
    assert UNIFORM[3] not in there
    assert sys.getrefcount(terms) == at_rest + len(there)
    for serial in random_serials(3_000, seed=8):
        put(table, serial, terms=others)
        assert all(get(table, wanted) for wanted in there[:10])  # moved again and again, and counted once
    assert sys.getrefcount(terms) == at_rest + 10
    del table
    assert sys.getrefcount(terms) == at_rest


@pytest.mark.parametrize("ending", ["clear", "epochs", "table"])
def test_terms_end_with_the_table(ending: str) -> None:
    """Nothing leaks: neither with the table, nor when an epoch has no next one."""
    table = AnswerTable(LEAST_BYTES, CAS, first_epoch=2**32 - 1 if ending == "epochs" else 0)
    terms = make_terms(1)
    at_rest = sys.getrefcount(terms)
    for serial in UNIFORM[:100]:
        put(table, serial, terms=terms)
    if ending == "table":
        del table
    else:
        table.clear()
        for serial in UNIFORM[:100] if ending == "clear" else ():
            assert get(table, serial) is None
        assert len(table) == 0
    assert sys.getrefcount(terms) == at_rest


def test_what_was_found_outlives_the_table() -> None:
    """An answer in somebody's hands stays whole after its record has gone; terms that only records hold live on."""
    template = ResponseTemplate(b"\x01" * 20, SIGNATURE_ALGORITHM_DER["p256"], ())
    header = AnswerHeader(THIS_UPDATE, NEXT_UPDATE, THIS_UPDATE, "0123456789abcdef")
    at_rest = sys.getrefcount(template)
    table = AnswerTable(LEAST_BYTES, CAS)
    put(table, UNIFORM[0], terms=AnswerTerms(THIS_UPDATE, NEXT_UPDATE, THIS_UPDATE, 1, b"lm", b"ex", template, header))
    assert sys.getrefcount(template) == at_rest + 1
    found = get(table, UNIFORM[0])
    assert found is not None
    for serial in random_serials(2_000, seed=9):
        put(table, serial)
    assert get(table, UNIFORM[0]) is None
    del table
    assert (found.terms.this_update, found.terms.next_update) == (THIS_UPDATE, NEXT_UPDATE)
    assert found.response_der == assemble(template, header, cert_id_of("sha1", UNIFORM[0]), PACKED)
    assert sys.getrefcount(template) == at_rest + 1
    del found
    assert sys.getrefcount(template) == at_rest


@given(
    this_update=st.integers(0, 2**32),
    validity=st.integers(1, 2**26),
    base=st.integers(-(2**33), 2**33),
    span=st.integers(1, 2**26),
    bucket_hash=st.integers(0, 2**32 - 1),
)
@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_fresh_until_lies_between_this_update_and_next_update(
    this_update: int, validity: int, base: int, span: int, bucket_hash: int
) -> None:
    """HTC-05: whatever the terms say."""
    terms = AnswerTerms(this_update, this_update + validity, this_update + base, span, b"", b"")
    assert this_update <= terms.fresh_until(bucket_hash) < this_update + validity


def test_fresh_until_differs_over_serials() -> None:
    """HTC-05: spread over the whole span, within a bucket too, whose serials share their low bits."""
    terms = AnswerTerms(0, 10**6, 1_000, 500, b"", b"")
    chance = random.Random(1)
    assert {terms.fresh_until(chance.getrandbits(32)) for _ in range(10_000)} == set(range(1_000, 1_500))
    assert len({terms.fresh_until(chance.getrandbits(16) << 16 | 0x5A5A) for _ in range(1_000)}) > 100


# --- serials that are not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_epoch", [0, LAST_EPOCHS])
@pytest.mark.parametrize("seed", range(3))
def test_absent_serials_against_a_set(seed: int, first_epoch: int) -> None:
    """Never "not there" after an entry that could mean it; what was put last is known."""
    chance = random.Random(seed)
    absent = AbsentTable(3_000, CAS, first_epoch=first_epoch)
    kept: set[tuple[str, bytes]] = set()
    found = 0
    for _ in range(10_000):
        key = (chance.choice(CAS), chance.choice(SERIALS))
        what = chance.random()
        if what < 0.4:
            absent.put(*key, serial_hash(key[1]))
            assert absent.has(*key)
            kept.add(key)
        elif what < 0.95:
            if absent.has(*key):
                assert key in kept
                found += 1
            else:
                kept.discard(key)
        elif what < 0.99:
            bucket = bucket_number(serial_hash(chance.choice(SERIALS)), chance.randint(MIN_BITS, MAX_BITS))
            absent.drop_bucket(key[0], bucket)
            kept = {one for one in kept if one[0] != key[0] or not could_hold(bucket, serial_hash(one[1]))}
        elif what < 0.999:
            partition = chance.randrange(PARTITIONS)
            absent.drop_partition(partition)
            kept = {one for one in kept if partition_of(serial_hash(one[1])) != partition}
        else:
            absent.clear()
            kept = set()
        assert absent.used_bytes <= 3_000
    assert found > 300


def test_made_up_serials_have_a_budget_of_their_own() -> None:
    """SEC-02: a flood of them neither grows it nor pushes out what many ask for, nor touches the answers."""
    table, absent = filled(UNIFORM[:100]), AbsentTable(100_000, CAS)
    popular = UNIFORM[200:300]
    for serial, stranger in zip(popular, random_serials(100, seed=12), strict=True):
        absent.put(CA, serial, serial_hash(serial))
        absent.put(CA, stranger, serial_hash(stranger))
    flood = random_serials(40_000, seed=6)
    for number, serial in enumerate(flood):
        absent.put(CA, serial, serial_hash(serial))
        assert absent.used_bytes <= 100_000
        if number % 5 == 0:
            assert absent.has(CA, popular[number // 5 % 100])
    assert 1_500 < len(absent) < 2_500
    assert all(absent.has(CA, serial) for serial in (*flood[-1_000:], *popular))
    assert not any(absent.has(CA, serial) for serial in flood[:30_000])
    assert not absent.has(OTHER_CA, flood[-1])
    assert len(table) == 200


# --- sizes and mistakes ---------------------------------------------------------------------------------------------


def test_sizes_out_of_bounds() -> None:
    for size in (-(2**40), -1, 0, 4_096, 131_000, MAX_TABLE_BYTES + 1):
        with pytest.raises(ValueError, match="max_bytes"):
            AnswerTable(size, CAS)
    for size in (-1, 0, 200):
        with pytest.raises(ValueError, match="max_bytes"):
            AbsentTable(size, CAS)
    with pytest.raises(ValueError, match="issuers"):
        AnswerTable(LEAST_BYTES, [str(number) for number in range(65_537)])
    table = AnswerTable(LEAST_BYTES, CAS)
    assert table.max_bytes == LEAST_BYTES
    assert len(table) == 0
    assert 0 < table.used_bytes < LEAST_BYTES // 20


@pytest.mark.parametrize(
    "change",
    [
        {"ca": "dd" * 8}, {"hash_name": "md5"}, {"hash_name": "SHA1"}, {"etag_digest": bytes(31)}, {"packed": b""},
        {"packed": b"\x30" + bytes(70)}, {"packed": b"\x80" + bytes(70), "hash_name": "sha384"}, {"terms": make_terms(whole=True)},
    ],
)  # fmt: skip
def test_what_cannot_be_put(change: dict[str, Any]) -> None:
    """A mistake of the caller's is told at once, and leaves the answer that is there alone."""
    table = AnswerTable(LEAST_BYTES, CAS)
    put(table, UNIFORM[0])
    wanted = {"ca": CA, "hash_name": "sha1", "terms": TERMS, "packed": PACKED, "etag_digest": bytes(32), **change}
    with pytest.raises(ValueError, match=r"issuer|hash_name|etag_digest|packed|template"):
        table.put(serial_octets=UNIFORM[0], bucket_hash=serial_hash(UNIFORM[0]), **wanted)
    assert get(table, UNIFORM[0]) is not None


def test_other_mistakes() -> None:
    table, absent = AnswerTable(LEAST_BYTES, CAS), AbsentTable(3_000, CAS)
    with pytest.raises(ValueError, match="cert_status"):
        table.put_whole(CA, "sha1", b"\x01", 1, TERMS, 3, b"x", bytes(32))
    for ask in (table.get, table.drop):
        with pytest.raises(ValueError, match="issuer"):
            ask("dd" * 8, "sha1", b"\x01", *([b""] if ask == table.get else []))
    with pytest.raises(ValueError, match="issuer"):
        absent.put("dd" * 8, b"\x01", 1)
    with pytest.raises(ValueError, match="fresh_span"):
        AnswerTerms(0, 1, 0, 0, b"", b"")
    with pytest.raises(ValueError, match="together"):
        AnswerTerms(0, 1, 0, 1, b"", b"", TEMPLATE)
    assert not absent.has(CA, bytes(22))


# --- memory ---------------------------------------------------------------------------------------------------------

MILLION = """
import random
from fastpath.answer_table import AnswerTable, AnswerTerms
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, pack_answer

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

ca = "aa" * 8
template = ResponseTemplate(bytes(20), bytes.fromhex("300a06082a8648ce3d040302"), ())
terms = [
    AnswerTerms(n, n + 10, n, 5, b"Last-Modified: %d" % n, b"Expires: %d" % n, template, AnswerHeader(n, n + 10, n, "0" * 16))
    for n in range(8192)
]
packed = pack_answer(3, 0, 0, -1, False, random.Random(1).randbytes(71))
digest = bytes(range(32))
assert len(packed) == 72
table = AnswerTable(160_000_000, [ca])
before = resident()
for n in range(1_000_000):
    table.put(ca, "sha1", n.to_bytes(17, "big"), n * 2654435761 & 0xFFFFFFFF, terms[n & 8191], packed, digest)
print(len(table), table.used_bytes, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_million_answers_take_160_octets_each() -> None:
    """DESIGN §8: a P-256 answer with a 17-octet serial, index and all; by its own count and by the kernel's."""
    done = subprocess.run(
        [sys.executable, "-c", MILLION], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    count, used_bytes, resident_bytes = map(int, done.stdout.split())
    assert count == 1_000_000
    assert used_bytes <= 160 * count
    assert resident_bytes <= 160 * count
