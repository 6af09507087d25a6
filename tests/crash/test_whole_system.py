"""A whole Revocast whose parts are killed one after the other while clients ask and certificates are revoked.

Nothing here waits for luck or measures speed: every step waits for what must come, and the whole history is judged at the
end (history.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from responder import revocation
from responder.config import load_config
from responder.errors import StoreUnavailable
from responder.issuers import Issuers
from responder.model import CRLReason, serial_to_octets
from responder.store.layout import MIN_BITS, bucket_number, serial_hash
from responder.store.redis_store import Store
from tests.crash.history import Client, History, Judge, tally
from tests.crash.proxy import StrikingProxy
from tests.pki import PKI, Leaf, make_ca, make_leaf
from tests.redis_fixture import RedisServer
from tests.server import Revocast, ca_section, index_line, wait_until, write_index

GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
HOT_BUCKETS = range(8)  # of 16: no certificate in the others is asked for so often, none in these is revoked
ENOUGH = 40  # answers about hot certificates that must come while something is down


def leaves_in(ca: PKI, buckets: range, count: int) -> list[Leaf]:
    """Make certificates whose serials lie in the given buckets."""
    serials = (
        n for n in range(0x1000, 0x10000) if bucket_number(serial_hash(serial_to_octets(n)), MIN_BITS) in buckets
    )
    return [make_leaf(ca, serial_number=serial) for serial, _ in zip(serials, range(count), strict=False)]


class House:
    """The system, its clients, and what a test does to them."""

    def __init__(self, revocast: Revocast, ca: PKI, hot: list[Leaf], victims: list[Leaf]) -> None:
        self.revocast = revocast
        self.ca = ca
        self.hot = hot
        self.victims = victims
        self.revoked: list[Leaf] = []
        self.history = History()
        self.clients: list[Client] = []

    @property
    def index(self) -> Path:
        return self.revocast.directory / "index.txt"

    def write_index(self) -> None:
        """Write the CA's database: all certificates, and who of them is revoked by the CA itself."""
        gone = {leaf.serial_number for leaf in self.revoked}
        now = int(time.time())
        write_index(
            self.index,
            [
                index_line(leaf, now - 60 if leaf.serial_number in gone else None, "keyCompromise")
                for leaf in [*self.hot, *self.victims]
            ],
        )

    def start(self) -> None:
        """Start, wait until every certificate is answered for, and let the clients ask."""
        self.write_index()
        self.revocast.start()
        for leaf in [*self.hot, *self.victims]:
            self.revocast.wait_for(leaf, self.ca, GOOD)
        groups = [self.hot, self.hot, self.hot, self.victims, self.victims]
        self.clients = [Client(self.history, lambda: self.revocast.http, self.ca, leaves) for leaves in groups]
        for client in self.clients:
            client.start()
        self.wait_for_answers()

    @property
    def hot_told(self) -> int:
        return sum(client.told for client in self.clients[:3])

    def wait_for_answers(self) -> None:
        """Wait until hot certificates were answered for a number of times from now."""
        before = self.hot_told
        wait_until("answers", lambda: self.hot_told > before + ENOUGH)

    def wait_until_warm(self, cold_since: float | None = None) -> None:
        """Wait until every client's worker has ready answers again: each has asked for every hot certificate anew."""
        before = [client.told for client in self.clients[:3]]
        rounds = 2 * len(self.hot)
        wait_until(
            "answers for each client",
            lambda: all(client.told > told + rounds for client, told in zip(self.clients, before, strict=False)),
        )
        if cold_since is not None:
            self.history.cold.append((cold_since, time.time()))

    def role(self, *words: str) -> int:
        """Return the process id of a role that the supervisor has started."""

        def find() -> int:
            assert self.revocast.process is not None
            for pid in children(self.revocast.process.pid):
                arguments = command_line(pid)
                if all(word in arguments for word in ("role", *words)):
                    return pid
            return 0

        return wait_until(" ".join(words), find)

    def kill_role(self, *words: str) -> None:
        """Kill a role."""
        os.kill(self.role(*words), signal.SIGKILL)

    def next_victim(self) -> Leaf:
        """Take a certificate that nobody has revoked yet."""
        return self.victims[len(self.history.acknowledged)]

    def revoke(self, store: Store, issuer_id: str) -> Leaf:
        """Revoke the next one by the operator's word, as often as it takes, and note the acknowledgement."""
        leaf = self.next_victim()

        def acknowledged() -> bool:
            now = time.time()
            try:
                revocation.revoke(store, issuer_id, leaf.serial_octets, CRLReason.SUPERSEDED, int(now), now=now)
            except StoreUnavailable:
                return False
            return True

        wait_until("the acknowledgement", acknowledged)
        self.history.acknowledged[leaf.serial_number] = time.time()
        return leaf

    def revoke_by_ca(self) -> Leaf:
        """Have the CA revoke the next one in its own database."""
        leaf = self.next_victim()
        self.revoked.append(leaf)
        self.write_index()
        return leaf

    def wait_for_revoked(self, leaf: Leaf) -> None:
        """Wait until it is told as revoked; from then on at the latest it counts as acknowledged."""
        self.revocast.wait_for(leaf, self.ca, REVOKED)
        self.history.acknowledged.setdefault(leaf.serial_number, time.time())

    def judge(self) -> None:
        """Stop the clients and judge the history."""
        for client in self.clients:
            client.stop()
        verdict = Judge(self.ca, self.history).judge(self.hot)
        assert not verdict.complaints, f"{tally(verdict.counts)}\n{verdict.complaints}\n{self.revocast.log[-4000:]}"
        assert verdict.counts["good"] > 10 * ENOUGH
        assert verdict.counts["revoked"] > ENOUGH

    def stop(self) -> None:
        """End everything that may be left."""
        for client in self.clients:
            client.stop()
        self.revocast.stop()


def children(pid: int) -> list[int]:
    """Return the child processes of one."""
    # Each thread has its own.
    return [
        int(word)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for word in (thread / "children").read_text().split()
    ]


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Give a CA with hot certificates and victims in other buckets; the test adds Redis and starts it."""
    ca = make_ca(tmp_path, delegated=True)
    hot = leaves_in(ca, HOT_BUCKETS, 4)
    victims = leaves_in(ca, range(HOT_BUCKETS.stop, 1 << MIN_BITS), 12)
    revocast = Revocast(tmp_path, [ca_section("corp", ca, tmp_path / "index.txt")], workers=2)
    made = House(revocast, ca, hot, victims)
    yield made
    made.stop()


def test_every_part_killed_in_turn(
    house: House, redis_server: Callable[..., RedisServer], proxy_to: Callable[..., StrikingProxy]
) -> None:
    """External Redis behind a proxy: workers, follower, presigner and Redis killed, connections cut, while revoking."""
    redis = redis_server(appendonly="yes", appendfsync="always")
    way = proxy_to(redis.directory / "proxy.sock", redis.socket_path)
    house.revocast.head = f'[redis]\nurl = "unix://{way.path}"\ntimeout = "1s"\n'
    house.start()
    config = load_config(house.revocast.config)
    (issuer,) = Issuers.from_config(config, str(house.revocast.config))

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    # The revocations come past the proxy: what befalls the system must not keep them from being acknowledged.
    with redis.store() as store:
        # The presigner is killed, then a certificate is revoked: never good again, and signed as soon as one is back.
        house.kill_role("presign")
        leaf = house.revoke(store, issuer.id)
        house.wait_for_answers()
        house.wait_for_revoked(leaf)
        # The follower is killed at once after its CA has revoked; its successor finds the difference.
        leaf = house.revoke_by_ca()
        house.kill_role("follow")
        house.wait_for_answers()
        house.wait_for_revoked(leaf)
        # Each worker in turn, with a revocation while it is gone.
        for slot in ("0", "1"):
            began = time.time()
            house.kill_role("worker", "--slot", slot)
            leaf = house.revoke(store, issuer.id)
            house.wait_for_answers()
            house.wait_for_revoked(leaf)
            house.wait_until_warm(cold_since=began)
        # Every connection is cut, at once behind the acknowledgement.
        leaf = house.revoke(store, issuer.id)
        way.cut()
        house.wait_for_answers()
        house.wait_for_revoked(leaf)
        # Nobody gets to Redis for a while, and a revocation is made meanwhile.
        began = time.time()
        way.cut(refuse=True)
        leaf = house.revoke(store, issuer.id)
        house.wait_for_answers()
        way.heal()
        house.history.outages.append((began, time.time()))
        house.wait_for_revoked(leaf)
        house.wait_until_warm()
        # Redis itself is killed behind an acknowledgement: it is on disk.
        leaf = house.revoke(store, issuer.id)
        began = time.time()
        redis.kill()
        house.wait_for_answers()
        back = time.time()
        redis.start()
        house.history.outages.append((began, time.time()))
        house.wait_for_revoked(leaf)
        house.wait_until_warm(cold_since=back)
        # The presigner, in the midst of storing what was revoked, delivered and not.
        for deliver in (True, False):
            presigner = house.role("presign")
            # Its scripts claim, store and finish: the second one stores.
            way.strike(2, deliver=deliver, then=kill, pid=presigner, name="EVALSHA")
            began = time.time()
            leaf = house.revoke(store, issuer.id)
            wait_until("the strike", way.struck.is_set)
            house.wait_for_answers()
            way.heal()
            house.history.outages.append((began, time.time()))
            house.wait_for_revoked(leaf)
            house.wait_until_warm()
    house.judge()


def test_embedded_redis_and_supervisor_killed(house: House) -> None:
    """The private Redis is killed right behind an acknowledgement, and then the supervisor: nothing is forgotten."""
    house.start()
    config = load_config(house.revocast.config)
    revoked: list[Leaf] = []

    def redis_pid() -> int:
        assert house.revocast.process is not None
        for pid in children(house.revocast.process.pid):
            if any("redis-server" in word for word in command_line(pid)):
                return pid
        return 0

    def redis_answers() -> bool:
        try:
            with Store.connect(config, "follow") as store:
                return bool(store.run_id())
        except StoreUnavailable:
            return False

    for part in ("redis", "admin", "redis"):
        leaf = house.next_victim()
        # The command that an operator uses; its exit code 0 is the acknowledgement.
        arguments = ("revoke", "-c", str(house.revocast.config), f"{leaf.serial_number:x}", "--reason", "keyCompromise")
        subprocess.run([sys.executable, "-m", "responder", *arguments], check=True, capture_output=True)
        began = house.history.acknowledged[leaf.serial_number] = time.time()
        cold_since = None
        if part == "redis":
            os.kill(redis_pid(), signal.SIGKILL)
            cold_since = time.time()  # the supervisor starts it again at once
            house.wait_for_answers()
            wait_until("Redis", redis_answers)
            house.history.outages.append((began, time.time()))
        else:
            house.kill_role(part)
            house.wait_for_answers()
        house.wait_for_revoked(leaf)
        revoked.append(leaf)
        house.wait_until_warm(cold_since)
    house.judge()
    assert house.revocast.process is not None
    orphans = children(house.revocast.process.pid)
    house.revocast.process.kill()
    house.revocast.process.wait()
    wait_until("the end of its children", lambda: not [pid for pid in orphans if "responder" in command_line(pid)])
    with Revocast(house.revocast.directory, house.revocast.sections) as again:
        for leaf in revoked:
            again.wait_for(leaf, house.ca, REVOKED, GOOD)
            assert again.query(leaf, house.ca).certificate_status is REVOKED
        for leaf in house.hot:
            again.wait_for(leaf, house.ca, GOOD)
