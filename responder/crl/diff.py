"""What came, went and changed between two CRLs, in whatever order their entries stand, in bounded memory.

RFC 5280 §5.2.4 too: whether a base CRL and its delta say together what a full one says. Entries are compared by what they say,
not by their octets. Called by ``revocast crl diff``. Knows no store and no key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastpath.crl_compare import Changes
from fastpath.crl_decode import Entry, EntryReader
from responder.crl.gather import Gather
from responder.crl.lint import Head
from responder.crl.lint_entries import serial_key
from responder.model import CRLReason

_BASE, _DELTA, _FULL = range(3)
_Values = tuple[bytes, int, int | None, int | None, bytes | None]


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

    One pass where both stand in the order of ADR 13 or otherwise alike; what does not meet in it is brought together by serial.
    Of a serial that is on one of them twice, the last entry counts.
    """
    with Gather() as met:
        for change in Changes(before, after):
            # Of one that is in both, at other places, each half comes by itself.
            for side, entry in ((_BASE, change.before), (_FULL, change.after)):
                if entry is not None:
                    met.add([(serial_key(entry), (side, _values(entry)))])
        yield from _resolved(met)


def combined_differences(base: EntryReader, delta: EntryReader, full: EntryReader) -> Iterator[Difference]:
    """Compare a base combined with its delta (``before``) with a full CRL. Raises EntryError for what is no entry."""
    with Gather() as met:
        for side, reader in ((_BASE, base), (_DELTA, delta), (_FULL, full)):
            for batch in reader:
                met.add([(serial_key(entry), (side, _values(entry))) for entry in batch])
        yield from _resolved(met)


def _resolved(met: Gather) -> Iterator[Difference]:
    for group in met.groups():
        found = []
        for sides in group.values():
            by_side = dict(sides)
            # RFC 5280 §5.2.4: the delta's entry is in the base's place; removeFromCRL takes it away.
            before: _Values | None = by_side.get(_DELTA, by_side.get(_BASE))
            if before is not None and _DELTA in by_side and before[2] == CRLReason.REMOVE_FROM_CRL:
                before = None
            after = by_side.get(_FULL)
            if before != after:
                found.append(Difference(_revocation(before), _revocation(after)))
        yield from sorted(found, key=_serial)


def _serial(difference: Difference) -> tuple[int, bytes]:
    revocation = difference.before or difference.after
    assert revocation is not None  # noqa: S101 - None does not differ from None
    return len(revocation.serial_octets), revocation.serial_octets


def _values(entry: Entry) -> _Values:
    return (
        entry.serial_octets,
        entry.revocation_date,
        entry.reason,
        entry.invalidity_date,
        entry.certificate_issuer,
    )


def _revocation(values: _Values | None) -> Revocation | None:
    return None if values is None else Revocation(*values)


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
    return [extension.value for extension in head.parts.values("2.5.29.28")]
