"""A token that fails, lies, hangs, crashes or goes away while answers are being signed: nothing wrong is stored, nothing else
is kept waiting, and all goes on by itself once it is well again.

The faults are tests/pkcs11_spy.c's, before a real SoftHSM; the keys are signed with by their real process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from responder.clock import ManualClock
from responder.config import load_config
from responder.issuers import Issuers
from responder.live import ReplyKind
from responder.signing import hsm
from responder.signing.delegation import open_response_signer
from responder.signing.presigner import LEASE_S, Presigner
from responder.store.layout import BUCKET_TARGET
from tests.pki import key_of, make_ca, make_signer
from tests.signing_room import GOOD, Room
from tests.softhsm import SoftHSMToken, Spy

SERIALS = range(1, 300)
REVOKED = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
MakeRoom = Callable[..., Room]


@pytest.fixture
def token(softhsm: Callable[..., SoftHSMToken]) -> SoftHSMToken:
    """A token that holds the room's signer."""
    made = softhsm()
    made.import_key(key_of("p256", "ocsp"), "signer", b"\x01")
    return made


@pytest.fixture
def token_room(make_room: MakeRoom, token: SoftHSMToken, spy: Spy) -> Room:
    """A room whose key is in the token, behind the spying module, with four sessions."""
    options = f'pin_file = "{token.pin_file}"\nsessions = 4'
    return make_room(key=token.uri("signer", module=spy.module), ocsp_options=options)


def run(room: Room, presigner: Presigner) -> int:
    """Let the presigner work until nothing is under way; returns the signatures made."""
    made = presigner.turn()
    while not presigner.is_idle:
        presigner.wait(1.0)
        made += presigner.turn()
    return made


def sign_all(room: Room, presigner: Presigner) -> None:
    """Advance the clock past any rest of the key, and sign until every certificate has its answer."""
    for _ in range(40):
        room.clock.advance(31)
        while presigner.pending():
            if run(room, presigner) == 0:
                break
        if len(room.all_stored(SERIALS)) == len(SERIALS):
            return
    raise AssertionError("not every answer was signed")


def test_a_token_signs_on_all_its_sessions(token_room: Room, spy: Spy) -> None:
    """Four sessions, one login; every answer verifies (Room.read)."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    assert presigner.run_until_idle() == len(SERIALS)
    assert len(token_room.all_stored(SERIALS)) == len(SERIALS)
    assert spy.login_count == 1


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("sign", "30"),
        ("sign", "b3"),
        ("sign", "5"),
        ("garbage", ""),
        ("raw", "1"),
        ("crash", ""),
        ("removed", ""),
        ("hang", ""),
    ],
)
def test_nothing_wrong_is_stored_and_all_goes_on(
    token_room: Room, spy: Spy, monkeypatch: pytest.MonkeyPatch, fault: str, text: str
) -> None:
    """ALG-08: whatever the token does, an answer is stored only if it verifies; recovery needs no restart."""
    if fault == "hang":
        monkeypatch.setattr(hsm, "STUCK_AFTER_S", 0.5)
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    spy.order(fault, text)
    for _ in range(3):
        run(token_room, presigner)
        token_room.clock.advance(31)
    assert not token_room.all_stored(SERIALS), "nothing of it is believed"
    spy.withdraw(fault)
    monkeypatch.setattr(hsm, "STUCK_AFTER_S", 10.0)
    sign_all(token_room, presigner)


def test_a_fault_in_the_middle_costs_what_was_under_way(token_room: Room, spy: Spy) -> None:
    """The token's process dies while some batches are stored and others are not; a revocation meanwhile is not lost."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    presigner.turn()
    while not token_room.all_stored(SERIALS):
        presigner.wait(1.0)
        presigner.turn()
    spy.order("crash", "")
    run(token_room, presigner)
    before = len(token_room.all_stored(SERIALS))
    token_room.change(5, REVOKED)
    spy.withdraw("crash")
    sign_all(token_room, presigner)
    assert 0 < before <= len(SERIALS)
    answer = token_room.stored(5)
    assert answer is not None
    assert answer.certificate_status.name == "REVOKED"


def test_a_failing_token_is_not_hammered(token_room: Room, spy: Spy) -> None:
    """Three minutes of failure: tries grow rarer, to one in half a minute, and each is one login."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    spy.order("sign", "30")
    for _ in range(60):
        run(token_room, presigner)
        token_room.clock.advance(3)
    assert spy.login_count <= 1 + 5 + 180 / 30
    assert spy.login_count >= 5, "and it is tried again and again"


def test_a_locked_pin_is_said_and_unlocking_suffices(
    token_room: Room, spy: Spy, capsys: pytest.CaptureFixture[str]
) -> None:
    """CKF_USER_PIN_LOCKED after a loss: no login is tried until the flag has gone."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    spy.order("flags", "40000")
    spy.order("sign", "b3")
    run(token_room, presigner)
    spy.withdraw("sign")
    for _ in range(3):
        token_room.clock.advance(31)
        run(token_room, presigner)
    assert spy.login_count == 1
    assert "is locked; its security officer must unlock it" in capsys.readouterr().out
    spy.withdraw("flags")
    sign_all(token_room, presigner)
    assert spy.login_count == 2


def test_a_process_that_is_killed_is_started_again(token_room: Room) -> None:
    """Somebody ends the token's process by its id, as the kernel does when memory is short."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    (host,) = hsm._hosts.values()
    assert host._process is not None
    host._process.send_signal(signal.SIGKILL)
    sign_all(token_room, presigner)


def test_a_revocation_goes_before_what_a_slow_token_has_before_it(token_room: Room, spy: Spy) -> None:
    """With every session busy with routine work, an urgent batch is signed before the rest of it."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    presigner.run_until_idle()
    token_room.clock.advance(2 * 86_400)
    token_room.set_as_of()
    spy.order("delay", f"{5_000:x}")
    presigner.turn()
    assert not presigner.is_idle
    token_room.change(5, REVOKED)
    made = 0
    while (answer := token_room.stored(5)) is None or answer.certificate_status.name != "REVOKED":
        token_room.clock.advance(0.1)
        made += presigner.turn()
        presigner.wait(1.0)
    assert made <= 256, "two buckets' worth of routine work at most was done before"
    spy.withdraw("delay")
    presigner.give_back()


def test_what_a_slow_token_has_signed_is_finished_soon(
    token_room: Room, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it always has more to do: a finish that waits for others would come after the lease, and all be done twice."""
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = token_room.presigner()
    (desk,) = presigner.desks.values()
    monkeypatch.setattr(desk.press, "_pace", lambda took_s, count: None)  # the test's clock has another one
    spy.order("delay", f"{5_000:x}")
    ca, store, clock = token_room.issuer.id, token_room.store, token_room.clock
    signed: list[int] = []
    while len(signed) < 5:
        clock.advance(1)
        presigner.turn()
        presigner.wait(1.0)
        signed = [bucket for bucket in range(16) if store.read_answer_bucket(ca, bucket, "sha1").answers]
    assert not presigner.is_idle
    finished = [bucket for bucket in signed if (store.due_at(ca, bucket) or 0) > clock.now() + 2 * LEASE_S]
    assert len(finished) >= 2
    spy.withdraw("delay")
    presigner.give_back()


def test_no_more_is_claimed_than_a_slow_token_signs_within_the_lease(token_room: Room) -> None:
    """But always something, and of a fast one enough that no session is idle."""
    presigner = token_room.presigner()
    (desk,) = presigner.desks.values()
    rooms = {}
    for per_second in (2, 10, 30, 100, 1_000):
        desk.press.seconds_each = 1 / per_second
        rooms[per_second] = presigner._room(desk)
        assert rooms[per_second] == 1 or rooms[per_second] * BUCKET_TARGET / per_second <= LEASE_S / 2
    assert rooms == {2: 1, 10: 1, 30: 3, 100: 3, 1_000: 3}


def test_another_ca_is_signed_for_while_a_token_hangs(
    token_room: Room, spy: Spy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The presigner does not wait for a token: a CA whose key is in a file goes on, live questions too."""
    monkeypatch.setattr(hsm, "STUCK_AFTER_S", 60.0)
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    make_signer(make_ca(other_dir, name="Other CA"))
    (other_dir / "index.txt").touch()
    config_file = tmp_path / "two.toml"
    config_file.write_text(
        token_room.config_file.read_text()
        + f"""
[[ca]]
name = "other"
certificate = "{other_dir}/ca.pem"
source = {{ type = "openssl", path = "{other_dir}/index.txt" }}
[ca.ocsp]
certificate = "{other_dir}/ocsp.pem"
key = "{other_dir}/ocsp.key"
"""
    )
    config = load_config(config_file)
    issuers = Issuers.from_config(config, str(config_file))
    corp, other = issuers
    soft = open_response_signer(other.config, other, config.data_dir, token_room.clock.now(), str(config_file))
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    hanging = token_room.issuer
    token_room.issuer = other
    token_room.load(dict.fromkeys(SERIALS, GOOD))
    clock: ManualClock = token_room.clock
    presigner = Presigner(
        token_room.new_store(), issuers, {corp.id: token_room.signer, other.id: soft}, clock, guard=token_room.guard()
    )
    spy.order("hang", "")
    stored = 0
    for _ in range(2_000):
        presigner.turn()
        found = token_room.store.read_answer_buckets(other.id, range(16), "sha1")
        if (stored := sum(len(bucket.answers) for bucket in found)) == len(SERIALS):
            break
        clock.advance(0.1)
    assert stored == len(SERIALS)
    assert not presigner.is_idle, "the token still owes what it was given"
    spy.withdraw("hang")
    token_room.issuer = hanging
    sign_all(token_room, presigner)


def test_a_live_question_to_a_hanging_token_is_refused_in_time(
    token_room: Room, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Void after two seconds, so nobody waits longer; then at once, while the key rests."""
    from responder.signing import press

    monkeypatch.setattr(press, "LIVE_WITHIN_S", 0.2)
    monkeypatch.setattr(hsm, "STUCK_AFTER_S", 0.3)
    from tests.unit.test_live import NONCE, Asker

    token_room.load(dict.fromkeys(SERIALS, GOOD))
    asker = Asker(token_room, token_room.live(token_room.presigner()))
    spy.order("hang", "")
    asker.send(("sha1", [5], NONCE))
    asker.live.poll()
    assert [reply.kind for reply in asker.receive()] == [ReplyKind.TRY_LATER]
    spy.withdraw("hang")
    monkeypatch.setattr(press, "LIVE_WITHIN_S", 20.0)
    token_room.clock.advance(31)
    for _ in range(3):
        asker.send(("sha1", [5], NONCE))
        asker.live.poll()
        token_room.clock.advance(31)
    assert asker.receive()[-1].kind is ReplyKind.ANSWER
