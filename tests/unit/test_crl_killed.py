"""A publisher that ends at any step of an issue: its successor goes on, and nobody has seen anything but whole CRLs in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from responder.crl.published import Published
from tests.crl_office import HOUR_S, URL, CRLOffice
from tests.signing_room import GOOD

INDICATOR = x509.ObjectIdentifier("2.5.29.27")
MakeOffice = Callable[..., CRLOffice]
OF_THE_DISK = ("fsync", "replace")  # the depot's own test kills it at all of its steps
OF_REDIS = (
    "keep_changes",
    "agree_shards",
    "reserve_number",
    "put_crl_body",
    "publish_crls",
    "drop_crl_body",
    "forget_changes",
)


class Killed(BaseException):
    """The process ends here; no handler sees to anything."""


class Fate:
    """Counts the steps that leave something behind, and kills before one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0
        self.name = ""

    def mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.steps >= self.at:
                self.name = self.name or name
                raise Killed
            self.steps += 1
            return real(*arguments, **named)

        return call


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_killed_at_every_step(make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """CRL-07, DLT-01, DST-05: numbers increase, every base was published, Redis and the disk agree in the end."""
    statuses = dict.fromkeys(range(1, 300), GOOD)
    office = make_office(f'delta_every = "1h", url = "{URL}"', statuses=statuses)
    office.turn()
    office.turn()
    complete, last = {office.number()}, max(office.number() or 0, office.number("delta") or 0)
    struck: set[str] = set()
    revoked: set[int] = set()
    for at in range(200):
        fate = Fate(at)
        serial = 1 + at
        office.revoke(serial)
        revoked.add(serial)
        office.clock.advance(12 * HOUR_S)
        office.room.set_as_of()
        store = office.series.office.store
        with monkeypatch.context() as patched, capture_logs():
            for name in OF_THE_DISK:
                patched.setattr(os, name, fate.mortal(name, getattr(os, name)))
            for name in OF_REDIS:
                patched.setattr(store, name, fate.mortal(name, getattr(store, name)), raising=False)
            try:
                office.turn()
            except Killed:
                struck.add(fate.name)
        for slot in ("full", "delta"):
            assert (office.number(slot) or 0) <= last or office.read(slot)
        complete.add(office.number())
        before = last
        with capture_logs():
            store.lease_crls(office.room.issuer.id, office.series._holder, 0)  # it would end by itself
            office.new_publisher()
            office.settle()
            office.turn()
        full, delta = office.read(), office.read("delta")
        last = max(full.number, delta.number)
        assert last > before
        complete.add(full.number)
        base = delta.crl.extensions.get_extension_for_oid(INDICATOR).value.crl_number
        assert base in complete
        assert full.serials.keys() | delta.serials.keys() == revoked
        texts = store.crl_state(office.room.issuer.id).published
        for slot in ("full", "delta"):
            assert Published.from_text(texts[slot]) == office.depot.get("corp", slot)
        if not fate.name:
            break
    else:
        pytest.fail("it never got to its end")
    assert struck >= {"fsync", "replace", "reserve_number", "put_crl_body", "publish_crls", "forget_changes"}
