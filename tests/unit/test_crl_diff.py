"""Comparing CRLs: what came, went and changed, whatever the order, whether it fits into memory or not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from fastpath.crl_compare import order_of
from fastpath.crl_decode import EntryReader
from responder.crl.diff import Difference, combined_differences, differences, not_combinable
from responder.crl.gather import Gather
from responder.crl.head import read_head
from responder.crl.parts import cut
from tests.pki import serial_octets
from tests.reference.crl import AKI, RawCRL, distribution_point, entry, extension, integer, key_identifier, reason

DATE, LATER = "261120100000Z", "261121100000Z"
Entries = dict[int, tuple[str, int | None]]  # serial → revocationDate and reason


def reader(entries: Entries, order: Callable[[int], object]) -> EntryReader:
    contents = b"".join(
        entry(serial, date, *([] if number is None else [reason(number)]))
        for serial, (date, number) in sorted(entries.items(), key=lambda item: order(item[0]))
    )
    return EntryReader([contents] if contents else [], len(contents))


def as_issued(serial: int) -> object:
    octets = serial_octets(serial)
    return order_of(octets) & 0xFFF, len(octets), octets


ORDERS: dict[str, Callable[[int], object]] = {
    "as we issue": as_issued,
    "by serial": lambda serial: serial,
    "backwards": lambda serial: -serial,
}


def seen(found: Sequence[Difference]) -> dict[int, tuple[int | None, int | None]]:
    """Return the reasons before and after by serial; -1: it is there without one."""

    def number(one: object) -> int | None:
        return None if one is None else -1 if one.reason is None else one.reason  # type: ignore[attr-defined]

    result = {}
    for one in found:
        (octets,) = {side.serial_octets for side in (one.before, one.after) if side is not None}
        serial = int.from_bytes(octets, "big", signed=True)
        assert serial not in result, "once each"
        result[serial] = (number(one.before), number(one.after))
    return result


@pytest.mark.parametrize("after_order", ORDERS)
@pytest.mark.parametrize("before_order", ORDERS)
@pytest.mark.parametrize("most_in_memory", [200_000, 400])
def test_what_came_went_and_changed(
    before_order: str, after_order: str, most_in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each difference is found once, in any order of either CRL, in memory and through files alike."""
    monkeypatch.setattr("responder.crl.gather.MOST_IN_MEMORY", most_in_memory)
    rng = random.Random(before_order + after_order)
    before: Entries = {rng.getrandbits(100): (DATE, rng.choice([None, 1, 4])) for _ in range(600)}
    after = dict(before)
    expected: dict[int, tuple[int | None, int | None]] = {}
    for serial in rng.sample(sorted(before), 90):
        old = before[serial][1]
        match rng.randrange(3):
            case 0:
                del after[serial]
                expected[serial] = (-1 if old is None else old, None)
            case 1:
                after[serial] = (DATE, 5)
                expected[serial] = (-1 if old is None else old, 5)
            case 2:
                after[serial] = (LATER, old)  # the date alone
                expected[serial] = (-1 if old is None else old,) * 2
    for serial in (rng.getrandbits(100) for _ in range(30)):
        after[serial] = (LATER, None)
        expected[serial] = (None, -1)
    assert seen(list(differences(reader(before, ORDERS[before_order]), reader(after, ORDERS[after_order])))) == expected
    same = differences(reader(after, ORDERS[before_order]), reader(after, ORDERS[after_order]))
    assert list(same) == []


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_base_and_its_delta() -> None:
    """DLT-03: a base with its delta's entries in place of its own, without those removed, is what the full CRL says."""
    base: Entries = {1: (DATE, 6), 2: (DATE, None), 3: (DATE, 1), 4: (DATE, 6)}
    delta: Entries = {1: (LATER, 8), 4: (LATER, 1), 5: (LATER, 4), 9: (LATER, 8)}
    full: Entries = {2: (DATE, None), 3: (DATE, 1), 4: (LATER, 1), 5: (LATER, 4)}

    def compared(after: Entries) -> dict[int, tuple[int | None, int | None]]:
        return seen(list(combined_differences(*(reader(one, as_issued) for one in (base, delta, after)))))

    assert compared(full) == {}
    assert compared({**full, 1: (DATE, 6)}) == {1: (None, 6)}  # still held
    assert compared({2: full[2], 3: full[3], 4: full[4]}) == {5: (4, None)}
    assert compared({**full, 4: base[4]}) == {4: (1, 6)}


SHARD = extension("2.5.29.28", distribution_point("http://crl.example-trust.com/1.crl"), critical=True)


@pytest.mark.parametrize(
    ("base", "delta", "expected"),
    [
        ({}, {}, None),
        ({"number": 6}, {}, None),  # a later base than the delta was made for
        ({"number": 4}, {}, "it is for base CRL 5 and later, and this is 4"),
        ({"number": 7}, {}, "it is CRL 7, and this base is 7"),
        ({}, {"base": None}, "it is no delta CRL"),
        ({"base": 3}, {}, "its base must be a complete CRL"),
        ({}, {"idp": True}, "it has another scope"),
        ({"idp": True}, {"idp": True}, None),
        ({}, {"key_id": b"k" * 20}, "it is signed by another key"),
        ({}, {"issuer": b"\x30\x00"}, "it has another issuer"),
        ({"number": None}, {}, "both need a cRLNumber"),
    ],
)
@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_what_may_be_combined(base: dict[str, object], delta: dict[str, object], expected: str | None) -> None:
    """DLT-02, DLT-04: issuer, key and scope must be the same, and the numbers must fit."""

    def head(
        number: object, base_number: object, idp: object = False, key_id: object = None, issuer: object = None
    ) -> object:
        extensions = [AKI if key_id is None else extension("2.5.29.35", key_identifier(key_id))]  # type: ignore[arg-type]
        if number is not None:
            extensions.append(extension("2.5.29.20", integer(number)))  # type: ignore[arg-type]
        if base_number is not None:
            extensions.append(extension("2.5.29.27", integer(base_number), critical=True))  # type: ignore[arg-type]
        crl = RawCRL(extensions=extensions + ([SHARD] if idp else []))
        return read_head(cut((crl if issuer is None else crl.but(issuer=issuer)).der))

    def of(given: dict[str, object], number: int, base_number: int | None) -> object:
        wanted = {"number": number, "base_number": base_number, **given}
        if "base" in wanted:
            wanted["base_number"] = wanted.pop("base")
        return head(**wanted)  # type: ignore[arg-type]

    reasons = list(not_combinable(of(base, 5, None), of(delta, 7, 5)))  # type: ignore[arg-type]
    assert ([] if expected is None else [expected]) == [reason[: len(expected or "")] for reason in reasons]


@pytest.mark.parametrize("most_in_memory", [1_000, 0, 7])
def test_what_has_the_same_key_meets(most_in_memory: int) -> None:
    """Gather gives every item back, once, with the others of its key and in their order, and leaves no file open."""
    items = [(bytes([at % 251]), (at, None)) for at in range(600)]
    with Gather(most_in_memory) as gather:
        for at in range(0, 600, 40):
            gather.add(items[at : at + 40])
        groups = list(gather.groups())
    by_key = {key: values for group in groups for key, values in group.items()}
    assert sum(map(len, groups)) == len(by_key) == 251
    assert all([at for at, _ in values] == list(range(key[0], 600, 251)) for key, values in by_key.items())
    with Gather(most_in_memory) as gather:
        gather.add([*items[:200], items[3]])
        assert dict(gather.repeated()) == {b"\x03": [(3, None), (3, None)]}
