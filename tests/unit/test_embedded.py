"""The private Redis: who may reach it, one at a time, nothing acknowledged lost, and gone with its starter."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from responder.config import Config
from responder.errors import OperatorError, StoreUnavailable
from responder.store import embedded
from responder.store.embedded import EmbeddedRedis, connect_or_start, directory_of, find_server, socket_path
from responder.store.redis_store import Store
from tests.redis_fixture import BINARIES
from tests.store_room import CA, GOOD, REVOKED, put, serials


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Return a data directory with a short name: a socket's path is bounded."""
    path = Path(tempfile.mkdtemp(prefix="rc-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=sorted(BINARIES))
def server(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[EmbeddedRedis]:
    """Return a running server of each version."""
    one = EmbeddedRedis(data_dir, BINARIES[request.param])
    one.start()
    yield one
    one.stop()


def config(data_dir: Path) -> Config:
    """Return a configuration that names no Redis."""
    return Config.model_construct(data_dir=data_dir, redis=None, ca=[])


_opened: list[Store] = []


@pytest.fixture(autouse=True)
def _stores_are_closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def store_at(data_dir: Path) -> Store:
    """Return the follower's store with a CA in it."""
    store = Store.connect(config(data_dir), "follow")
    _opened.append(store)
    store.ensure_ca(CA, name="corp", subject="", certificate=b"")
    store.create_buckets(CA, 4)
    return store


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def test_only_its_owner_may_reach_it(server: EmbeddedRedis, data_dir: Path) -> None:
    directory = directory_of(data_dir)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}
    assert modes["redis"] == 0o700
    assert modes["redis.sock"] == 0o700
    assert modes["passwords.json"] == modes["redis.conf"] == modes["lock"] == 0o600
    passwords = embedded.read_passwords(data_dir)
    assert sorted(passwords) == ["follow", "presign", "publish", "serve"]
    assert len(set(passwords.values())) == 4
    assert not any(password in (directory / "redis.conf").read_text() for password in passwords.values())
    assert server.pid is not None
    assert [one for one in psutil.Process(server.pid).net_connections() if one.family.name != "AF_UNIX"] == []


def test_it_is_set_up_as_the_design_wants(server: EmbeddedRedis, data_dir: Path) -> None:
    with Store.connect(config(data_dir), "follow") as store:
        levels = {finding.subject: finding.level for finding in store.check()}
    # The follower may not see the configuration, the file tells.
    assert levels["redis"] == "ok"
    text = (directory_of(data_dir) / "redis.conf").read_text()
    for line in ("port 0", "appendonly yes", "appendfsync always", "maxmemory-policy noeviction", 'save ""'):
        assert f"{line}\n" in text
    assert "hash-max-ziplist-entries 1024\nhash-max-ziplist-value 1024\n" in text


def test_each_role_logs_in_as_itself(server: EmbeddedRedis, data_dir: Path) -> None:
    store = store_at(data_dir)
    put(store, {b"\x01": REVOKED}, "revoked")
    with Store.connect(config(data_dir), "presign") as presign:
        presign.put_signer("0" * 16, b"t", b"c")
        with pytest.raises(StoreUnavailable, match="permission"):
            presign._link.call("SET", store.layout.override(CA, 1), REVOKED)
    with Store.connect(config(data_dir), "serve") as edge:
        assert edge.find_status(CA, b"\x01") == REVOKED
        with pytest.raises(StoreUnavailable, match="permission"):
            edge.set_as_of(CA, 1)
    # The operator looks as "look", with any password, and changes nothing; nobody is the default user.
    path = str(socket_path(data_dir))
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.connect(path)
        nobody.sendall(b"PING\r\n")
        assert nobody.recv(100).startswith(b"-NOAUTH")
    with redis.Redis(unix_socket_path=path, username="look", password="look", driver_info=None) as operator:
        bucket = store.locate(CA, [b"\x01"])[0].bucket
        assert operator.hget(store.layout.status(CA, bucket), "01") == REVOKED.encode()
        assert list(operator.scan_iter("rc:ca:*", count=1_000)) == [f"rc:ca:{CA}".encode()]
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.hset("rc:ca:x", "y", "z")
    store.close()


def test_what_was_acknowledged_survives_kill_9(server: EmbeddedRedis, data_dir: Path) -> None:
    """DESIGN §5: appendfsync always."""
    store = store_at(data_dir)
    mine = serials(50)
    for octets in mine:
        put(store, {octets: GOOD})
    put(store, dict.fromkeys(mine[:10], REVOKED), "revoked")
    assert server.pid is not None
    passwords = embedded.read_passwords(data_dir)
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    with pytest.raises(StoreUnavailable):
        store.find_status(CA, mine[0])
    server.start()
    assert embedded.read_passwords(data_dir) == passwords
    texts = [place.text for place in store.locate(CA, mine)]
    assert texts == [REVOKED] * 10 + [GOOD] * 40
    store.close()


def test_it_survives_an_orderly_end_and_a_new_start(server: EmbeddedRedis, data_dir: Path) -> None:
    with store_at(data_dir) as store:
        put(store, {b"\x05": REVOKED}, "revoked")
    server.stop()
    assert not socket_path(data_dir).exists() or not _answers(data_dir)
    server.start()
    with Store.connect(config(data_dir), "presign") as store:
        assert store.find_status(CA, b"\x05") == REVOKED


def _answers(data_dir: Path) -> bool:
    return embedded._ping(data_dir) == "ready"


def test_a_data_directory_has_one_server(
    server: EmbeddedRedis, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_WITHIN_S", 0.05)
    with pytest.raises(OperatorError, match="another process runs the embedded Redis"):
        EmbeddedRedis(data_dir).start()
    assert not EmbeddedRedis(data_dir).try_start()
    pid = server.pid
    with connect_or_start(data_dir), Store.connect(config(data_dir), "follow") as store:
        assert store.ca_info(CA) is None
    assert server.pid == pid
    assert _answers(data_dir)  # the guest has left it running


def test_a_command_starts_it_and_ends_it(data_dir: Path) -> None:
    with connect_or_start(data_dir), store_at(data_dir) as store:
        put(store, {b"\x05": GOOD})
        with connect_or_start(data_dir), Store.connect(config(data_dir), "serve") as guest:
            assert guest.find_status(CA, b"\x05") == GOOD
    assert not _answers(data_dir)
    with pytest.raises(StoreUnavailable):
        Store.connect(config(data_dir), "serve").ca_info(CA)
    with connect_or_start(data_dir), Store.connect(config(data_dir), "serve") as store:
        assert store.find_status(CA, b"\x05") == GOOD


def test_commands_that_begin_at_once_share_one(data_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from responder.store.embedded import *\n"
        "with connect_or_start(Path(sys.argv[1])): print('up', flush=True); sys.stdin.read()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
        servers = [one for one in psutil.process_iter() if _is_server_of(one, data_dir)]
        assert len(servers) == 1
    finally:
        for child in children:
            child.communicate()
    assert [child.returncode for child in children] == [0] * 4


def _is_server_of(process: psutil.Process, data_dir: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return "redis-server" in process.name() and Path(process.cwd()) == directory_of(data_dir)
    return False


def test_it_ends_with_a_starter_that_is_killed(data_dir: Path) -> None:
    """The lock stands until the server itself has ended, so that never two write one file."""
    code = (
        "import sys, time; from pathlib import Path; from responder.store.embedded import *\n"
        "server = EmbeddedRedis(Path(sys.argv[1])); server.start(); print(server.pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    second = EmbeddedRedis(data_dir)
    second.start()  # waits for the lock, hence for the first to end
    try:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert _answers(data_dir)
    finally:
        second.stop()


def test_a_long_path_is_reached_all_the_same(data_dir: Path) -> None:
    long = data_dir / ("d" * 60) / ("e" * 60)
    assert len(str(socket_path(long))) > embedded.MAX_SOCKET_PATH
    with pytest.raises(StoreUnavailable, match="no embedded Redis"):
        embedded.reachable_socket_path(long)
    with connect_or_start(long), store_at(long) as store:
        put(store, {b"\x05": GOOD})
        assert len(embedded.reachable_socket_path(long)) <= embedded.MAX_SOCKET_PATH
        assert socket_path(long).is_socket()
        assert store.find_status(CA, b"\x05") == GOOD


def test_a_relative_data_directory_means_one_place(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir)
    with connect_or_start(Path("state")), store_at(data_dir / "state") as store:
        assert store.ca_info(CA) is not None


def test_redis_6_2_does_not_begin_anew_over_what_redis_7_wrote(data_dir: Path) -> None:
    newer = EmbeddedRedis(data_dir, BINARIES["7"])
    newer.start()
    newer.stop()
    older = EmbeddedRedis(data_dir, BINARIES["6.2"])
    with pytest.raises(OperatorError, match="written by Redis 7"):
        older.start()
    newer.start()  # the lock was let go
    newer.stop()


def test_redis_7_takes_over_from_6_2(data_dir: Path) -> None:
    older, newer = (EmbeddedRedis(data_dir, BINARIES[version]) for version in ("6.2", "7"))
    older.start()
    with store_at(data_dir) as store:
        put(store, {b"\x05": REVOKED}, "revoked")
    older.stop()
    newer.start()
    try:
        with Store.connect(config(data_dir), "serve") as store:
            assert store.find_status(CA, b"\x05") == REVOKED
    finally:
        newer.stop()


def test_the_systems_server_is_used_else_redislites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server()[1] >= (6, 2)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_server() == (BINARIES["6.2"], (6, 2))
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    with pytest.raises(OperatorError, match=r"no redis-server of version 6\.2 or later"):
        find_server()


def test_a_server_that_does_not_start_says_why(data_dir: Path) -> None:
    server = EmbeddedRedis(data_dir, BINARIES["7"])
    server.start()
    with store_at(data_dir) as store:
        put(store, {b"\x05": REVOKED}, "revoked")
    server.stop()
    (file,) = (directory_of(data_dir) / "appendonlydir").glob("*.incr.aof")
    content = file.read_bytes()
    file.write_bytes(content[:40] + b"\x00" * 40 + content[80:])
    with pytest.raises(StoreUnavailable, match=r"did not start; .*redis\.log ends: .*Bad file format"):
        server.start()
    wait_until(lambda: server.pid is None)
    with pytest.raises(StoreUnavailable, match="start it with revocast run"):
        embedded.read_passwords(data_dir / "elsewhere")
