"""One serial in two rows: which of them holds, and how that is reported. Called by loaders/runner.py."""

from __future__ import annotations

from collections.abc import Sequence

from loaders.base import Row
from loaders.spool import SpooledRow
from responder.errors import LoadError
from responder.model import CertStatus, Status
from responder.revocation import Signal

_ISSUED = "issued "  # before the text of a Batch's ``issued`` rows, as long as they are in the spool


def marked(rows: Sequence[Row]) -> list[Row]:
    """Return a Batch's ``issued`` as rows for a spool, where they are told apart from others."""
    return [(serial, _ISSUED + text) for serial, text in rows]


def without_marked(rows: Sequence[SpooledRow]) -> tuple[list[SpooledRow], dict[bytes, str]]:
    """Part rows: those without a mark, and what the marked say of serials of which no other row speaks."""
    plain = [row for row in rows if not row[2].startswith(_ISSUED)]
    known = {serial for _, serial, _ in plain}
    alone = {
        serial: text.removeprefix(_ISSUED)
        for _, serial, text in rows
        if serial not in known and text.startswith(_ISSUED)
    }
    return plain, alone


def without_duplicates(
    rows: Sequence[SpooledRow], source: str, signal: Signal = "row"
) -> tuple[Sequence[SpooledRow], list[LoadError]]:
    """Return the rows with each serial once, and a LoadError for each serial whose rows disagree.

    Rows that say the same are no conflict. Else revoked holds against good, a permanent revocation against a hold, the
    earlier revocation against the later, and the later expiry against the earlier: never the laxer of two. ``signal``:
    what good rows state; of the issued they contradict no revocation.
    """
    by_serial = {serial: text for _, serial, text in rows}
    if len(by_serial) == len(rows):
        return rows, []
    conflicts: dict[bytes, set[str]] = {}
    for _, serial, text in rows:
        if by_serial[serial] != text:
            conflicts.setdefault(serial, {by_serial[serial]}).add(text)
    errors: list[LoadError] = []
    for serial, texts in conflicts.items():
        if signal == "issued" and (revoked := {text for text in texts if text.startswith("revoked")}):
            texts = revoked
            if len(texts) == 1:
                (by_serial[serial],) = texts
                continue
        ranked = sorted(texts, key=lambda text: (_strictness(Status.from_text(text)), text))
        by_serial[serial] = ranked[0]
        said = " and ".join(repr(text) for text in ranked)
        errors.append(LoadError(source, f"serial {serial.hex()}", f"stands there twice, as {said}; the first is taken"))
    hashed = {serial: digest for digest, serial, _ in rows}
    return [(hashed[serial], serial, text) for serial, text in by_serial.items()], errors


def _strictness(status: Status) -> tuple[bool, bool, int, int]:
    return (
        status.cert_status is CertStatus.GOOD,
        status.is_hold,
        status.revoked_at or 0,
        -(status.not_after if status.not_after is not None else 1 << 62),
    )
