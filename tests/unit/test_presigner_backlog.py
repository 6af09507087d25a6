"""What is urgent does not wait for what is queued: counted in signatures, with every bucket's refresh overdue and a slow key."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cryptography.x509 import ocsp

from responder.clock import format_utc
from responder.model import serial_to_octets
from responder.signing.presigner import CLAIM_SIGNING_S, Presigner
from responder.store.layout import DUE_ASKED_FOR
from tests.signing_room import DAY_S, GOOD, Room

SERIALS = range(1, 1_001)
BITS = 5  # some 31 certificates each
SECONDS_EACH = 0.004
SLICE = CLAIM_SIGNING_S / SECONDS_EACH  # signatures that a round of claims is worth


def revoked(at: float) -> str:
    return f"revoked {format_utc(at)} keyCompromise exp=2049-12-31T23:59:59Z"


def end_of_cert_id(room: Room, serial: int) -> bytes:
    """Return what no message but the serial's holds: issuerKeyHash and serialNumber."""
    octets = serial_to_octets(serial)
    return room.issuer.key_hashes["sha1"] + bytes([2, len(octets)]) + octets


@pytest.fixture
def presigner(room: Room) -> Presigner:
    """Give a presigner that knows how slow its key is, and has every bucket before it again."""
    room.load(dict.fromkeys(SERIALS, GOOD), bits=BITS)

    def take_time(signature: bytes) -> bytes:
        room.clock.advance(SECONDS_EACH)
        return signature

    room.key.spoil = take_time
    made = room.presigner()
    made.run_until_idle()
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    assert made.pending() == 1 << BITS
    room.key.count = 0
    room.key.batches.clear()
    return made


def status_of(room: Room, serial: int) -> ocsp.OCSPCertStatus | None:
    answer = room.stored(serial)
    return None if answer is None else answer.certificate_status


def test_a_revocation_amid_a_backlog_is_signed_next(room: Room, presigner: Presigner) -> None:
    """Once it is committed, no more routine work is done than a round of claims is worth, and it is one signature."""
    before, after, of_bucket = 0, 0, 0
    says_revoked, members = b"", list[bytes]()
    signs = room.key.signer.sign

    def commit() -> None:
        nonlocal says_revoked, members
        buckets = {serial: room.bucket_of(serial) for serial in SERIALS}
        now = room.clock.now()
        # One of those whose refresh waits, and is not claimed.
        waiting = [number for number in set(buckets.values()) if (room.store.due_at(room.issuer.id, number) or 0) < now]
        members = [end_of_cert_id(room, serial) for serial in SERIALS if buckets[serial] == waiting[-1]]
        victim = next(serial for serial in SERIALS if buckets[serial] == waiting[-1])
        says_revoked = end_of_cert_id(room, victim) + b"\xa1"  # certStatus revoked follows
        room.change(victim, revoked(now))

    class Watching:
        """Commits the revocation amid the backlog, and sees when it is signed."""

        signed = False

        def sign(self, messages: Sequence[bytes]) -> list[bytes]:
            nonlocal before, after, of_bucket
            for message in messages:
                if not says_revoked:
                    before += 1
                elif not self.signed:
                    self.signed = says_revoked in message
                    after += not self.signed
                    of_bucket += any(member in message for member in members)
            if not says_revoked and before > 150:
                commit()
            return signs(messages)

    watching = Watching()
    room.key.signer.sign = watching.sign  # type: ignore[method-assign]
    presigner.run_until_idle()
    assert watching.signed
    assert after <= SLICE
    assert before + after < len(SERIALS) // 2, "there was a backlog"
    assert of_bucket == 1, "not its bucket's"
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


def test_a_revocation_whose_bucket_is_to_be_refreshed_costs_one_signature(room: Room, presigner: Presigner) -> None:
    """The bucket's routine refresh, due at the same moment, is put off behind it and then done once, as routine work."""
    bucket = room.bucket_of(700)
    members = [serial for serial in SERIALS if room.bucket_of(serial) == bucket]
    room.change(700, revoked(room.clock.now()))
    presigner.run_once()
    assert room.key.batches[0] == 1
    assert status_of(room, 700) is ocsp.OCSPCertStatus.REVOKED
    due = room.store.due_at(room.issuer.id, bucket)
    assert due is not None
    assert DUE_ASKED_FOR < due <= room.clock.now()
    presigner.run_until_idle()
    # Its neighbours are most of the bucket, so it is signed whole under one header: the revoked one twice in all.
    assert room.key.count == len(SERIALS) + 1
    fresh = {answer.this_update_utc for answer in room.all_stored(members).values()}
    assert len(fresh) == 1


def test_a_revocation_amid_a_first_load_costs_one_signature(room: Room) -> None:
    """Nothing of its bucket was ever signed; the others wait for their turn, and nothing is signed twice."""
    room.load(dict.fromkeys(SERIALS, GOOD), bits=BITS)
    made = room.presigner()
    made.run_once()
    made.run_once()
    waiting = next(serial for serial in SERIALS if room.stored(serial) is None)
    room.change(waiting, revoked(room.clock.now()))
    room.key.batches.clear()
    made.run_once()
    assert room.key.batches[0] == 1
    assert status_of(room, waiting) is ocsp.OCSPCertStatus.REVOKED
    made.run_until_idle()
    assert room.key.count == len(SERIALS)
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


def test_a_new_certificate_that_is_asked_for_comes_before_the_backlog(room: Room, presigner: Presigner) -> None:
    """One signature; and not asked for, it has its turn with its bucket's."""
    room.change(5_000, GOOD, "new", due_at=room.clock.now())
    room.change(6_000, GOOD, "new", due_at=room.clock.now())
    bucket = room.bucket_of(5_000)
    room.store.make_due(room.issuer.id, bucket, DUE_ASKED_FOR)
    presigner.run_once()
    assert room.key.batches[0] == 1
    assert status_of(room, 5_000) is ocsp.OCSPCertStatus.GOOD
    assert presigner.pending() > 20
    presigner.run_until_idle()
    assert status_of(room, 6_000) is ocsp.OCSPCertStatus.GOOD


def test_a_new_certificate_is_signed_alone_and_at_once(room: Room, presigner: Presigner) -> None:
    """Without a backlog nobody has to ask for it."""
    presigner.run_until_idle()
    room.clock.advance(60)
    room.key.count = 0
    room.change(5_000, GOOD, "new", due_at=room.clock.now())
    assert presigner.run_once() == room.key.count == 1
    assert status_of(room, 5_000) is ocsp.OCSPCertStatus.GOOD
