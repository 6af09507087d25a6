"""A failover that loses the last writes: nothing acknowledged is among them, and workers forget what they heard of them.

Real servers: a replica follows the primary through a proxy that can cut its link, and clients reach whichever of the
two is in charge through another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from responder import revocation
from responder.errors import StoreUnavailable
from responder.model import CertStatus, CRLReason, serial_to_octets
from responder.ocsp.journal import LOOK_S
from responder.store.layout import MIN_BITS, bucket_number, serial_hash
from responder.store.redis_store import Store
from tests.crash import snapshot
from tests.crash.driver import store_at
from tests.crash.proxy import StrikingProxy
from tests.edge_room import EdgeRoom
from tests.redis_fixture import RedisServer, start_redis
from tests.server import wait_until
from tests.signing_room import GOOD, Room

WAIT_S = 0.3  # for replicas to report
SERIALS = range(1_000, 1_050)


def bucket(serial: int) -> int:
    """Return a serial's bucket; with so few of them, a partition has one."""
    return bucket_number(serial_hash(serial_to_octets(serial)), MIN_BITS)


ACKNOWLEDGED, LOST = 1_001, 1_002
TWIN = next(serial for serial in SERIALS if serial != LOST and bucket(serial) == bucket(LOST))
UNTOUCHED = next(serial for serial in SERIALS if bucket(serial) not in (bucket(ACKNOWLEDGED), bucket(LOST)))


class Pair(RedisServer):
    """A primary and its replica, reached as one server: what Room asks of a RedisServer goes through the proxy."""

    def __init__(self, proxy_to: Callable[..., StrikingProxy]) -> None:
        # One socket that leads to whichever is in charge: nothing of the base class is started here.
        self._clients = []
        self.primary, self.replica = (start_redis(repl_diskless_sync_delay="0") for _ in range(2))
        self.link = proxy_to(None, self.primary.socket_path, count=False)
        self.way = proxy_to(self.primary.directory / "proxy.sock", self.primary.socket_path, count=False)
        self.follow(self.replica, self.link)

    @property
    def url(self) -> str:
        return f"unix://{self.way.path}"

    def store(self, prefix: str = "rc:", **options: object) -> Store:
        return self.adopt(store_at(str(self.way.path), timeout_s=WAIT_S, **options))

    @staticmethod
    def follow(replica: RedisServer, link: StrikingProxy) -> None:
        """Make a server the replica of the one behind a link, and wait until it has all."""
        client = replica.client()
        client.execute_command("REPLICAOF", "127.0.0.1", str(link.port))
        wait_until("the replica", lambda: client.info("replication").get("master_link_status") == "up")

    def fail_over(self) -> None:
        """Promote the replica and lead everybody there."""
        self.replica.client().execute_command("REPLICAOF", "NO", "ONE")
        self.way.switch(self.replica.socket_path)

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        for server in (self.primary, self.replica):
            server.stop()


@pytest.fixture
def pair(proxy_to: Callable[..., StrikingProxy]) -> Iterator[Pair]:
    """Give a primary with a replica that is up to date."""
    made = Pair(proxy_to)
    yield made
    made.stop()


@pytest.fixture
def room(pair: Pair, tmp_path: Path) -> Room:
    """Give a CA with good certificates, all answered for."""
    made = Room(pair, tmp_path)
    made.load(dict.fromkeys(SERIALS, GOOD))
    made.store.set_sha256_asked(made.issuer.id, made.clock.now())
    made.presigner().run_until_idle()
    wait_until("the replica", lambda: int(pair.primary.client().execute_command("WAIT", 1, 1_000)) == 1)
    return made


def revoke(room: Room, serial: int, store: Store) -> None:
    """Revoke; raises StoreUnavailable where it is not committed."""
    now = room.clock.now()
    octets = serial_to_octets(serial)
    revocation.revoke(store, room.issuer.id, octets, CRLReason.KEY_COMPROMISE, int(now) - 60, now=now)


def traces(room: Room, serial: int, before: snapshot.Snapshot, client: redis.Redis) -> set[bool]:
    """Return which of True and False the traces of a revocation say."""
    one = snapshot.Revocation(room.issuer.id, serial_to_octets(serial), MIN_BITS)
    return set(one.traces(before, snapshot.take(client)).values())


def test_acknowledged_revocations_outlive_a_failover(room: Room, pair: Pair) -> None:
    """What no replica reports is not acknowledged, however often it is tried; what is acknowledged is never lost."""
    before = snapshot.take(pair.primary.client())
    with pair.store(min_replicas=1) as careful:
        revoke(room, ACKNOWLEDGED, careful)
        pair.link.cut(refuse=True)
        for _ in range(2):  # the second time there is nothing left to write
            with pytest.raises(StoreUnavailable, match="not committed"):
                revoke(room, LOST, careful)
        with pair.store(min_replicas=1) as other, pytest.raises(StoreUnavailable, match="not committed"):
            revoke(room, LOST, other)
        assert traces(room, LOST, before, pair.primary.client()) == {True}
        pair.fail_over()
        assert traces(room, ACKNOWLEDGED, before, pair.replica.client()) == {True}
        assert traces(room, LOST, before, pair.replica.client()) == {False}
    # The new primary has no replica yet: it may not acknowledge either.
    with pair.store(min_replicas=1) as careful, pytest.raises(StoreUnavailable, match="not committed"):
        revoke(room, LOST, careful)
    new_link = StrikingProxy(None, pair.replica.socket_path, count=False)
    try:
        pair.follow(pair.primary, new_link)
        with pair.store(min_replicas=1) as careful:
            revoke(room, LOST, careful)
        assert traces(room, LOST, before, pair.primary.client()) == {True}
        assert traces(room, ACKNOWLEDGED, before, pair.primary.client()) == {True}
    finally:
        new_link.close()


def test_replica_that_is_online_must_report_also_where_none_is_required(room: Room, pair: Pair) -> None:
    """Where there are replicas, WAIT must report them (DESIGN §5): one that is stuck keeps a revocation from counting."""
    process = pair.replica.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # online, and silent
    try:
        with pair.store() as store, pytest.raises(StoreUnavailable, match="not committed"):
            revoke(room, LOST, store)
    finally:
        process.send_signal(signal.SIGCONT)
    with pair.store() as store:
        revoke(room, LOST, store)


def test_workers_forget_what_the_lost_writes_said(room: Room, pair: Pair) -> None:
    """Another run_id: everything is asked for again, and a revocation at the new primary is heard."""

    async def check() -> None:
        async with a_worker(room) as edge:
            for serial in (ACKNOWLEDGED, LOST, UNTOUCHED):
                edge.good(await edge.ask(serial), serial, "stored")
            revoke(room, ACKNOWLEDGED, room.store)
            room.presigner().run_until_idle()
            await asyncio.to_thread(replica_has_caught_up, pair)
            pair.link.cut(refuse=True)
            wait_until(
                "the loss of the replica", lambda: not pair.primary.client().info("replication")["connected_slaves"]
            )
            revoke(room, LOST, room.store)
            room.presigner().run_until_idle()
            await edge.see_journal()
            edge.revoked(await edge.ask(LOST), LOST, "stored")
            edge.good(await edge.ask(UNTOUCHED), UNTOUCHED, "table")
            pair.fail_over()
            pair.primary.kill()
            with pytest.raises(StoreUnavailable):
                await edge.follower.poll()
            await edge.see_journal()
            edge.revoked(await edge.ask(ACKNOWLEDGED), ACKNOWLEDGED, "stored")
            edge.good(await edge.ask(UNTOUCHED), UNTOUCHED, "stored")
            edge.good(await edge.ask(LOST), LOST, "stored")  # nobody was told that it was revoked
            with pair.store() as store:
                revoke(room, LOST, store)
            await edge.see_journal()
            room.presigner().run_until_idle()
            await edge.see_journal()
            edge.revoked(await edge.ask(LOST), LOST, "stored")

    asyncio.run(check())


def test_workers_forget_when_a_demoted_primary_takes_another_history(room: Room, pair: Pair) -> None:
    """The same process and run_id, the same connection, and journal numbers that do not even go back."""

    async def check() -> None:
        async with a_worker(room) as edge:
            edge.good(await edge.ask(LOST), LOST, "stored")
            pair.link.cut(refuse=True)
            wait_until(
                "the loss of the replica", lambda: not pair.primary.client().info("replication")["connected_slaves"]
            )
            revoke(room, TWIN, room.store)
            await edge.see_journal()
            edge.good(await edge.ask(LOST), LOST, "stored")
            # The replica is promoted, and revokes LOST under the very number that the old primary gave to the twin.
            pair.replica.client().execute_command("REPLICAOF", "NO", "ONE")
            with store_at(pair.replica.socket_path) as elsewhere:
                revoke(room, LOST, elsewhere)
            new_link = StrikingProxy(None, pair.replica.socket_path, count=False)
            try:
                await asyncio.to_thread(pair.follow, pair.primary, new_link)
                connections = edge.edge.store.connections
                room.clock.advance(LOOK_S)
                await edge.see_journal()
                assert edge.edge.store.connections == connections
                # No answer is signed for it yet: whatever comes, it is not the good that the worker held.
                assert (await edge.ask(LOST)).cert_status is not CertStatus.GOOD
            finally:
                new_link.close()

    asyncio.run(check())


@contextlib.asynccontextmanager
async def a_worker(room: Room) -> AsyncIterator[EdgeRoom]:
    """Give a worker's query path that has seen the journal to its end."""
    edge = EdgeRoom(room)
    try:
        await edge.see_journal()
        yield edge
    finally:
        await edge.close()


def replica_has_caught_up(pair: Pair) -> None:
    """Wait until the replica has all that the primary has."""
    primary, replica = pair.primary.client(), pair.replica.client()
    deadline = time.monotonic() + 10
    while primary.info("replication")["master_repl_offset"] != replica.info("replication")["slave_repl_offset"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
