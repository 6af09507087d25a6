"""Delta CRLs as they are published: numbers, bases, releases."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from responder.clock import format_utc
from tests.crl_office import DAY_S, HELD, HOUR_S, URL, CRLOffice
from tests.signing_room import GOOD

MakeOffice = Callable[..., CRLOffice]
WITH_DELTAS = f'delta_every = "1h", url = "{URL}"'
INDICATOR = x509.ObjectIdentifier("2.5.29.27")
FRESHEST = x509.ObjectIdentifier("2.5.29.46")


def base_of(office: CRLOffice, slot: str = "delta") -> int:
    extension = office.read(slot).crl.extensions.get_extension_for_oid(INDICATOR)
    assert extension.critical
    number: int = extension.value.crl_number
    return number


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_deltas_between_full_ones(make_office: MakeOffice) -> None:
    """DLT-01, DLT-03, DLT-07: a base that is published, one sequence of numbers, freshestCRL in the full one alone."""
    office = make_office(WITH_DELTAS)
    office.turn()
    full = office.read()
    assert full.number == 1
    freshest = full.crl.extensions.get_extension_for_oid(FRESHEST)
    assert not freshest.critical
    (point,) = freshest.value
    assert point.full_name[0].value == "http://crl.example.test/corp-delta.crl"
    office.turn()
    office.pass_time(HOUR_S)
    delta = office.read("delta")
    assert (base_of(office), delta.serials) == (1, {})
    assert delta.number > 1
    assert delta.next_update - delta.this_update == 3 * HOUR_S
    with pytest.raises(x509.ExtensionNotFound):
        delta.crl.extensions.get_extension_for_oid(FRESHEST)
    office.revoke(1)
    office.settle()
    assert office.read("delta").serials == {1: "keyCompromise"}
    assert office.number("full") == 1
    assert base_of(office) == 1


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_full_and_delta_together(make_office: MakeOffice) -> None:
    """DLT-03: issued together they share their number, and the delta leads from the full one before to this one."""
    office = make_office(WITH_DELTAS)
    office.turn()
    office.revoke(1)
    office.settle()
    office.room.change(3, GOOD, "released")
    office.pass_time(12 * HOUR_S)
    full, delta = office.read(), office.read("delta")
    assert full.number == delta.number
    assert full.this_update == delta.this_update
    assert base_of(office) == 1
    assert full.serials.keys() == {1, 2}
    assert delta.serials == {1: "keyCompromise", 3: "removeFromCRL"}
    office.pass_time(HOUR_S)
    assert base_of(office) == full.number
    assert office.read("delta").serials == {}


@pytest.mark.clause("RFC 5280", "5.3.1", "MUST")
def test_a_release_is_said_in_deltas(make_office: MakeOffice) -> None:
    """DLT-05: hold, delta, release, delta: removeFromCRL; on no full CRL."""
    office = make_office(WITH_DELTAS)
    office.turn()
    office.revoke(4, text=HELD)
    office.settle()
    assert office.read("delta").serials == {4: "certificateHold"}
    office.room.change(4, GOOD, "released")
    office.settle()
    assert office.read("delta").serials == {4: "removeFromCRL"}
    office.room.change(3, GOOD, "released")
    office.settle()
    assert office.read("delta").serials == {3: "removeFromCRL", 4: "removeFromCRL"}
    office.pass_time(12 * HOUR_S)
    assert office.read().serials == {2: "keyCompromise"}


def test_a_redis_that_has_forgotten_the_base(make_office: MakeOffice) -> None:
    """Where it is not known what changed since the base, a full CRL takes the delta's place."""
    office = make_office(WITH_DELTAS)
    office.turn()
    office.settle()
    for key in office.room.server.client().keys("rc:{*}:changed:*"):
        office.room.server.client().delete(key)
    office.revoke(1)
    office.settle()
    assert office.read().serials.keys() == {1, 2, 3}
    full = office.number()
    assert full is not None
    office.revoke(4)
    office.settle()
    assert base_of(office) == full
    assert office.read("delta").serials == {4: "keyCompromise"}


def test_the_first_delta_follows_though_its_base_is_forgotten(make_office: MakeOffice) -> None:
    """As where the quickstart has issued a full one, and `revocast run` starts another Redis: freshestCRL leads somewhere."""
    office = make_office(WITH_DELTAS)
    office.series.now(full=True)
    assert office.number("delta") is None
    office.revoke(1)
    for key in office.room.server.client().keys("rc:{*}:changed:*"):
        office.room.server.client().delete(key)
    office.new_publisher()
    for _ in range(4):
        office.pass_time(11)
    assert base_of(office) == office.number("full") == 2


def test_sharded_deltas(make_office: MakeOffice) -> None:
    """DLT-02: a shard's delta has the shard's issuingDistributionPoint, octet for octet."""
    url = "http://crl.example.test/corp/{shard}.crl"
    office = make_office(f'shards = 2, delta_every = "1h", url = "{url}"')
    office.turn()
    office.revoke(1, 4)
    office.settle()
    for shard, serial in ((0, 4), (1, 1)):
        delta, full = office.read(f"{shard}-delta"), office.read(str(shard))
        assert delta.serials.keys() == {serial}
        point = x509.ObjectIdentifier("2.5.29.28")
        assert delta.crl.extensions.get_extension_for_oid(point) == full.crl.extensions.get_extension_for_oid(point)
    assert office.depot.slots("corp") == ["0", "0-delta", "1", "1-delta"]


def test_ahead_and_expired_on_deltas(make_office: MakeOffice) -> None:
    """DLT-06: a revocation first said by a delta stays on all of them until a complete CRL has it, expired or not."""
    office = make_office(WITH_DELTAS)
    office.turn()
    began = office.began
    office.revoke(1, text=f"revoked {format_utc(began + 1800)} superseded exp={format_utc(began + 2 * HOUR_S)}")
    office.settle()
    assert office.read("delta").serials == {}
    office.pass_time(1800)
    assert office.read("delta").serials == {1: "superseded"}
    office.pass_time(3 * HOUR_S)
    assert office.read("delta").serials == {1: "superseded"}
    office.pass_time(9 * HOUR_S)
    assert office.read().serials[1] == "superseded"
    office.pass_time(DAY_S)
    assert 1 not in office.read().serials


def test_what_was_replaced_makes_room_in_redis(make_office: MakeOffice) -> None:
    """Other machines find the body of what is published, and memory holds no more of them; changes are kept for deltas alone."""
    office = make_office(WITH_DELTAS)
    store, ca = office.room.new_store(), office.room.issuer.id
    client, layout = office.room.server.client(), store.layout
    for _ in range(3):
        office.revoke(1)
        office.settle()
        office.pass_time(DAY_S)
    for slot in ("full", "delta"):
        published = office.depot.get(office.name, slot)
        assert published is not None
        assert b"".join(store.read_crl_body(ca, published.sha256, published.size))
    assert len(list(client.scan_iter(match="*:body:*"))) == 2
    assert client.exists(layout.changed(ca, 0))
    office.room.reconfigure(f", {WITH_DELTAS}", "")
    office.new_publisher()
    office.pass_time(DAY_S)
    assert not client.exists(layout.changed(ca, 0))


def test_a_depot_without_the_base_gets_a_complete_crl(make_office: MakeOffice, tmp_path: Path) -> None:
    """Restored from an old copy, say: a delta would build upon what nobody can fetch."""
    office = make_office(f"{WITH_DELTAS}, share = false")  # else the newest comes from Redis
    office.turn()
    shutil.copytree(office.depot.root, tmp_path / "copy")
    office.pass_time(DAY_S)
    assert office.number() != 1
    shutil.rmtree(office.depot.root)
    shutil.copytree(tmp_path / "copy", office.depot.root)
    office.new_publisher()
    office.revoke(1)
    office.settle()
    assert office.read().serials.keys() == {1, 2, 3}
    assert (office.number() or 0) > 2
    office.pass_time(HOUR_S)
    assert base_of(office) == office.number()
