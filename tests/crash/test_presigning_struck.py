"""A presigning batch cut off, killed, or overtaken by a revocation at every one of its commands."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp

from responder import revocation
from responder.model import CRLReason, serial_to_octets
from responder.signing.presigner import LEASE_S
from responder.store.layout import MIN_BITS, STORED_HASHES, bucket_number, due_member, serial_hash
from tests.crash import snapshot
from tests.crash.driver import Driver
from tests.crash.proxy import StrikingProxy
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

MOST_COMMANDS = 400  # of one batch; the loops below end long before
BUCKETS = 2
REVOKED = "revoked 2026-11-01T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"


def serials_in(buckets: int, each: int) -> list[int]:
    """Return serials that lie in that many buckets."""
    found: dict[int, list[int]] = {}
    for serial in range(1_000, 10_000):
        mine = found.setdefault(bucket_number(serial_hash(serial_to_octets(serial)), MIN_BITS), [])
        if len(mine) < each:
            mine.append(serial)
    return [serial for number in sorted(found)[:buckets] for serial in found[number]]


SERIALS = serials_in(BUCKETS, 3)
ALREADY_REVOKED = SERIALS[0]
VICTIM = SERIALS[-1]


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Room:
    """Give a CA of a few certificates, all of them to be signed under both hashes."""
    made = Room(redis_server(), tmp_path)
    made.load({serial: REVOKED if serial == ALREADY_REVOKED else GOOD for serial in SERIALS})
    made.store.set_sha256_asked(made.issuer.id, made.clock.now())
    return made


@pytest.fixture
def start_over(room: Room) -> Callable[[], None]:
    """Give what puts the room back to where no answer was signed."""
    client = room.server.client()
    dumps = {key: client.dump(key) for key in client.scan_iter(match="*", count=1_000)}
    began = room.clock.now()

    def back() -> None:
        client.flushall()
        client.script_flush()
        for key, dump in dumps.items():
            client.restore(key, 0, dump)
        room.clock.advance(began - room.clock.now())

    return back


def check_answers(room: Room, *, revoked: set[int], whole: bool) -> None:
    """Fail unless every answer stored says what its serial's status says; ``whole``: and none is missing."""
    for hash_name in STORED_HASHES:
        for serial in SERIALS:
            answer = room.stored(serial, hash_name)
            if answer is None:
                assert not whole, f"no {hash_name} answer of {serial:x}"
                continue
            expected = ocsp.OCSPCertStatus.REVOKED if serial in revoked else ocsp.OCSPCertStatus.GOOD
            assert answer.certificate_status is expected
            assert answer.serial_number == serial
            assert answer.next_update_utc is not None
            assert answer.next_update_utc.timestamp() > room.clock.now()


def check_nothing_is_forgotten(room: Room, state: snapshot.Snapshot) -> None:
    """Fail where a bucket lacks an answer and is not due within a lease."""
    for serial in SERIALS:
        octets = serial_to_octets(serial)
        number = bucket_number(serial_hash(octets), MIN_BITS)
        answers = [state.get(snapshot.LAYOUT.answers(room.issuer.id, number, name), {}) for name in STORED_HASHES]
        if not all(octets in fields for fields in answers):
            score = state[snapshot.LAYOUT.due(number)][due_member(room.issuer.id, number).encode()]
            assert score <= room.clock.now() + LEASE_S


@pytest.mark.parametrize("deliver", [True, False], ids=["delivered", "withheld"])
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "cut"])
def test_batch_leaves_nothing_wrong_and_is_done_again(
    room: Room,
    proxy_to: Callable[..., StrikingProxy],
    driver: Driver,
    start_over: Callable[[], None],
    deliver: bool,
    kill: bool,
) -> None:
    """For every k: strike at the k-th command, look, and let the next batch finish."""
    proxy = proxy_to(room.server.directory / "proxy.sock", room.server.socket_path)
    client = room.server.client()
    task = {"do": "sign", "redis": str(proxy.path), "config": str(room.config_file), "now": room.clock.now()}
    stored: set[int] = set()
    tried: set[str] = set()
    for k in range(1, MOST_COMMANDS):
        start_over()
        before = snapshot.take(client)
        proxy.heal()
        proxy.strike(k, deliver=deliver, then=(lambda pid: os.kill(pid, signal.SIGKILL)) if kill else lambda _: None)
        said, code = driver.run(**task)
        if not proxy.has_struck(code):
            assert (said, code) == (f"done {2 * len(SERIALS)}", 0)
            check_answers(room, revoked={ALREADY_REVOKED}, whole=True)
            break
        if kill:
            assert (said, code) == (None, -signal.SIGKILL)
        else:
            assert said is not None
            assert said.startswith("unavailable")
        after = snapshot.take(client)
        assert snapshot.answers_without_header(after) == []
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert not [key for key in changed if ":status:" in key or ":revoked:" in key]
        check_answers(room, revoked={ALREADY_REVOKED}, whole=False)
        check_nothing_is_forgotten(room, after)
        stored.add(sum(key.count(":answers:") for key in after))
        # Behind a command that only reads, all is as it was behind the one before it.
        left = repr(sorted((key, list(after[key])) for key in changed))
        if left in tried:
            continue
        tried.add(left)
        room.clock.advance(LEASE_S + 1)
        room.presigner().run_until_idle()
        check_answers(room, revoked={ALREADY_REVOKED}, whole=True)
    else:
        pytest.fail("the batch never came to its end")
    assert k > 3
    assert stored == set(range(2 * BUCKETS + 1)), "not every number of stored hashes was met"


def test_revocation_between_any_two_commands_wins(
    room: Room, proxy_to: Callable[..., StrikingProxy], driver: Driver, start_over: Callable[[], None]
) -> None:
    """For every k: revoke just before the k-th command of the batch; its good is not stored, or is dropped."""
    proxy = proxy_to(room.server.directory / "proxy.sock", room.server.socket_path)
    task = {"do": "sign", "redis": str(proxy.path), "config": str(room.config_file), "now": room.clock.now()}
    dropped: set[bool] = set()
    for k in range(1, MOST_COMMANDS):
        start_over()
        proxy.heal()
        proxy.strike(k, cut=False, then=lambda _: revoke(room, VICTIM))
        said, code = driver.run(**task)
        assert code == 0
        if not proxy.has_struck(code):
            break
        assert said == f"done {2 * len(SERIALS)}"
        dropped.add(room.stored(VICTIM) is None)  # its good was signed, and not stored
        expected = {ALREADY_REVOKED, VICTIM}
        check_answers(room, revoked=expected, whole=False)
        # No lease has to run out: the commit has lowered the due time that the batch's claim had set.
        room.presigner().run_until_idle()
        check_answers(room, revoked=expected, whole=False)
        assert room.stored(VICTIM) is not None
    else:
        pytest.fail("the batch never came to its end")
    assert dropped == {False, True}, "no revocation has overtaken a signature"


def revoke(room: Room, serial: int) -> Any:
    """Revoke as the operator does, past the proxy."""
    now = room.clock.now()
    return revocation.revoke(
        room.store, room.issuer.id, serial_to_octets(serial), CRLReason.KEY_COMPROMISE, int(now) - 60, now=now
    )
