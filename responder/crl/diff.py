"""What came, went and changed between two CRLs, in whatever order their entries stand, in bounded memory.

RFC 5280 §5.2.4 too: whether a base CRL and its delta say together what a full one says. Entries are compared by what they say,
not by their octets. Called by ``revocast crl diff``. Knows no store and no key.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from fastpath.crl_compare import Changes
from fastpath.crl_decode import Entry, EntryReader
from responder.crl.gather import Gather, Item
from responder.crl.head import IDP, Head
from responder.crl.lint_entries import serial_key
from responder.model import CRLReason

BATCH = 1_000
_BASE, _DELTA, _FULL = b"b", b"d", b"f"


@dataclass(frozen=True, slots=True)
class Revocation:
    """What an entry says. Times are POSIX seconds; ``certificate_issuer``: Name DER where the CRL is indirect."""

    serial_octets: bytes
    revocation_date: int
    reason: int | None
    invalidity_date: int | None
    certificate_issuer: bytes | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One certificate that two CRLs do not say the same of; None: it is not on that one."""

    before: Revocation | None
    after: Revocation | None


def differences(before: EntryReader, after: EntryReader) -> Iterator[Difference]:
    """Compare two CRLs. Raises EntryError for what is no entry.

    One pass where both stand in the order of ADR 13, or are alike; what does not meet in it is brought together by serial.
    Of a serial that is on one of them twice, the last entry counts.
    """
    with Gather() as met:
        changes = Changes(before, after)
        while some := list(islice(changes, BATCH)):
            # Of one that is in both, at other places, each half comes by itself.
            met.add([_item(_BASE, one) for change in some if (one := change.before) is not None])
            met.add([_item(_FULL, one) for change in some if (one := change.after) is not None])
        yield from _resolved(met)


def combined_differences(base: EntryReader, delta: EntryReader, full: EntryReader) -> Iterator[Difference]:
    """Compare a base combined with its delta (``before``) with a full CRL. Raises EntryError for what is no entry."""
    with Gather() as met:
        for side, reader in ((_BASE, base), (_DELTA, delta), (_FULL, full)):
            for batch in reader:
                met.add([_item(side, entry) for entry in batch])
        yield from _resolved(met)


def _item(side: bytes, entry: Entry) -> Item:
    """Pack an entry: octets are quicker to spread and to compare than tuples, of which Python keeps account."""
    issuer = entry.certificate_issuer
    values = (entry.serial_octets, entry.revocation_date, entry.reason, entry.invalidity_date, issuer)
    # Version 2 spells the same values by the same octets; later ones depend on who else refers to them.
    return serial_key(entry), side + marshal.dumps(values, 2)


def _resolved(met: Gather) -> Iterator[Difference]:
    for group in met.groups():
        found = []
        for items in group.values():
            by_side = {item[:1]: item[1:] for item in items}
            # RFC 5280 §5.2.4: the delta's entry is in the base's place; removeFromCRL takes it away.
            before, after = by_side.get(_DELTA, by_side.get(_BASE)), by_side.get(_FULL)
            if before == after:
                continue
            one, other = _revocation(before), _revocation(after)
            if _DELTA in by_side and one is not None and one.reason == CRLReason.REMOVE_FROM_CRL:
                one = None
            if one != other:
                found.append(Difference(one, other))
        yield from sorted(found, key=_serial)


def _serial(difference: Difference) -> tuple[int, bytes]:
    revocation = difference.before or difference.after
    assert revocation is not None  # noqa: S101 - None does not differ from None
    return len(revocation.serial_octets), revocation.serial_octets


def _revocation(packed: bytes | None) -> Revocation | None:
    return None if packed is None else Revocation(*marshal.loads(packed))  # noqa: S302 - what _item wrote


def not_combinable(base: Head, delta: Head) -> Iterable[str]:
    """Yield why a delta CRL may not be combined with a base (RFC 5280 §5.2.4 (a) to (d), §6.3.3)."""
    if not delta.is_delta:
        yield "it is no delta CRL: it has no deltaCRLIndicator"
        return
    if base.is_delta:
        yield "its base must be a complete CRL, and is a delta CRL itself"
    if base.parts.issuer_der != delta.parts.issuer_der:
        yield "it has another issuer"
    if base.authority_key != delta.authority_key:
        yield "it is signed by another key: the authorityKeyIdentifiers differ"
    if idp_of(base) != idp_of(delta):
        yield "it has another scope: the issuingDistributionPoints differ"
    if base.number is None or delta.number is None or delta.base_number is None:
        yield "both need a cRLNumber, and it a BaseCRLNumber"
    elif base.number < delta.base_number:
        yield f"it is for base CRL {delta.base_number} and later, and this is {base.number}"
    elif base.number >= delta.number:
        yield f"it is CRL {delta.number}, and this base is {base.number}, which has it all"


def idp_of(head: Head) -> list[bytes]:
    """Return the issuingDistributionPoint's DER: two CRLs have the same scope where it is the same."""
    return [extension.value for extension in head.parts.values(IDP)]
