"""A CA whose CRLs are issued from a real Redis, by a clock that the test sets. Fixture: make_office (on signing_room's)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509

from responder.crl.depot import DIRECTORY, Depot
from responder.crl.publisher import Publisher, Series, open_series
from responder.model import serial_to_octets
from tests.signing_room import GOOD, Room

DAY_S, HOUR_S = 86_400, 3_600
URL = "http://crl.example.test/corp.crl"
REVOKED = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
HELD = "revoked 2026-11-20T10:00:00Z certificateHold exp=2049-12-31T23:59:59Z"


@dataclass
class Listed:
    """A CRL as cryptography reads it: what it lists, by serial, with the reasons."""

    crl: x509.CertificateRevocationList
    serials: dict[int, str | None]

    @property
    def number(self) -> int:
        return self.crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    @property
    def this_update(self) -> int:
        return int(self.crl.last_update_utc.timestamp())

    @property
    def next_update(self) -> int:
        assert self.crl.next_update_utc is not None
        return int(self.crl.next_update_utc.timestamp())


def read_crl(data: bytes) -> Listed:
    """Read a CRL."""
    crl = x509.load_der_x509_crl(data)
    serials: dict[int, str | None] = {}
    for entry in crl:
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except x509.ExtensionNotFound:
            reason = None
        serials[entry.serial_number] = reason
    assert len(serials) == len(crl)
    return Listed(crl, serials)


class CRLOffice:
    """A room whose CA issues CRLs; ``turn`` is what the role does again and again."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.clock = room.clock
        self.began = int(room.clock.now())
        self.depot = Depot(room.config.data_dir / DIRECTORY)
        self._series: list[Series] = []
        self.publisher = self.new_publisher()

    @property
    def name(self) -> str:
        return self.room.issuer.name

    @property
    def series(self) -> Series:
        """The series of the newest publisher."""
        return self._series[-1]

    def new_publisher(self) -> Publisher:
        """Start (again): a publisher with a connection of its own."""
        room = self.room
        store = room.new_store()
        self._series.append(open_series(room.config, str(room.config_file), room.issuer, store, self.clock))
        self._series[-1]._holder += f":{len(self._series)}"
        self.publisher = Publisher([self._series[-1]], store, self.clock, room.guard())
        return self.publisher

    def turn(self, publisher: Publisher | None = None) -> float:
        """Do what is due, and no more."""
        return (publisher or self.publisher).turn()

    def settle(self) -> None:
        """Let the debounce pass, with the source read meanwhile, and do what is due."""
        self.turn()
        self.pass_time(11)

    def pass_time(self, seconds: float, *, source_is_read: bool = True) -> None:
        """Let time pass, with the source read at its end, and do what is due."""
        self.clock.advance(seconds)
        if source_is_read:
            self.room.set_as_of()
        self.turn()

    def read(self, slot: str = "full") -> Listed:
        """Return what is published; its signature verifies."""
        opened = self.depot.open(self.name, slot)
        assert opened is not None
        with os.fdopen(opened[1], "rb") as file:
            found = read_crl(file.read())
        assert found.crl.is_signature_valid(self.room.ca.certificate.public_key())  # type: ignore[arg-type]
        return found

    def number(self, slot: str = "full") -> int | None:
        """Return the number of what is published."""
        found = self.depot.get(self.name, slot)
        return found.number if found is not None else None

    def revoke(self, *serials: int, text: str = REVOKED) -> None:
        """Commit revocations."""
        for serial in serials:
            self.room.change(serial, text)

    def octets(self, serial: int) -> bytes:
        return serial_to_octets(serial)

    def close(self) -> None:
        for one in self._series:
            one.close()


@pytest.fixture
def make_office(make_room: Callable[..., Room]) -> Iterator[Callable[..., CRLOffice]]:
    """Return a function that makes an office; ``crl`` is added to ``[ca.crl]``, ``statuses`` are loaded first."""
    offices: list[CRLOffice] = []

    def make(
        crl: str = "", profile: str = "private", statuses: dict[int, str] | None = None, **options: Any
    ) -> CRLOffice:
        words = f'issue = true, key = "ca.key"{", " if crl else ""}{crl}'
        room = make_room(ca_options=f'profile = "{profile}"\ncrl = {{ {words} }}\n', **options)
        room.load(statuses if statuses is not None else {1: GOOD, 2: REVOKED, 3: HELD, 4: GOOD})
        offices.append(CRLOffice(room))
        return offices[-1]

    yield make
    for office in offices:
        office.close()
