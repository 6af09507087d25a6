"""A revocation cut off, or its process killed, at every one of its commands: all of it stands, or nothing (DESIGN §5)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from responder.model import serial_to_octets
from responder.store.layout import MIN_BITS
from tests.crash import snapshot
from tests.crash.driver import Driver
from tests.crash.proxy import StrikingProxy
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

MOST_COMMANDS = 60  # of one revocation; the loops below end long before


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Room:
    """Give a CA whose certificates are good, and answered for under both hashes."""
    made = Room(redis_server(), tmp_path)
    made.load(dict.fromkeys(range(1_000, 1_000 + MOST_COMMANDS), GOOD))
    made.store.set_sha256_asked(made.issuer.id, made.clock.now())
    made.presigner().run_until_idle()
    return made


@pytest.mark.parametrize("deliver", [True, False], ids=["delivered", "withheld"])
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "cut"])
def test_revocation_is_made_whole_or_not_at_all(
    room: Room, proxy_to: Callable[..., StrikingProxy], driver: Driver, deliver: bool, kill: bool
) -> None:
    """For every k: strike at the k-th command, look, heal, try again."""
    proxy = proxy_to(room.server.directory / "proxy.sock", room.server.socket_path)
    client = room.server.client()
    now = int(time.time())
    made_at: dict[bool, list[int]] = {True: [], False: []}
    for k in range(1, MOST_COMMANDS):
        serial = serial_to_octets(999 + k)
        revocation = snapshot.Revocation(room.issuer.id, serial, MIN_BITS)
        task = {"do": "revoke", "redis": str(proxy.path), "ca": room.issuer.id, "serial": serial.hex(), "at": now}
        room.presigner().run_until_idle()  # whatever the last round left due
        client.script_flush()
        before = snapshot.take(client)
        proxy.heal()
        proxy.strike(k, deliver=deliver, then=(lambda pid: os.kill(pid, signal.SIGKILL)) if kill else lambda _: None)
        said, code = driver.run(**task)
        after = snapshot.take(client)
        if not proxy.has_struck(code):
            assert (said, code) == ("acknowledged", 0)
            assert all(revocation.traces(before, after).values())
            break
        if kill:
            assert (said, code) == (None, -signal.SIGKILL)
        else:
            assert said is not None
            assert said.startswith("unavailable"), f"acknowledged although command {k} was struck"
        traces = revocation.traces(before, after)
        assert len(set(traces.values())) == 1, f"half a revocation after command {k} ({proxy.names}): {traces}"
        revocation.others_are_untouched(before, after)
        made_at[traces["status"]].append(k)
        proxy.heal()
        assert driver.run(**task) == ("acknowledged", 0)
        again = snapshot.take(client)
        assert all(revocation.traces(before, again).values())
        assert revocation.entries(again) == 1, "told twice"
        revocation.others_are_untouched(before, again)
    else:
        pytest.fail("the revocation never came to its end")
    # Both kinds of moment were met, and none before which it stood came after one behind which it did not.
    assert len(made_at[False]) > 3
    assert len(made_at[True]) > 3
    assert max(made_at[False]) < min(made_at[True])
