"""CRL numbers where processes die, several publish at once, and Redis fails over (CRL-07, DLT-03): always greater."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from responder.crl.depot import Depot
from responder.crl.snapshot import take_changes
from responder.store.redis_store import Store
from tests.crash.driver import Driver
from tests.crash.proxy import StrikingProxy
from tests.crash.test_failover import Pair
from tests.redis_fixture import RedisServer
from tests.server import wait_until
from tests.store_room import CA, REVOKED, put, serials

NOW = 1_795_700_000
# At which of each kind of command a publisher is killed: the cut, the reservation and the publication are scripts, as are the
# sixteen that forget changes; of the chunks a few do for all.
STRIKES = {"EVALSHA": (1, 2, 3, 4, 5, 19), "INFO": (2, 3, 4, 5), "XINFO": (1, 16), "HGETALL": (1, 2, 2_000, 4_098)}


def fill(store: Store) -> None:
    """Make a CA of which nothing is revoked yet, and whose changes are kept."""
    store.ensure_ca(CA, name="corp", subject="CN=Corp CA", certificate=b"\x30\x00")
    store.create_buckets(CA, 4)
    store.set_as_of(CA, NOW)
    store.keep_changes(CA)


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    """Give a server with such a CA."""
    made = redis_server()
    fill(made.store())
    return made


@pytest.fixture(scope="module")
def other_driver() -> Iterator[Driver]:
    """Give a second process."""
    held = Driver()
    yield held
    held.close()


def published(said: str | None) -> tuple[int, int] | None:
    """Read ``published NUMBER ENTRIES``."""
    words = (said or "").split()
    return (int(words[1]), int(words[2])) if words[:1] == ["published"] else None


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
@pytest.mark.parametrize("deliver", [True, False], ids=["delivered", "withheld"])
@pytest.mark.parametrize("name", STRIKES)
def test_numbers_increase_whenever_the_publisher_is_killed(
    server: RedisServer,
    proxy_to: Callable[..., StrikingProxy],
    driver: Driver,
    tmp_path: Path,
    deliver: bool,
    name: str,
) -> None:
    """SIGKILL at a command, look, then again without it."""
    proxy = proxy_to(server.directory / "proxy.sock", server.socket_path)
    store, depot = server.store(), Depot(tmp_path / "crl")
    task = {"do": "issue", "redis": str(proxy.path), "ca": CA, "depot": str(depot.root)}
    mine = iter(serials(len(STRIKES[name])))
    last = 0
    for count, k in enumerate(STRIKES[name], start=1):
        put(store, {next(mine): REVOKED}, "revoked")
        proxy.heal()
        proxy.strike(k, name=name, deliver=deliver, then=lambda pid: os.kill(pid, signal.SIGKILL))
        assert driver.run(**task) == (None, -signal.SIGKILL)
        before = depot.get(CA, "full")
        if before is not None:
            assert before.number is not None
            assert last <= before.number <= store.crl_state(CA).number
            last = before.number
        proxy.heal()
        again = published(driver.run(**task)[0])
        assert again is not None
        assert again[0] > last, "a number was used twice"
        assert again[1] == count
        last = again[0]
    assert len(list((depot.root / CA).glob("full-*.crl"))) <= 2


def test_of_two_publishers_the_greater_number_knows_more(
    server: RedisServer, driver: Driver, other_driver: Driver, tmp_path: Path
) -> None:
    """On two machines at once, each with its own depot, while certificates are revoked: no number twice, none that goes back."""
    store = server.store()
    mine = iter(serials(200))

    def publish(one: Driver, depot: Path) -> list[str | None]:
        task = {"do": "issue", "redis": str(server.socket_path), "ca": CA, "depot": str(depot)}
        return [one.run(**task)[0] for _ in range(8)]

    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(publish, one, tmp_path / name) for one, name in ((driver, "m1"), (other_driver, "m2"))]
        at = 0
        while not all(run.done() for run in runs) and at < 200:
            put(store, {next(mine): REVOKED}, "revoked")
            at += 1
            store.set_as_of(CA, NOW + at // 10)
        said = [one for run in runs for one in run.result()]
    assert all(one is not None and one.startswith(("published ", "refused: ")) for one in said), said
    issued = sorted(one for one in map(published, said) if one is not None)
    numbers = [number for number, _ in issued]
    assert len(numbers) == len(set(numbers)) > 3
    assert [entries for _, entries in issued] == sorted(entries for _, entries in issued), issued
    assert store.crl_state(CA).bases["full"].number == numbers[-1]


def test_a_failover_that_lost_the_number_does_not_give_it_again(
    proxy_to: Callable[..., StrikingProxy], driver: Driver, tmp_path: Path
) -> None:
    """The depot knows it; and no delta builds upon a journal that may mean something else now."""
    pair = Pair(proxy_to)
    try:
        with pair.store() as store:
            fill(store)
            task = {"do": "issue", "redis": str(pair.way.path), "ca": CA, "depot": str(tmp_path)}
            first = published(driver.run(**task)[0])
            assert first == (1, 0)
            assert take_changes(store, CA, ["full"]) is not None
            assert int(pair.primary.client().execute_command("WAIT", 1, 1_000)) in (0, 1)
            pair.link.cut(refuse=True)
            wait_for_loss(pair)
            put(store, {serials(1)[0]: REVOKED}, "revoked")
            second = published(driver.run(**task)[0])
            assert second == (2, 1)
        pair.fail_over()
        with pair.store() as store:
            assert store.crl_state(CA).number == 1, "the new primary knows nothing of the second: or this shows nothing"
            assert take_changes(store, CA, ["full"]) is None
            assert published(driver.run(**task)[0]) == (3, 0)
            assert take_changes(store, CA, ["full"]) is not None
    finally:
        pair.stop()


def wait_for_loss(pair: Pair) -> None:
    """Wait until the primary knows that its replica is gone."""
    wait_until("the loss of the replica", lambda: not pair.primary.client().info("replication")["connected_slaves"])
