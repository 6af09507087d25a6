"""Machines of workers alone: what is published in Redis comes to each machine's disk, whole and checked, and never goes back."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from responder.clock import ManualClock
from responder.config import Config, load_config
from responder.crl.depot import Depot
from responder.crl.published import Published
from responder.crl.replica import Replica
from responder.issuers import Issuer, Issuers
from responder.roles.depot import LOOK_EVERY_S, RETRY_S, SHARE, look
from responder.roles.supervisor import Supervisor
from responder.store.acl import acl_rules
from responder.store.crl_store import Publication
from responder.store.layout import CRL_BODY_CHUNK
from responder.store.redis_store import Store
from tests.pki import PKI
from tests.redis_fixture import RedisServer
from tests.server import Revocast, ca_section, wait_until
from tests.unit.test_store_link import version_of

NOW = 1_795_000_000
FAR = 4_000_000_000  # Redis ends keys by its own clock


@dataclass
class Room:
    """A Redis with a publisher's connection and an edge's, and two machines' depots."""

    redis: RedisServer
    config: Config
    directory: Path

    def __post_init__(self) -> None:
        version = version_of(self.redis)
        for role in ("publish", "serve"):
            rules = acl_rules(role, "rc:", version)
            self.redis.client().execute_command("ACL", "SETUSER", role, "on", f">{role}", *rules)
        self.publisher = self.redis.store(username="publish", password="publish")
        self.issuers = Issuers.from_config(self.config, "revocast.toml")
        (self.issuer,) = self.issuers
        self.depots = [Depot(self.directory / name / "crl") for name in ("first", "second")]
        self.replicas = [
            Replica(self.redis.store(username="serve", password="serve"), depot, self.issuers) for depot in self.depots
        ]

    def publish(self, number: int, body: bytes, slot: str = "full", **terms: Any) -> Published:
        return publish(self.publisher, self.issuer, number, body, slot, **terms)

    def read(self, machine: int, slot: str = "full") -> bytes | None:
        published = self.depots[machine].get("corp", slot)
        return None if published is None else self.depots[machine].path(published).read_bytes()


def publish(
    store: Store,
    issuer: Issuer,
    number: int,
    body: bytes,
    slot: str = "full",
    *,
    stored: bytes | None = None,
    **terms: Any,
) -> Published:
    """Put a CRL into Redis as a publisher does; ``stored`` is what lies there instead of its body."""
    published = Published(
        ca="as the publisher's configuration calls it",
        ca_id=issuer.id,
        slot=slot,
        number=number,
        base_number=None,
        this_update=NOW + number,
        next_update=NOW + 604_800,
        next_publication=NOW + 3_600,
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        entries=0,
        shares_date=False,
        file="",
    )
    published = replace(published, **terms)
    octets = body if stored is None else stored
    pieces = [octets[at : at + CRL_BODY_CHUNK] for at in range(0, len(octets), CRL_BODY_CHUNK)]
    store.put_crl_body(issuer.id, published.sha256, pieces, FAR)
    store.publish_crls(issuer.id, [Publication(slot, published.to_text(), number, NOW + number, mirrored=True)])
    return published


def configuration(ca: PKI, directory: Path, crl: str) -> Config:
    config = directory / "revocast.toml"
    config.write_text(ca_section("corp", ca, directory / "index.txt", extra=f"crl = {{ {crl} }}\n"))
    return load_config(config)


@pytest.fixture
def room(each_redis: RedisServer, tmp_path: Path, pki: Callable[..., PKI]) -> Room:
    ca = pki()
    crl = f'issue = true, key = "{ca.key_path}", delta_every = "1h", url = "http://crl.example.com/corp.crl"'
    return Room(each_redis, configuration(ca, tmp_path, crl), tmp_path)


def test_comes_to_every_machine(room: Room) -> None:
    """Each machine fetches a body once, in pieces, as a user who can only read; then each newer one."""
    body = bytes(range(256)) * (3 * CRL_BODY_CHUNK // 256) + b"the end"
    assert [replica.look() for replica in room.replicas] == [0, 0]
    room.publish(7, body)
    room.publish(8, b"a delta", "delta")
    assert [replica.look() for replica in room.replicas] == [2, 2]
    assert [room.read(0) == body, room.read(1) == body, room.read(0, "delta")] == [True, True, b"a delta"]
    assert [replica.look() for replica in room.replicas] == [0, 0]
    room.publish(9, b"newer")
    assert room.replicas[0].look() == 1
    assert [room.read(0), room.read(1) == body] == [b"newer", True]
    found = room.depots[0].get("corp", "full")
    assert found is not None
    assert (found.ca, found.ca_id, found.number) == ("corp", room.issuer.id, 9)


def test_wrong_bodies(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """A body that is not what was published never comes to the depot; what was there stays, and so does the directory."""
    room.publish(1, b"good")
    room.replicas[0].look()
    for number, stored in ((2, b"other octets"), (3, b"good3, and more"), (4, b"goo")):
        room.publish(number, b"good%d" % number, stored=stored)
        assert room.replicas[0].look() == 0
        assert room.read(0) == b"good"
        assert "crl_not_fetched" in capsys.readouterr().out
        room.replicas[0].look()
        assert "crl_not_fetched" not in capsys.readouterr().out, "said once"
    assert not list(room.directory.glob("first/crl/corp/.fresh*"))
    room.publish(5, b"good5")
    assert room.replicas[0].look() == 1


def test_missing_pieces(room: Room) -> None:
    """A body that has gone is asked for again; another slot's comes all the same."""
    published = room.publish(1, b"first")
    room.publisher.drop_crl_body(room.issuer.id, published.sha256, published.size)
    room.publish(2, b"a delta", "delta")
    assert room.replicas[0].look() == 1
    assert [room.read(0), room.read(0, "delta")] == [None, b"a delta"]
    room.publisher.put_crl_body(room.issuer.id, published.sha256, [b"first"], FAR)
    assert room.replicas[0].look() == 1
    assert room.read(0) == b"first"


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_never_goes_back(room: Room) -> None:
    """DST-05: a Redis that has lost its last writes takes nobody back to an older CRL."""
    old = room.publish(1, b"old")
    room.publish(2, b"new")
    room.replicas[0].look()
    room.redis.client().hset(
        room.publisher.layout.crl(room.issuer.id), "published:full", replace(old, file="").to_text()
    )
    assert room.replicas[0].look() == 0
    assert room.read(0) == b"new"
    room.publish(3, b"newer")
    assert room.replicas[0].look() == 1


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null"])
def test_not_understood(room: Room, text: str) -> None:
    """A text that is no description of a CRL is passed over."""
    room.redis.client().hset(room.publisher.layout.crl(room.issuer.id), "published:full", text)
    room.publish(2, b"a delta", "delta")
    assert room.replicas[0].look() == 1


def test_slot_of_another(room: Room) -> None:
    """What says that it is another CA's, or another slot's, is passed over; so is a slot that the configuration lacks."""
    room.publish(1, b"foreign", ca_id="0" * 16)
    text = room.publisher.crl_state(room.issuer.id).published["full"].replace("0" * 16, room.issuer.id)
    misplaced = Publication("full", text, 1, NOW + 1, mirrored=True)
    room.publisher.publish_crls(room.issuer.id, [replace(misplaced, slot="delta")])
    room.publish(3, b"a shard", "0")
    assert room.replicas[0].look() == 0
    assert room.depots[0].slots("corp") == []


def test_damaged_here(room: Room) -> None:
    """A manifest that is damaged on this machine is fetched anew; what a dead process left is removed."""
    room.publish(1, b"good")
    room.replicas[0].look()
    room.depots[0].manifest("corp", "full").write_text("{")
    left = room.directory / "first/crl/corp/.fresh-999999999-00000000"
    left.write_bytes(b"half")
    room.replicas[0].sweep()
    assert not left.exists()
    assert room.replicas[0].look() == 1
    assert room.read(0) == b"good"
    published = room.depots[0].get("corp", "full")
    assert published is not None
    room.depots[0].path(published).unlink()
    assert room.replicas[0].look() == 1
    assert room.read(0) == b"good"
    room.depots[0].path(published).write_bytes(b"goof")
    assert room.replicas[0].look() == 1
    assert room.read(0) == b"good"


def test_pace(room: Room) -> None:
    """Looks that take long are rare; without Redis the role waits a little and tries again."""

    class Slow(Replica):
        def look(self) -> int:
            clock.advance(2.0)
            return super().look()

    clock = ManualClock(NOW)
    assert look(room.replicas[0], clock) == LOOK_EVERY_S
    slow = Slow(room.redis.store(), room.depots[0], room.issuers)
    assert look(slow, clock) == 2.0 * SHARE
    room.redis.kill()
    assert look(room.replicas[0], clock) == RETRY_S


@pytest.mark.parametrize(
    ("roles", "redis", "share", "expected"),
    [
        (("worker",), True, "true", True),
        (("worker",), True, "false", False),
        (("worker",), False, "true", False),
        (("worker", "publish"), True, "true", False),
        (("follow",), True, "true", False),
    ],
)
def test_who_needs_a_copy(
    tmp_path: Path, pki: Callable[..., PKI], roles: tuple[str, ...], redis: bool, share: str, expected: bool
) -> None:
    """The role runs beside workers with an external Redis and without a publisher, where CRLs are shared."""
    ca = pki()
    crl = f'crl = {{ issue = true, key = "{ca.key_path}", share = {share} }}\n'
    config = tmp_path / "revocast.toml"
    external = '[redis]\nurl = "unix:///nowhere"\n' if redis else ""
    listen = '[http]\nlisten = ["127.0.0.1:0"]\n[admin]\nlisten = "127.0.0.1:0"\n'
    config.write_text(external + listen + ca_section("corp", ca, tmp_path / "index.txt", extra=crl))
    supervisor = Supervisor(config, roles)
    supervisor._open_sockets(supervisor._config)
    try:
        assert ("depot" in {role.name for role in supervisor._wanted_roles(supervisor._config)}) is expected
    finally:
        for sockets in supervisor._sockets.values():
            for held in sockets:
                held.close()
        if supervisor._admin_socket is not None:
            supervisor._admin_socket.close()


def test_serve_fetches(redis_server: Callable[..., RedisServer], tmp_path: Path, pki: Callable[..., PKI]) -> None:
    """`revocast serve` on a machine of its own serves what is published in Redis."""
    redis, ca = redis_server(), pki()
    section = ca_section("corp", ca, tmp_path / "index.txt", extra=f'crl = {{ issue = true, key = "{ca.key_path}" }}\n')
    (issuer,) = Issuers.from_config(
        configuration(ca, tmp_path, f'issue = true, key = "{ca.key_path}"'), "revocast.toml"
    )
    body = hashlib.sha256(b"").digest() * 100_000
    publish(redis.store(), issuer, 1, body)
    with Revocast(tmp_path / "machine", [section], command="serve", head=redis.config_section()) as machine:

        def fetched() -> bool:
            with contextlib.suppress(OSError):  # the worker may be long in coming
                return machine.get("/crl/corp.crl")[0] == 200
            return False

        wait_until("the CRL", fetched)
        _, fields, got = machine.get("/crl/corp.crl")
        assert (got == body, fields["content-type"]) == (True, "application/pkix-crl")
        assert machine.get("/ca/corp.cer")[2] == ca.certificate_der
