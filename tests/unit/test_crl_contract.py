"""The contract of loaders (loaders/contract_suite.py) on a CA's CRLs, and where it is not theirs to keep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from loaders.base import Discovering, Row
from loaders.contract_suite import HOLD_ROW, NOW, REVOKED_ROWS, ContractSource, LoaderContract, read, rows_of
from responder.errors import SourceUnavailable
from responder.model import Status, serial_from_octets
from tests.crl_made import Revoked, make_crl
from tests.unit.test_files_contract import EXP, Source


class CRLSource(Source):
    kind = "crl"
    name = "corp.crl"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._number = 0
        self._rows: list[Row] | None = None

    def write(self, rows: Sequence[Row]) -> None:
        if list(rows) != self._rows:  # a CRL that was signed anew is another one
            self.publish(rows)
        self._rows = list(rows)

    def publish(self, rows: Sequence[Row], *more: Revoked) -> None:
        entries: list[Revoked] = []
        for serial, text in rows:
            status = Status.from_text(text)
            if status.revoked_at is not None:
                reason = None if status.reason is None else REASONS[status.reason.asn1_name]
                entries.append((serial_from_octets(serial), status.revoked_at, reason))
        self._number += 1
        crl = make_crl(self.ca, [*more, *entries], number=self._number, this_update=int(NOW) - 1000 + self._number)
        self.path.write_bytes(crl)
        os.utime(self.path, (NOW - 1000, NOW - 1000 + self._number))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        # What cannot be understood of a signed list makes all of it unusable; these two are left.
        self.publish(rows, (0x0901, int(NOW) - 5000, "remove_from_crl"), (0x0902, -5000))
        return 2


REASONS = {
    "keyCompromise": "key_compromise",
    "cACompromise": "ca_compromise",
    "affiliationChanged": "affiliation_changed",
    "superseded": "superseded",
    "cessationOfOperation": "cessation_of_operation",
    "certificateHold": "certificate_hold",
    "privilegeWithdrawn": "privilege_withdrawn",
    "aACompromise": "aa_compromise",
}


class TestCRL(LoaderContract):
    rows = tuple((serial, text.removesuffix(EXP)) for serial, text in REVOKED_ROWS)  # an entry tells no expiry
    hold = (HOLD_ROW[0], HOLD_ROW[1].removesuffix(EXP))

    @pytest.fixture
    def source(self, tmp_path: Path) -> CRLSource:
        return CRLSource(tmp_path)

    def test_a_source_that_is_gone_is_an_error_of_one_line(self, source: ContractSource) -> None:
        """Unless its CRL was believed before: that one holds until its nextUpdate, wherever its file has gone."""
        source.write(self.rows)
        loader = source.open()
        before = rows_of(read(loader.snapshot()))
        source.take_away()
        assert rows_of(read(loader.snapshot())) == before
        fresh = source.open()
        assert isinstance(fresh, Discovering)
        for ask in (fresh.peek, fresh.snapshot, fresh.discover):
            with pytest.raises(SourceUnavailable) as caught:
                ask()
            assert "\n" not in str(caught.value)
