"""The worker's process: it starts without Redis, serves on inherited sockets, drains, and leaves nothing behind."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from responder.http.server import open_socket
from responder.model import OCSPResponseStatus
from responder.process import READY_FD_ENV
from tests.edge_room import octets
from tests.redis_fixture import RedisServer
from tests.reference import request_builder as build
from tests.server import wait_until
from tests.signing_room import GOOD, Room

SERIAL, OTHER = 0x1001, 0x1002
REVOKED_NOW = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
TRY_LATER = bytes([0x30, 3, 0x0A, 1, OCSPResponseStatus.TRY_LATER])


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Room]:
    """A CA with two good certificates, signed."""
    room = Room(redis_server(appendonly="yes"), tmp_path / "ca")
    room.load({SERIAL: GOOD, OTHER: GOOD})
    room.presigner().run_until_idle()
    yield room
    room.close()


class Worker:
    """One worker process on a socket that this one holds, as a supervisor does."""

    def __init__(self, config_file: Path) -> None:
        self.config_file = config_file
        self.socket = open_socket("127.0.0.1", 0)
        self.address = self.socket.getsockname()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it is at work."""
        read_fd, write_fd = os.pipe()
        fd = self.socket.fileno()
        with (self.config_file.parent / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "responder", "role", "worker"),
                    *("-c", str(self.config_file), "--slot", "0", "--fds", str(fd)),
                ],
                pass_fds=(fd, write_fd),
                env={**os.environ, READY_FD_ENV: str(write_fd)},
                stderr=log,
            )
        os.close(write_fd)
        try:
            assert os.read(read_fd, 1) == b"\n", self.log
        finally:
            os.close(read_fd)

    @property
    def log(self) -> str:
        return (self.config_file.parent / "worker.log").read_text()

    def post(self, request_der: bytes) -> bytes:
        connection = http.client.HTTPConnection(*self.address, timeout=5)
        try:
            connection.request("POST", "/", request_der, {"Content-Type": "application/ocsp-request"})
            reply = connection.getresponse()
            assert reply.status == 200
            return reply.read()
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.socket.close()


@pytest.fixture
def worker(room: Room) -> Iterator[Worker]:
    """A worker that is not started yet."""
    worker = Worker(room.config_file)
    yield worker
    worker.close()


def request_of(room: Room, serial: int) -> bytes:
    hashes = {"name_hash": room.issuer.name_hashes["sha1"], "key_hash": room.issuer.key_hashes["sha1"]}
    return build.request([build.single(build.cert_id(octets(serial), **hashes))])


def status_of(room: Room, body: bytes) -> str:
    return room.read(body).certificate_status.name if body != TRY_LATER else "TRY_LATER"


def test_it_serves_follows_and_drains(room: Room, worker: Worker) -> None:
    worker.start()
    assert status_of(room, worker.post(request_of(room, SERIAL))) == "GOOD"
    room.change(SERIAL, REVOKED_NOW)
    committed = time.monotonic()
    room.presigner().run_until_idle()
    body = request_of(room, SERIAL)
    wait_until("revoked", lambda: status_of(room, worker.post(body)) == "REVOKED", 2)
    assert time.monotonic() - committed < 1
    # A connection that is kept open after its answer does not hold the end up.
    idle = http.client.HTTPConnection(*worker.address, timeout=5)
    try:
        idle.request("POST", "/", body)
        idle.getresponse().read()
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 3
    finally:
        idle.close()
    assert "worker_stopped" in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.clause("RFC 6960", "2.3", "MUST")
def test_without_redis_it_starts_says_try_later_and_connects_when_there_is_one(room: Room, worker: Worker) -> None:
    """ERR-02, ERR-03."""
    room.server.kill()
    worker.start()
    began = time.monotonic()
    assert worker.post(request_of(room, SERIAL)) == TRY_LATER
    assert time.monotonic() - began < 2
    room.server.start()
    wait_until("an answer", lambda: status_of(room, worker.post(request_of(room, SERIAL))) == "GOOD", 10)
    # And again: what it holds it goes on serving, the rest is tryLater, at once.
    room.server.kill()
    assert status_of(room, worker.post(request_of(room, SERIAL))) == "GOOD"
    assert worker.post(request_of(room, OTHER)) == TRY_LATER
    room.server.start()
    wait_until("another answer", lambda: status_of(room, worker.post(request_of(room, OTHER))) == "GOOD", 10)
    assert worker.stop() == 0
    assert "Traceback" not in worker.log


def test_sockets_that_are_no_numbers_are_one_line(room: Room) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "responder", "role", "worker", "-c", str(room.config_file), "--fds", "x"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--fds" in done.stderr
