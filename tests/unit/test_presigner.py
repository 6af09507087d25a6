"""The presigner on a real Redis with real keys: what it signs, when, how often, and what it leaves alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from prometheus_client import REGISTRY

from responder import audit, metrics
from responder.clock import ManualClock, format_utc
from responder.errors import OperatorError, SignerUnavailable, StoreUnavailable
from responder.signing.clock_guard import ClockGuard
from responder.signing.presigner import LEASE_S
from responder.store.layout import DUE_REVOKED
from tests.components import need
from tests.pki import make_signer
from tests.redis_fixture import RedisServer
from tests.signing_room import DAY_S, GOOD, Room

RoomMaker = Callable[..., Room]
SERIALS = range(1, 301)


def revoked(at: float, reason: str = "keyCompromise", *words: str) -> str:
    return " ".join(["revoked", format_utc(at), reason, "exp=2049-12-31T23:59:59Z", *words])


def seconds(answer: ocsp.OCSPResponse | None) -> tuple[int, int, int]:
    """Return thisUpdate, nextUpdate and producedAt."""
    assert answer is not None
    assert answer.next_update_utc is not None
    return (
        int(answer.this_update_utc.timestamp()),
        int(answer.next_update_utc.timestamp()),
        int(answer.produced_at_utc.timestamp()),
    )


def test_every_answer_is_signed_once_and_verifies(each_redis: RedisServer, make_room: RoomMaker) -> None:
    room = make_room(each_redis)
    now = int(room.clock.now())
    texts = dict.fromkeys(SERIALS, GOOD)
    texts |= {serial: revoked(now - serial, "superseded") for serial in SERIALS if serial % 10 == 0}
    texts[1] = "good exp=" + format_utc(now - DAY_S)
    texts[2] = revoked(now - 5, "unspecified")
    texts[(1 << 159) - 5] = GOOD
    room.load(texts, as_of=now - 30)
    presigner = room.presigner()
    heard: list[int] = []
    assert presigner.pending() > 0
    assert presigner.run_until_idle(heard.append) == len(texts) == room.key.count
    assert heard[-1] == len(texts)
    assert presigner.pending() == 0
    answers = room.all_stored(list(texts))
    assert answers.keys() == texts.keys()
    for serial, answer in answers.items():
        is_revoked = texts[serial].startswith("revoked")
        assert answer.certificate_status is (ocsp.OCSPCertStatus.REVOKED if is_revoked else ocsp.OCSPCertStatus.GOOD)
        assert answer.serial_number == serial
        assert answer.issuer_key_hash == room.ca.issuer_key_hash()
        # TIM-01
        assert seconds(answer) == (now - 30, now - 30 + 4 * DAY_S, now)
    assert answers[2].revocation_reason is None
    assert answers[10].revocation_time_utc is not None
    assert answers[10].revocation_time_utc.timestamp() == now - 10
    assert presigner.run_until_idle() == 0, "nothing is signed twice"


@pytest.mark.parametrize(
    "key_type", ["rsa2048", "rsa2048pss", "p384", "p521", "ed25519", "mldsa44", "mldsa65", "mldsa87"]
)
def test_other_keys(make_room: RoomMaker, key_type: str) -> None:
    room = make_room(key_type=key_type)
    room.load(dict.fromkeys(range(1, 40), GOOD))
    assert room.presigner().run_until_idle() == 39
    assert len(room.all_stored(range(1, 40))) == 39


def test_openssl_believes_a_stored_answer(room: Room) -> None:
    need("openssl")
    serial = room.ca.certificate.serial_number  # openssl wants a certificate to ask for
    room.load({serial: GOOD})
    room.presigner().run_until_idle()
    answer = room.stored(serial)
    assert answer is not None
    (room.directory / "answer.der").write_bytes(answer.public_bytes(Encoding.DER))
    said = subprocess.run(
        [
            "openssl",
            "ocsp",
            "-respin",
            "answer.der",
            "-issuer",
            "ca.pem",
            "-CAfile",
            "ca.pem",
            "-cert",
            "ca.pem",
            "-no_nonce",
        ],
        cwd=room.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Response verify OK" in said.stderr
    assert "ca.pem: good" in said.stdout


def test_a_revocation_costs_one_signature(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    room.clock.advance(5)
    now = int(room.clock.now())
    room.key.count = 0
    room.change(7, revoked(now - 1))
    assert room.stored(7) is None
    assert presigner.run_once() == room.key.count == 1
    answer = room.stored(7)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_reason is not None
    # Promise 2: as of when the source was read, not of when it was signed.
    assert seconds(answer) == (now - 5, now - 5 + 4 * DAY_S, now)
    assert len(room.all_stored(SERIALS)) == len(SERIALS), "the others stand"
    assert presigner.run_until_idle() == 0
    room.change(7, GOOD, "released")
    assert presigner.run_until_idle() == 1
    released = room.stored(7)
    assert released is not None
    assert released.certificate_status is ocsp.OCSPCertStatus.GOOD


def test_revocations_come_first(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD), bits=8)
    presigner = room.presigner()
    presigner.run_once()
    room.change(250, revoked(room.clock.now()))
    presigner.run_once()
    assert presigner.pending() > 0
    assert room.stored(250) is not None


def test_a_restart_goes_on_where_the_last_one_ended(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD), bits=8)
    made = room.presigner().run_once()
    assert 0 < made < len(SERIALS)
    assert made + room.presigner().run_until_idle() == len(SERIALS) == room.key.count


def test_a_claim_that_died_comes_due_again(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD))
    dead = room.new_store()
    claims = dead.claim_due(range(16), room.clock.now(), LEASE_S, 5)
    assert len(claims) == 5
    presigner = room.presigner()
    presigner.run_until_idle()
    assert len(room.all_stored(SERIALS)) < len(SERIALS)
    room.clock.advance(LEASE_S + 1)
    presigner.run_until_idle()
    assert len(room.all_stored(SERIALS)) == len(SERIALS) == room.key.count


def test_stopped_while_signing_gives_its_claims_back(room: Room) -> None:
    class Stopped(Exception):
        pass

    def stop(_: int) -> None:
        raise Stopped

    room.load(dict.fromkeys(SERIALS, GOOD))
    with pytest.raises(Stopped):
        room.presigner().run_until_idle(stop)
    # At once, not after the lease.
    room.presigner().run_until_idle()
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


@pytest.mark.parametrize("cut", ["ca_info", "read_status_buckets", "send_answers"])
def test_a_connection_that_is_cut_holds_up_no_revocation(room: Room, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    """Wherever it was cut, what was claimed is due again at once, and as urgent."""
    room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    room.change(5, revoked(room.clock.now()))

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("it was cut")

    with monkeypatch.context() as patched:
        patched.setattr(presigner._store, cut, fail)
        if cut == "read_status_buckets":
            patched.setattr(presigner._store, "read_status_bucket", fail)
            patched.setattr(presigner._store, "time", fail)
        with pytest.raises(StoreUnavailable):
            presigner.run_until_idle()
    assert room.store.due_at(room.issuer.id, room.bucket_of(5)) == DUE_REVOKED
    assert presigner.run_until_idle() == 1


def test_signatures_that_nobody_gets_are_written_down(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A presigner that is stopped has used its key."""
    lines: list[tuple[str, int]] = []
    monkeypatch.setattr(audit, "record", lambda event, **fields: lines.append((event, fields.get("count", 0))))
    room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = room.presigner()
    presigner.turn()
    assert not presigner.is_idle
    made = room.key.count
    presigner.give_back()
    assert lines[-1:] == [("signatures_dropped", made)]
    presigner.run_until_idle()
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


def test_two_presigners_never_sign_the_same(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD), bits=8)
    one, other = room.presigner(), room.presigner()
    shares = [0, 0]
    while made := (one.run_once(), other.run_once()):
        shares = [shares[0] + made[0], shares[1] + made[1]]
        if made == (0, 0):
            break
    assert sum(shares) == len(SERIALS) == room.key.count
    assert min(shares) > 0
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


def test_a_status_that_changes_while_it_is_signed_is_not_stored(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD))
    changed = False

    def revoke() -> None:
        nonlocal changed
        if not changed:
            changed = True
            room.change(7, revoked(room.clock.now()))
            room.change(8, None, "purged")

    room.key.on_sign = revoke
    presigner = room.presigner()
    bucket = room.bucket_of(7)
    while room.stored(9) is None or presigner.pending():
        presigner.run_once()
        for serial in (7, 8):
            answer = room.stored(serial)
            assert answer is None or answer.certificate_status is ocsp.OCSPCertStatus.REVOKED, f"bucket {bucket:x}"
    answer = room.stored(7)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert room.stored(8) is None


def test_as_of_that_stands_still_lets_answers_run_out(room: Room) -> None:
    """A source out of reach: answers keep their dates, are not signed afresh, and after nextUpdate are not made."""
    room.load(dict.fromkeys(range(1, 50), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    as_of = int(room.clock.now())
    room.key.count = 0
    for _ in range(12):
        room.clock.advance(DAY_S / 3)
        presigner.run_until_idle()
        assert seconds(room.stored(9))[0] == as_of
    assert room.key.count == 0
    room.clock.advance(1)
    before = REGISTRY.get_sample_value("revocast_not_signed_total", {"ca": "corp", "reason": "source_too_old"}) or 0
    room.change(9, revoked(room.clock.now() - 10))
    room.change(10, revoked(room.clock.now() - 10, "superseded", "by=operator"))
    presigner.run_until_idle()
    assert room.stored(9) is None, "known from the source alone, of which nothing new is known"
    operators = room.stored(10)
    assert operators is not None
    now = int(room.clock.now())
    assert seconds(operators) == (now, now + 4 * DAY_S, now)
    after = REGISTRY.get_sample_value("revocast_not_signed_total", {"ca": "corp", "reason": "source_too_old"}) or 0
    assert after > before
    room.set_as_of()
    room.clock.advance(3)
    presigner.run_until_idle()
    assert len(room.all_stored(range(1, 50))) == 49
    assert seconds(room.stored(9))[0] == now


def test_answers_are_refreshed_before_half_of_their_validity(room: Room) -> None:
    """BR-02, RTP-05: polled for two periods, no answer is ever older than half of its validity."""
    room.load(dict.fromkeys(range(1, 200), GOOD), bits=6)
    presigner = room.presigner()
    presigner.run_until_idle()
    counts = []
    for _ in range(4 * 24):
        room.clock.advance(3600)
        room.set_as_of()
        counts.append(presigner.run_until_idle())
        oldest = min(seconds(answer)[0] for answer in room.all_stored(range(1, 200, 20)).values())
        assert room.clock.now() - oldest < 2 * DAY_S
    assert 199 < sum(counts) < 3 * 199
    assert max(counts) < 30, "the load is spread, also after a first load in one instant"


def test_without_as_of_nothing_is_signed(room: Room) -> None:
    room.load({1: GOOD, 2: revoked(room.clock.now() - 9, "superseded", "by=operator")})
    room.server.client().hdel(f"rc:ca:{room.issuer.id}", "as_of")
    presigner = room.presigner()
    assert presigner.run_until_idle() == 0
    room.clock.advance(2)
    assert presigner.run_until_idle() == 0
    room.set_as_of()
    room.clock.advance(2)
    assert presigner.run_until_idle() == 2


def test_a_revocation_dated_ahead(room: Room) -> None:
    at = int(room.clock.now()) + 3600
    room.load({1: GOOD, 2: GOOD})
    presigner = room.presigner()
    presigner.run_until_idle()
    room.change(1, revoked(at), due_at=room.clock.now())
    presigner.run_until_idle()
    answer = room.stored(1)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert seconds(answer)[1] == at
    room.clock.advance(3599)
    assert presigner.run_until_idle() == 0
    room.clock.advance(1)
    assert presigner.run_until_idle() == 1
    answer = room.stored(1)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_time_utc is not None
    assert answer.revocation_time_utc.timestamp() == at


def test_expired_certificates(make_room: RoomMaker) -> None:
    """EXT-03: within its retention with archiveCutoff; ERR-05: past it, no answer."""
    room = make_room(ca_options='retention = "10d"')
    now = int(room.clock.now())
    room.load({1: f"good exp={format_utc(now - DAY_S)}", 2: f"good exp={format_utc(now - 10 * DAY_S)}", 3: GOOD})
    room.presigner().run_until_idle()
    answer = room.stored(1)
    assert answer is not None
    (cutoff,) = answer.single_extensions
    assert cutoff.oid.dotted_string == "1.3.6.1.5.5.7.48.1.6"
    assert not cutoff.critical
    text = format_utc(now - 10 * DAY_S).translate(str.maketrans("", "", "-:T")).encode()
    assert cutoff.value.public_bytes() == b"\x18\x0f" + text
    assert room.stored(2) is None
    plain = room.stored(3)
    assert plain is not None
    assert len(plain.single_extensions) == 0


def test_archive_cutoff_of_the_issuer(make_room: RoomMaker) -> None:
    """ETS-08: archiveCutoff is the CA certificate's notBefore."""
    room = make_room(ca_options='profile = "etsi"\nretention = "4000d"', ocsp_options='archive_cutoff = "issuer"')
    room.load({1: f"good exp={format_utc(room.clock.now() - DAY_S)}"})
    room.presigner().run_until_idle()
    answer = room.stored(1)
    assert answer is not None
    not_before = format_utc(room.ca.certificate.not_valid_before_utc.timestamp())
    text = not_before.translate(str.maketrans("", "", "-:T")).encode()
    assert answer.single_extensions[0].value.public_bytes() == b"\x18\x0f" + text


def test_a_signer_about_to_end(make_room: RoomMaker) -> None:
    """DEL-05: nextUpdate ends with the certificate in the answer; DEL-04: the next signer takes over in time."""
    room = make_room()
    end = int(room.clock.now()) + DAY_S
    make_signer(room.ca, not_after=end)
    room.take_up_signer()
    room.load(dict.fromkeys(range(1, 50), GOOD))
    old = room.presigner()
    old.run_until_idle()
    assert {seconds(answer)[1] for answer in room.all_stored(range(1, 50)).values()} == {end}
    room.clock.advance(3 * 3600)
    room.set_as_of()
    assert old.run_until_idle() == 0, "the same signer can say nothing that lasts longer"
    make_signer(room.ca)
    room.take_up_signer()
    new = room.presigner()
    room.clock.advance(300)
    assert new.run_until_idle() == 49
    until = int(room.clock.now()) - 300 + 4 * DAY_S
    assert {seconds(answer)[1] for answer in room.all_stored(range(1, 50)).values()} == {until}
    # The other way round: past its end, the old one signs nothing.
    room.clock.advance(DAY_S)
    room.set_as_of()
    room.change(9, revoked(room.clock.now()))
    assert old.run_until_idle() == 0
    assert room.stored(9) is None
    room.clock.advance(5)
    new.run_until_idle()
    assert room.stored(9) is not None


def test_a_new_signer_takes_over_little_by_little(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 50), GOOD))
    room.presigner().run_until_idle()
    make_signer(room.ca, label="ocsp-next")
    room.take_up_signer()
    presigner = room.presigner()
    room.clock.advance(3600)
    room.set_as_of()
    assert presigner.run_until_idle() == 0, "the old one's answers are as good as ever"
    room.change(7, revoked(room.clock.now()))
    assert presigner.run_until_idle() == 1
    assert len(room.all_stored(range(1, 50))) == 49, "each verifies with the certificate that it carries"
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    assert presigner.run_until_idle() == 49


def test_a_wrong_clock_signs_nothing(room: Room) -> None:
    """TIM-07: nothing is signed while this clock and Redis's disagree, or just after it was stepped back."""
    room.load(dict.fromkeys(range(1, 20), GOOD))
    redis_clock = ManualClock(room.clock.now() + 3)
    presigner = room.presigner(guard=ClockGuard(room.clock, redis_clock.now))
    assert presigner.run_once() == 0
    assert REGISTRY.get_sample_value("revocast_clock_agrees") == 0
    with pytest.raises(OperatorError, match=r"-3\.0 s from Redis"):
        presigner.run_until_idle()
    redis_clock.step(-2)
    room.clock.advance(1)
    redis_clock.advance(1)
    assert presigner.run_until_idle() == 19
    assert REGISTRY.get_sample_value("revocast_clock_agrees") == 1
    room.clock.step(-5)
    redis_clock.step(-5)
    room.change(1, revoked(room.clock.now()))
    assert presigner.run_once() == 0
    for clock in (room.clock, redis_clock):
        clock.advance(1)
    # Both clocks agree by now, but the source was read in what is the future.
    assert presigner.run_once() == 0
    for clock in (room.clock, redis_clock):
        clock.advance(4)
    assert presigner.run_until_idle() == 1


def test_a_step_back_is_noticed_where_both_clocks_made_it(room: Room) -> None:
    """TIM-07: Redis on the same machine steps along, and the source was read long ago."""
    room.load({1: GOOD}, as_of=room.clock.now() - 100)
    presigner = room.presigner()
    presigner.run_until_idle()
    room.change(1, revoked(room.clock.now() - 50))
    room.clock.step(-5)
    assert presigner.run_once() == 0
    room.clock.advance(1)
    assert presigner.run_once() == 1


def test_redis_time_is_the_other_clock(room: Room) -> None:
    room.load({1: GOOD})
    room.clock.step(room.store.time() - room.clock.now() - 60)
    assert room.presigner(guard=None).run_once() == 0
    room.clock.step(60)
    assert room.presigner(guard=None).run_once() == 1


def test_a_purged_certificate(room: Room) -> None:
    room.load({1: GOOD, 2: GOOD})
    presigner = room.presigner()
    presigner.run_until_idle()
    room.change(1, None, "purged")
    assert room.stored(1) is None
    assert presigner.run_until_idle() == 0
    room.change(2, None, "purged")
    room.clock.advance(3 * DAY_S)
    room.set_as_of()
    assert presigner.run_until_idle() == 0
    assert presigner.pending() == 0


def test_sha256_answers_are_kept_up_while_asked_for(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 50), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    assert room.all_stored(range(1, 50), "sha256") == {}
    room.store.set_sha256_asked(room.issuer.id, room.clock.now())
    room.change(7, revoked(room.clock.now()))
    assert presigner.run_until_idle() == 2, "one for each kind, and none for those that nobody asked for"
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    assert presigner.run_until_idle() == 98
    answers = room.all_stored(range(1, 50), "sha256")
    assert len(answers) == 49
    assert all(answer.issuer_key_hash == room.ca.issuer_key_hash("sha256") for answer in answers.values())
    room.clock.advance(4 * DAY_S)
    room.set_as_of()
    assert presigner.run_until_idle() == 49
    assert room.all_stored(range(1, 50), "sha256") == {}, "let go"


def test_sha256_answers_that_a_revocation_passes_over_are_refreshed_next(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 10), GOOD))
    room.store.set_sha256_asked(room.issuer.id, room.clock.now())
    presigner = room.presigner()
    presigner.run_until_idle()
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    refreshed = int(room.clock.now())
    room.change(7, revoked(refreshed))
    presigner.run_until_idle()
    for answer in room.all_stored(range(1, 10), "sha256").values():
        assert seconds(answer)[0] == refreshed, "it would run out when its bucket is due again"


def test_an_override_and_its_end(room: Room) -> None:
    """STS-07: the CA's key is compromised: every answer says revoked, also where the source is out of reach."""
    room.load(dict.fromkeys(range(1, 50), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    room.clock.advance(10 * DAY_S)
    now = int(room.clock.now())
    room.store.set_override(room.issuer.id, f"revoked {format_utc(now - 60)} cACompromise")
    assert presigner.run_until_idle() == 49
    for answer in room.all_stored(range(1, 50)).values():
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert seconds(answer)[0] == now
    room.store.clear_override(room.issuer.id)
    room.set_as_of()
    assert presigner.run_until_idle() == 49
    answer = room.stored(1)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD


def test_an_override_that_comes_while_signing(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 50), GOOD))
    done = False

    def compromise() -> None:
        nonlocal done
        if not done:
            done = True
            room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now())} cACompromise")

    room.key.on_sign = compromise
    room.presigner().run_until_idle()
    for answer in room.all_stored(range(1, 50)).values():
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_an_override_that_was_set_half_way(room: Room) -> None:
    """Setting it was cut short after rc:ca:<ca>: nothing says good, and the key is not kept busy for nothing."""
    room.load({1: GOOD})
    room.server.client().hset(
        f"rc:ca:{room.issuer.id}", "override", f"revoked {format_utc(room.clock.now())} cACompromise"
    )
    presigner = room.presigner()
    presigner.run_until_idle()
    assert room.key.count == 2
    assert room.stored(1) is None
    room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now())} cACompromise")
    presigner.run_until_idle()
    answer = room.stored(1)
    assert answer is not None
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_an_override_that_nobody_understands(room: Room) -> None:
    room.load({1: GOOD})
    room.server.client().hset(f"rc:ca:{room.issuer.id}", "override", "all revoked, please")
    assert room.presigner().run_until_idle() == 0
    assert room.stored(1) is None


def test_a_signature_that_does_not_verify_is_never_stored(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 50), GOOD))
    room.key.spoil = lambda signature: signature[:-1] + bytes([signature[-1] ^ 1])
    presigner = room.presigner()
    with pytest.raises(SignerUnavailable, match="does not verify"):
        presigner.run_until_idle()
    assert room.all_stored(range(1, 50)) == {}
    room.key.spoil = lambda signature: signature
    room.clock.advance(31)
    assert presigner.run_until_idle() == 49


def test_a_key_that_fails_is_tried_again(room: Room) -> None:
    def fail() -> None:
        raise SignerUnavailable("the token is gone")

    room.load(dict.fromkeys(range(1, 50), GOOD))
    room.key.on_sign = fail
    presigner = room.presigner()
    assert presigner.run_once() == 0
    assert room.key.count == 0
    room.key.on_sign = lambda: None
    room.clock.advance(10)
    presigner.run_until_idle()
    assert len(room.all_stored(range(1, 50))) == 49


def test_signing_is_cut_into_slices(room: Room) -> None:
    """Between slices of about ten milliseconds somebody else has a turn, however slow the key."""
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.key.on_sign = lambda: room.clock.advance(0.004)
    turns = 0

    def turn(_: int) -> None:
        nonlocal turns
        turns += 1

    room.presigner().run_until_idle(turn)
    assert turns > 30
    assert max(room.key.batches) < 100
    room.key.on_sign = lambda: room.clock.advance(0.05)
    room.key.batches.clear()
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    room.presigner().run_until_idle()
    assert set(room.key.batches[1:]) == {1}, "a token that takes 50 ms"


def test_a_lost_bucket_does_not_stop_the_others(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 100), GOOD))
    room.server.client().delete(room.store.layout.status(room.issuer.id, 3))
    room.presigner().run_until_idle()
    serials = [serial for serial in range(1, 100) if _partition(room, serial) != 3]
    assert len(serials) < 99
    assert len(room.all_stored(serials)) == len(serials)


def _partition(room: Room, serial: int) -> int:
    from responder.model import serial_to_octets
    from responder.store.layout import serial_hash

    return serial_hash(serial_to_octets(serial)) & 15


def test_a_full_store_takes_only_revocations(make_room: RoomMaker) -> None:
    room = make_room()
    server = room.server
    room.load(dict.fromkeys(range(1, 50), GOOD))
    server.client().set("something-large", b"x" * 20_000_000)
    presigner = room.presigner()
    server.client().config_set("maxmemory", int(server.client().info("memory")["used_memory"] / 0.9))
    room.change(7, revoked(room.clock.now()))
    for _ in range(5):
        presigner.run_once()
    assert room.stored(7) is not None
    bucket = room.bucket_of(7)
    others = [serial for serial in range(1, 50) if room.bucket_of(serial) != bucket]
    assert room.all_stored(others) == {}
    server.client().config_set("maxmemory", 0)
    room.clock.advance(6)
    presigner.run_until_idle()
    assert len(room.all_stored(range(1, 50))) == 49


def test_a_ca_that_is_not_configured_is_left_to_others(room: Room) -> None:
    room.load({1: GOOD})
    """What is urgent keeps its place; what is routine is put off, so that it hides nothing."""
    other, client = "00112233445566aa", room.server.client()
    client.zadd("rc:{3}:due", {f"{other}:3": DUE_REVOKED, f"{other}:13": room.clock.now() - 1})
    presigner = room.presigner()
    assert presigner.run_until_idle() == 1
    assert client.zscore("rc:{3}:due", f"{other}:3") == DUE_REVOKED
    assert client.zscore("rc:{3}:due", f"{other}:13") > room.clock.now()


def test_the_first_answer_to_run_out_is_known_after_a_restart(room: Room) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD), bits=8)
    room.presigner().run_until_idle()
    room.change(5, revoked(room.clock.now() + 7000), due_at=room.clock.now())
    room.presigner().run_until_idle()
    metrics.SOONEST_NEXT_UPDATE.labels("corp").set(0)
    room.presigner().run_once()
    soonest = REGISTRY.get_sample_value("revocast_soonest_next_update_seconds", {"ca": "corp"})
    assert soonest == int(room.clock.now()) + 7000


def test_figures(room: Room) -> None:
    room.load(dict.fromkeys(range(1, 50), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    room.clock.advance(6)
    presigner.run_once()
    soonest = REGISTRY.get_sample_value("revocast_soonest_next_update_seconds", {"ca": "corp"})
    assert soonest == int(room.clock.now()) - 6 + 4 * DAY_S
    assert REGISTRY.get_sample_value("revocast_due_buckets", {"urgency": "routine"}) == 0
    assert REGISTRY.get_sample_value("revocast_signatures_total", {"ca": "corp", "why": "routine"})


def test_a_revocation_keeps_its_place_while_the_key_rests(room: Room) -> None:
    """It is not put off among routine work, and is the first that is signed when the key works again."""
    room.load(dict.fromkeys(range(1, 300), GOOD))
    presigner = room.presigner()
    presigner.run_until_idle()
    room.clock.advance(2 * DAY_S)
    room.set_as_of()

    def fail() -> None:
        raise SignerUnavailable("the token is gone")

    room.key.on_sign = fail
    room.change(7, revoked(int(room.clock.now())))
    bucket = room.bucket_of(7)
    for _ in range(3):
        presigner.run_once()
        assert room.store.due_at(room.issuer.id, bucket) == DUE_REVOKED
    room.key.on_sign = lambda: None
    room.clock.advance(31)
    before = room.key.count
    while (answer := room.stored(7)) is None or answer.certificate_status.name != "REVOKED":
        presigner.turn()
        assert room.key.count - before <= 4, "the first slice"
    presigner.give_back()
