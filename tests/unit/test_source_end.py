"""A source that says how long it holds, and one that lists the revoked alone: what is signed from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.x509 import ocsp

from responder.clock import format_utc
from responder.config import load_config
from responder.errors import ConfigError
from responder.live import ReplyKind
from responder.model import serial_to_octets
from responder.revocation import apply
from tests.signing_room import DAY_S, GOOD, Room
from tests.unit.test_live import Asker

RoomMaker = Callable[..., Room]
HOUR_S = 3_600
STATUS = ocsp.OCSPCertStatus


def next_update(room: Room, serial: int) -> float:
    stored = room.stored(serial)
    assert stored is not None
    assert stored.next_update_utc is not None
    return stored.next_update_utc.timestamp()


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
@pytest.mark.parametrize(("every_s", "lasts_s"), [(DAY_S, 25 * HOUR_S), (12 * HOUR_S, 7 * DAY_S), (HOUR_S, 2 * HOUR_S)])
def test_no_answer_outlasts_the_crl_and_none_runs_out(make_room: RoomMaker, every_s: int, lasts_s: int) -> None:
    """TIM-01: over some CRLs every answer ends with the CRL that it was made of, at the latest, and is replaced in time."""
    room = make_room(validity="4d")
    serials = range(1, 40)
    room.load(dict.fromkeys(serials, GOOD))
    presigner = room.presigner()
    began, published_at = room.clock.now(), 0.0
    ends: list[float] = []
    while room.clock.now() < began + 3 * every_s:
        if room.clock.now() >= published_at + every_s:
            published_at = room.clock.now()
            ends.append(published_at + lasts_s)
            room.store.set_as_of(room.issuer.id, published_at, until=ends[-1])
        presigner.run_until_idle()
        for serial in (1, 20, 39):
            assert room.clock.now() < next_update(room, serial) <= ends[-1]
        room.clock.advance(every_s / 24)
    assert room.key.count < 2.5 * len(serials) * len(ends), "not afresh at each look"


def test_when_the_crl_has_ended_nothing_is_signed(make_room: RoomMaker) -> None:
    """Promise 2: until a newer one is read; an operator's revocation is known first-hand, and is."""
    room = make_room()
    room.load(dict.fromkeys(range(1, 5), GOOD))
    now = room.clock.now()
    room.store.set_as_of(room.issuer.id, now - 30 * HOUR_S, until=now - HOUR_S)
    presigner = room.presigner()
    assert presigner.run_until_idle() == 0
    room.change(2, f"revoked {format_utc(now - 10)} by=operator")
    presigner.run_until_idle()
    assert room.stored(1) is None
    assert room.stored(2).certificate_status is STATUS.REVOKED  # type: ignore[union-attr]
    room.clock.advance(HOUR_S)
    room.store.set_as_of(room.issuer.id, room.clock.now(), until=room.clock.now() + DAY_S)
    presigner.run_until_idle()
    assert next_update(room, 1) == int(room.clock.now()) + DAY_S


def test_another_source_sets_no_end(make_room: RoomMaker) -> None:
    """The CRL's end goes with the first reading of what comes in its place."""
    room = make_room()
    room.load({1: GOOD})
    room.store.set_as_of(room.issuer.id, room.clock.now(), until=room.clock.now() + HOUR_S)
    room.store.set_as_of(room.issuer.id, room.clock.now())
    room.presigner().run_until_idle()
    assert next_update(room, 1) == int(room.clock.now()) + 4 * DAY_S


# --- good for what is on no list -------------------------------------------------------------------------------------


def test_good_where_only_the_revoked_are_listed(make_room: RoomMaker) -> None:
    """DESIGN §7: signed when it is asked for, kept by the worker, never in Redis; revoked the moment that the list says so."""
    room = make_room(ocsp_options='unassigned = "good"')
    room.load({1: f"revoked {format_utc(room.clock.now() - DAY_S)}"})
    until = room.clock.now() + HOUR_S
    room.store.set_as_of(room.issuer.id, room.clock.now(), until=until, lists_issued=False)
    asker = Asker(room, room.live())
    reply = asker.ask("sha1", [77])
    assert room.read(reply.response_der).certificate_status is STATUS.GOOD
    assert reply.store_hint, "a worker may keep it until the journal names its bucket"
    assert reply.next_update == int(until)
    assert not asker.ask("sha1", [77], b"\x04\x02ab").store_hint
    assert room.server.client().keys("*answers*") == []
    assert room.read(asker.ask("sha1", [1]).response_der).certificate_status is STATUS.REVOKED
    row = (serial_to_octets(77), f"revoked {format_utc(room.clock.now() - 5)}")
    apply(room.store, room.issuer.id, [row], signal="row", now=room.clock.now())
    assert room.read(asker.ask("sha1", [77]).response_der).certificate_status is STATUS.REVOKED
    room.store.set_override(room.issuer.id, row[1])
    assert room.read(asker.ask("sha1", [78]).response_der).certificate_status is STATUS.REVOKED


@pytest.mark.clause("BR", "4.9.9", "MUST NOT")
def test_never_good_for_what_a_list_of_the_issued_does_not_name(make_room: RoomMaker) -> None:
    """STS-02: whatever this role's configuration says: the source said what it lists."""
    room = make_room(ocsp_options='unassigned = "good"')
    room.load({1: GOOD})
    asker = Asker(room, room.live())
    assert asker.ask("sha1", [77]).kind is ReplyKind.UNAUTHORIZED
    room.store.set_as_of(room.issuer.id, room.clock.now(), lists_issued=True)
    assert asker.ask("sha1", [77]).kind is ReplyKind.UNAUTHORIZED
    assert room.key.count == 0


@pytest.mark.parametrize("profile", ["webpki", "etsi"])
def test_never_good_for_the_unlisted_in_public_profiles(make_room: RoomMaker, profile: str) -> None:
    room = make_room(ocsp_options='unassigned = "good"')
    text = room.config_file.read_text().replace("[ca.ocsp]", f'profile = "{profile}"\n[ca.ocsp]')
    room.config_file.write_text(text)
    with pytest.raises(ConfigError, match=r'ocsp.unassigned must not be "good" in profile'):
        load_config(room.config_file)
