"""The tests that every loader passes, ours and third parties' (docs/loaders/writing-one.md).

In a test module: derive a class whose name begins with Test from ``LoaderContract``, and give it a fixture ``source``
that returns a ``ContractSource``: a real source, filled in the way of its CA system. Needs pytest, which Revocast itself
does not install. Knows no store: what becomes of the rows is the runner's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest
from cryptography import x509

from loaders.base import Batch, Changes, Discovering, FoundIssuer, Incremental, Loader, LoaderOptions, Row, Snapshot
from loaders.certificates import is_issued_by
from responder.clock import Clock, ManualClock
from responder.errors import SourceUnavailable
from responder.issuers import subject_and_key
from responder.model import Status, serial_from_octets, serial_to_octets

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
MAX_BATCH_ROWS = 100_000  # of one Batch: they are in memory together
_EXP = " exp=2030-12-31T23:59:59Z"
_AT = "2026-01-02T03:04:05Z"

GOOD_ROWS: tuple[Row, ...] = tuple(
    (serial_to_octets(number), "good" + _EXP) for number in (1, 0x7F, 0x80, 0xDEADBEEF, (1 << 159) - 1)
)
REVOKED_ROWS: tuple[Row, ...] = (
    (b"\x0a", f"revoked {_AT}{_EXP}"),
    *(
        (b"\x0b" + bytes([at]), f"revoked {_AT} {reason}{_EXP}")
        for at, reason in enumerate(
            (
                "keyCompromise",
                "cACompromise",
                "affiliationChanged",
                "superseded",
                "cessationOfOperation",
                "privilegeWithdrawn",
                "aACompromise",
            )
        )
    ),
    (b"\x0c", f"revoked 2027-08-09T10:11:12Z superseded{_EXP}"),  # dated ahead of NOW
)
HOLD_ROW: Row = (b"\x0d", f"revoked {_AT} certificateHold{_EXP}")


class ContractSource(ABC):
    """A source that a test may fill. One that cannot do something leaves the method out: its tests are skipped."""

    clock: Clock = ManualClock(NOW)
    # Of the CA whose certificates ``write`` writes, where the source can say which that is (``discover``).
    ca_certificate_der: bytes | None = None

    @abstractmethod
    def open(self) -> Loader:
        """Make a loader of this source, on ``self.clock``; nothing is read yet."""

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Have the source hold exactly these certificates, in the way in which its CA system would write them.

        Called again it changes what differs, as the CA system would: a release from hold where a hold becomes good.
        """

    @abstractmethod
    def take_away(self) -> None:
        """Make the source unreadable: no file, no server, no such table."""

    def write_hostile(self, rows: Sequence[Row]) -> int:
        """Write rows like ``write``, and among them some that cannot be understood; return how many those are.

        Such as a serial of 64 KiB, a date in the year 10000, NULs, invalid UTF-8, a certificate that is no DER, a
        reason 4000: whatever of it the source can hold.
        """
        pytest.skip("this source cannot hold anything that cannot be understood")


def read(reading: Snapshot | Changes) -> list[Batch]:
    """Read to the end and close."""
    try:
        return list(reading.batches())
    finally:
        reading.close()


def rows_of(batches: Sequence[Batch]) -> dict[bytes, str]:
    """Return serial → text of all rows, explicit releases included."""
    return {serial: text for batch in batches for serial, text in [*batch.rows, *batch.released]}


def _ending(text: str) -> str:
    """Return what a status text says of the certificate itself, whatever becomes of it: its expiry."""
    _, mark, expiry = text.partition(" exp=")
    return mark + expiry


class LoaderContract:
    """Derive from it; override ``rows`` where the source cannot say all that stands there."""

    rows: ClassVar[tuple[Row, ...]] = (*GOOD_ROWS, *REVOKED_ROWS)
    hold: ClassVar[Row | None] = HOLD_ROW  # None: the source knows no hold

    @pytest.fixture
    def source(self) -> ContractSource:
        """Return the source, empty."""
        raise NotImplementedError("give the class a fixture named source")

    def _shown(self, loader: Loader, rows: Sequence[Row]) -> dict[bytes, str]:
        return {serial: text for serial, text in rows if loader.lists_issued or not text.startswith("good")}

    def test_it_says_what_it_is(self, source: ContractSource) -> None:
        """Every attribute of the contract is there, and of its type."""
        loader = source.open()
        assert issubclass(loader.Options, LoaderOptions)
        assert loader.name
        assert {type(loader.lists_issued), type(loader.good_releases_hold), type(loader.follows_clock)} == {bool}

    def test_every_key_is_described(self, source: ContractSource) -> None:
        """An operator reads what each key of the configuration means."""
        fields = source.open().Options.model_fields
        assert [name for name, field in fields.items() if not field.description] == []

    def test_every_row_arrives_as_it_is(self, source: ContractSource) -> None:
        """Serials as minimal contents octets of a DER INTEGER, statuses in the store's own spelling; nothing else."""
        held = [*self.rows, *([self.hold] if self.hold else [])]
        source.write(held)
        loader = source.open()
        snapshot = loader.snapshot()
        batches = read(snapshot)
        assert rows_of(batches) == self._shown(loader, held)
        assert [str(row) for batch in batches for row in batch.rejected] == []
        assert snapshot.whole
        for serial_octets, text in rows_of(batches).items():
            assert serial_to_octets(serial_from_octets(serial_octets)) == serial_octets
            assert Status.from_text(text).to_text() == text
        assert max(len(batch.rows) for batch in batches) <= MAX_BATCH_ROWS

    def test_an_empty_source_is_empty(self, source: ContractSource) -> None:
        """Nobody was issued a certificate yet: that is no error."""
        source.write([])
        snapshot = source.open().snapshot()
        assert rows_of(read(snapshot)) == {}
        assert snapshot.whole

    def test_as_of_is_never_ahead(self, source: ContractSource) -> None:
        """thisUpdate comes from it: the moment before the reading, or earlier."""
        source.write(self.rows)
        before = source.clock.now()
        snapshot = source.open().snapshot()
        try:
            assert snapshot.as_of <= before
        finally:
            snapshot.close()

    def test_the_same_rows_have_the_same_fingerprint(self, source: ContractSource) -> None:
        """And others another, also where one status alone has changed."""
        source.write(self.rows)
        fingerprints = []
        for rows in (self.rows, self.rows, self._one_more_revoked()):
            source.write(rows)
            snapshot = source.open().snapshot()
            read(snapshot)
            fingerprints.append(snapshot.fingerprint)
        assert fingerprints[0] == fingerprints[1] != fingerprints[2]

    def _one_more_revoked(self) -> list[Row]:
        revoked = next(text for _, text in self.rows if text.startswith("revoked"))
        goods = [serial for serial, text in self.rows if text.startswith("good")]
        if not goods:
            return [*self.rows, (b"\x0e", revoked)]
        word, _, _ = revoked.partition(" exp=")
        return [(serial, word + _ending(text) if serial == goods[0] else text) for serial, text in self.rows]

    def test_a_change_is_seen(self, source: ContractSource) -> None:
        """By peek, or by the changes since the cursor of the whole pass."""
        source.write(self.rows)
        loader = source.open()
        if not isinstance(loader, Incremental) and getattr(loader, "consistent", False):
            pytest.skip("it is read as a whole, each time")
        before = "" if isinstance(loader, Incremental) else loader.peek()
        snapshot = loader.snapshot()
        read(snapshot)
        changed = self._one_more_revoked()
        source.write(changed)
        if isinstance(loader, Incremental):
            news = rows_of(read(loader.changes(snapshot.cursor)))  # type: ignore[attr-defined]  # as Incremental asks
            different = dict(changed).items() - dict(self.rows).items()
            assert news.items() >= different
        else:
            assert loader.peek() != before

    def test_the_cursor_goes_on_with_the_changes(self, source: ContractSource) -> None:
        """What was read from a later cursor together with what came before is all; a release from hold is among it."""
        loader = source.open()
        if not isinstance(loader, Incremental):
            pytest.skip("it is read as a whole")
        held = [*self.rows, *([self.hold] if self.hold else [])]
        source.write(held)
        snapshot = loader.snapshot()
        known = rows_of(read(snapshot))
        cursor: str = snapshot.cursor  # type: ignore[attr-defined]  # as Incremental asks
        changed = dict(self._one_more_revoked())
        for rows in (held, [*changed.items(), *([self.hold] if self.hold else [])], self._released(changed)):
            source.write(rows)
            changes = loader.changes(cursor)
            known |= rows_of(read(changes))
            cursor = changes.cursor
            assert known == self._shown(loader, rows) | {
                serial: text for serial, text in known.items() if serial not in dict(rows)
            }

    def _released(self, rows: dict[bytes, str]) -> list[Row]:
        return [*rows.items(), *([(self.hold[0], "good" + _ending(self.hold[1]))] if self.hold else [])]

    def test_the_issuers_are_told(self, source: ContractSource) -> None:
        """Each by a name in one line, with what can be read; the CA is among them, with as many certificates as there are."""
        source.write(self.rows)
        loader = source.open()
        if not isinstance(loader, Discovering):
            pytest.skip("it does not look for issuers")
        found = loader.discover()
        assert bool(found) or bool(getattr(loader, "no_issuers", ""))
        for one in found:
            assert one.name
            assert "\n" not in one.name
            assert one.rows is None or one.rows >= 0
        if source.ca_certificate_der is not None:
            (ours,) = (one for one in found if self._is_the_ca(one, source.ca_certificate_der))
            assert ours.rows in (None, len(self._shown(loader, self.rows)))

    @staticmethod
    def _is_the_ca(found: FoundIssuer, ca_der: bytes) -> bool:
        """By its name and key, or by its signature."""
        ca = x509.load_der_x509_certificate(ca_der)
        if found.certificate_der is not None:
            return subject_and_key(x509.load_der_x509_certificate(found.certificate_der)) == subject_and_key(ca)
        return found.issued_der is not None and is_issued_by(x509.load_der_x509_certificate(found.issued_der), ca)

    def test_one_hostile_row_is_one_rejected_row(self, source: ContractSource) -> None:
        """Each is named with where it stands and why, in one line; all others arrive."""
        hostile = source.write_hostile(self.rows)
        loader = source.open()
        batches = read(loader.snapshot())
        rejected = [row for batch in batches for row in batch.rejected]
        assert len(rejected) == hostile, [str(row)[:200] for row in rejected]
        found = rows_of(batches)
        presumed = {row.serial_octets for row in rejected}
        assert {serial: text for serial, text in found.items() if serial not in presumed} == self._shown(
            loader, self.rows
        )
        if isinstance(loader, Discovering):
            assert all("\n" not in one.name for one in loader.discover())
        for row in rejected:
            assert row.source
            assert row.row
            assert row.reason
            assert "\n" not in str(row)
            assert "\0" not in str(row)
            assert len(str(row)) < 2000
            assert row.presumed is None or Status.from_text(row.presumed)

    def test_it_may_be_closed_at_any_time(self, source: ContractSource) -> None:
        """Before the first row, in the middle, twice; the next reading finds everything."""
        source.write(self.rows)
        loader = source.open()
        loader.snapshot().close()
        snapshot = loader.snapshot()
        batches: Iterator[Batch] = snapshot.batches()
        next(batches)
        snapshot.close()
        snapshot.close()
        assert rows_of(read(loader.snapshot())) == self._shown(loader, self.rows)

    def test_a_source_that_is_gone_is_an_error_of_one_line(self, source: ContractSource) -> None:
        """SourceUnavailable, from whatever is asked first; never an empty reading."""
        source.write(self.rows)
        loader = source.open()
        snapshot = loader.snapshot()
        read(snapshot)
        source.take_away()
        asked: list[Callable[[], object]] = [lambda: read(loader.snapshot())]
        if isinstance(loader, Incremental):
            asked.append(lambda: read(loader.changes(snapshot.cursor)))  # type: ignore[attr-defined]  # as asked above
        elif not getattr(loader, "consistent", False):
            asked.append(loader.peek)
        if isinstance(loader, Discovering):
            asked.append(loader.discover)
        for ask in asked:
            with pytest.raises(SourceUnavailable) as caught:
                ask()
            assert "\n" not in str(caught.value)
