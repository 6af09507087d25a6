"""Several presigners, each a process with a connection of its own, that share the work; and are killed at random."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.x509 import ocsp

from responder import revocation
from responder.model import CRLReason, serial_to_octets
from responder.signing.presigner import LEASE_S
from tests.crash import snapshot
from tests.crash.driver import Driver
from tests.crash.proxy import StrikingProxy
from tests.signing_room import DAY_S, GOOD, Room

PRESIGNERS = 3
SERIALS = range(1, 301)
BITS = 6
ROUNDS = 4


@pytest.fixture(scope="module")
def drivers() -> Iterator[list[Driver]]:
    """Give a driver for each presigner."""
    held = [Driver() for _ in range(PRESIGNERS)]
    yield held
    for driver in held:
        driver.close()


def sign_at_once(
    room: Room, drivers: list[Driver], redis_paths: list[Any], meanwhile: Callable[[], object] = lambda: None
) -> list[tuple[str | None, int]]:
    """Have all presigners sign until nothing is due, and do something ``meanwhile``; returns what each said, and its end."""
    task = {"do": "sign_all", "config": str(room.config_file), "now": room.clock.now()}
    with ThreadPoolExecutor(len(drivers)) as threads:
        runs = [
            threads.submit(driver.run, **task, redis=str(path))
            for driver, path in zip(drivers, redis_paths, strict=True)
        ]
        meanwhile()
        return [run.result() for run in runs]


@pytest.fixture
def proxies(room: Room, proxy_to: Callable[..., StrikingProxy]) -> list[StrikingProxy]:
    """Give each presigner a way of its own to Redis."""
    folder, redis_socket = room.server.directory, room.server.socket_path
    return [proxy_to(folder / f"proxy{number}.sock", redis_socket) for number in range(PRESIGNERS)]


def test_without_a_fault_nothing_is_signed_twice(
    room: Room, drivers: list[Driver], proxies: list[StrikingProxy]
) -> None:
    """A first load, then a refresh of everything: each certificate once, by one of them."""
    room.load(dict.fromkeys(SERIALS, GOOD), bits=BITS)
    for _ in range(2):
        # Each has claimed something when it reads its CA for the second time (the first is the look at its capacity); there it
        # waits until all have.
        everyone = threading.Barrier(PRESIGNERS)
        for proxy in proxies:
            proxy.strike(2, name="HGETALL", cut=False, then=lambda _, all_have=everyone: all_have.wait(60))
        said = sign_at_once(room, drivers, [proxy.path for proxy in proxies])
        assert [code for _, code in said] == [0] * PRESIGNERS
        shares = [int((words or "").removeprefix("done ")) for words, _ in said]
        assert sum(shares) == len(SERIALS), shares
        assert min(shares) > 0
        journal = list(snapshot.journal(snapshot.take(room.server.client())))
        room.clock.advance(2 * DAY_S)
        room.set_as_of()
    assert sum(fields[b"kind"] == b"signed" for _, _, fields in journal) == 2 << BITS, "each bucket was stored twice"
    assert len(room.all_stored(SERIALS)) == len(SERIALS)


@pytest.mark.parametrize("seed", [1, 2])
def test_presigners_killed_at_random_leave_everything_in_date_and_true(
    room: Room, drivers: list[Driver], proxies: list[StrikingProxy], seed: int
) -> None:
    """SIGKILL at any command, while certificates are revoked; in the end every answer is in date and says what is so."""
    chance = random.Random(seed)
    room.load(dict.fromkeys(SERIALS, GOOD), bits=BITS)
    revoked: set[int] = set()
    killed = 0

    def revoke() -> None:
        for serial in chance.sample(SERIALS, 8):
            now = room.clock.now()
            octets = serial_to_octets(serial)
            revocation.revoke(room.store, room.issuer.id, octets, CRLReason.SUPERSEDED, int(now) - 9, now=now)
            revoked.add(serial)

    for number in range(ROUNDS):
        for proxy in proxies:
            proxy.heal()
            proxy.strike(
                chance.randrange(30, 250), deliver=chance.random() < 0.5, then=lambda pid: os.kill(pid, signal.SIGKILL)
            )
        said = sign_at_once(room, drivers, [proxy.path for proxy in proxies], revoke)
        assert {code for _, code in said} <= {0, -signal.SIGKILL}
        killed += sum(code != 0 for _, code in said)
        check(room, revoked, whole=False)
        # Half of the rounds come a lease later; the others when everything is to be refreshed.
        room.clock.advance(LEASE_S + 1 if number % 2 else 2 * DAY_S)
        room.set_as_of()
    assert killed >= ROUNDS
    for proxy in proxies:
        proxy.heal()
    # What the last of the dead had claimed is due again by now.
    assert {code for _, code in sign_at_once(room, drivers, [proxy.path for proxy in proxies])} == {0}
    check(room, revoked, whole=True)
    assert snapshot.answers_without_header(snapshot.take(room.server.client())) == []


def check(room: Room, revoked: set[int], *, whole: bool) -> None:
    """Fail unless each answer says what is so; ``whole``: and none is missing or older than the rules allow."""
    answers = room.all_stored(SERIALS)
    if whole:
        assert answers.keys() == set(SERIALS)
    for serial, answer in answers.items():
        expected = ocsp.OCSPCertStatus.REVOKED if serial in revoked else ocsp.OCSPCertStatus.GOOD
        assert answer.certificate_status is expected
        if whole:
            assert room.clock.now() - answer.this_update_utc.timestamp() < 2 * DAY_S
            assert answer.next_update_utc is not None
            assert answer.next_update_utc.timestamp() > room.clock.now()
