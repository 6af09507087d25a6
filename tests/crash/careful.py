"""HTTP clients on bare sockets that know what befell each of their requests, and which process holds a connection.

``CarefulClient`` does what RFC 9112 §9.3 allows and nothing more: it drops a connection that was announced to close or that
it finds closed before it sends, and asks again on a new one only where a connection that had served before was closed in
good order without a single octet of an answer, and the method is GET. Whatever else comes to nothing is a ``Loss``.
"""

from __future__ import annotations

import base64
import contextlib
import random
import select
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.crash.history import History, Told

TIMEOUT_S = 15.0  # of one answer; a worker that was killed leaves its queue to its successor
CHUNK = 65_536

# refused: no connection. closed: ended in good order before an octet of the answer. cut: in the midst of the answer.
Why = Literal["refused", "reset", "closed", "cut", "timeout"]


class NoAnswer(Exception):
    """A request that got no whole answer."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Question:
    """A request in both methods; ``serial`` is what the answer must be about."""

    serial: int
    request_der: bytes

    def get(self, *fields: str) -> bytes:
        """Write it as a GET, by RFC 6960 App. A.1."""
        target = urllib.parse.quote(base64.b64encode(self.request_der), safe="")
        return "".join(
            (f"GET /{target} HTTP/1.1\r\nHost: ocsp\r\n", *(f"{one}\r\n" for one in fields), "\r\n")
        ).encode()

    def post(self, *fields: str) -> bytes:
        """Write it as a POST."""
        head = f"POST / HTTP/1.1\r\nHost: ocsp\r\nContent-Type: application/ocsp-request\r\nContent-Length: {len(self.request_der)}\r\n"
        return "".join((head, *(f"{one}\r\n" for one in fields), "\r\n")).encode() + self.request_der


@dataclass(frozen=True)
class Answer:
    """A whole HTTP response."""

    status: int
    body: bytes
    closes: bool


class Wire:
    """One connection; ``port`` is this end's, ``served`` counts its answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        try:
            self.socket = socket.create_connection(address, TIMEOUT_S)
        except OSError:
            raise NoAnswer("refused") from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.socket.getsockname()[1]
        self.served = 0
        self._buffer = b""

    def was_closed(self) -> bool:
        """Tell whether the other side has ended it, as a look before sending shows."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def send(self, octets: bytes) -> None:
        """Send; raises NoAnswer."""
        try:
            self.socket.sendall(octets)
        except TimeoutError:
            raise NoAnswer("timeout") from None
        except OSError:
            raise NoAnswer("reset") from None

    def read(self) -> Answer:
        """Read the next answer; raises NoAnswer."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        head = self._buffer[:end].split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head[1:])}
        end += 4 + int(fields[b"content-length"])
        while len(self._buffer) < end:
            self._more()
        answer = Answer(
            int(head[0].split(b" ")[1]),
            self._buffer[len(b"\r\n".join(head)) + 4 : end],
            fields.get(b"connection", b"").lower() == b"close",
        )
        self._buffer = self._buffer[end:]
        self.served += 1
        return answer

    def _more(self) -> None:
        try:
            octets = self.socket.recv(CHUNK)
        except TimeoutError:
            raise NoAnswer("timeout") from None
        except OSError:
            raise NoAnswer("reset") from None
        if not octets:
            raise NoAnswer("cut" if self._buffer else "closed")
        self._buffer += octets

    def finish_sending(self) -> None:
        """Shut this side down."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End it with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """End it."""
        self.socket.close()


@dataclass(frozen=True)
class Loss:
    """A request that nobody answered, and could not be asked again by a careful client."""

    why: Why
    method: str
    port: int
    served: int  # answers on that connection before
    opened_at: float
    lost_at: float


@dataclass
class Tally:
    """What clients met; threads append to it."""

    losses: list[Loss] = field(default_factory=list)
    asked_again: list[int] = field(default_factory=list)  # ports of connections closed in good order under a GET
    found_closed: list[int] = field(default_factory=list)  # ports of connections closed before anything was sent
    announced: list[int] = field(default_factory=list)  # ports of connections announced to close


class CarefulClient(threading.Thread):
    """Asks in turn, by GET and POST mixed, until it is stopped; what it is told goes to the history."""

    def __init__(
        self,
        history: History,
        tally: Tally,
        address: tuple[str, int],
        questions: Sequence[Question],
        *,
        keep_alive: bool,
        pause_s: float,
        seed: int,
    ) -> None:
        super().__init__(daemon=True)
        self.tally = tally
        self.told = 0
        self._history = history
        self._address = address
        self._questions = questions
        self._keep_alive = keep_alive
        self._pause_s = pause_s
        self._bodies: dict[bytes, bytes] = {}  # the same octets are kept once
        self._chance = random.Random(seed)
        self._ended = threading.Event()
        self._wire: Wire | None = None
        self._number = 0
        self._opened_at = 0.0

    def run(self) -> None:
        """Ask."""
        while not self._ended.is_set():
            for question in self._chance.sample(self._questions, len(self._questions)):
                if not self._ended.is_set():
                    self._ask(question, self._chance.choice(("GET", "POST")))
                    if self._pause_s:
                        self._ended.wait(self._pause_s)
        if self._wire is not None:
            self._wire.close()

    def stop(self) -> None:
        """Stop asking, after the question that is on its way."""
        self._ended.set()

    def wait(self) -> None:
        """Wait until it has stopped."""
        self.join(TIMEOUT_S + 5)
        assert not self.is_alive()

    def _ask(self, question: Question, method: str) -> None:
        asked_at = time.time()
        for _ in range(3):
            try:
                wire = self._connected()
            except NoAnswer as error:
                self._lose(error.why, method, 0, 0)
                return
            try:
                fields = () if self._keep_alive else ("Connection: close",)
                wire.send(question.get(*fields) if method == "GET" else question.post(*fields))
                answer = wire.read()
            except NoAnswer as error:
                self._drop()
                if error.why == "closed" and wire.served and method == "GET":
                    self.tally.asked_again.append(wire.port)
                    continue
                self._lose(error.why, method, wire.port, wire.served)
                return
            body = self._bodies.setdefault(answer.body, answer.body)
            self._history.told.append(Told(self._number, asked_at, time.time(), question.serial, answer.status, body))
            self.told += 1
            if answer.closes and self._keep_alive:
                self.tally.announced.append(wire.port)
            if answer.closes or not self._keep_alive:
                self._drop()
            return
        self._lose("closed", method, 0, 0)

    def _connected(self) -> Wire:
        if self._wire is not None and self._wire.was_closed():
            self.tally.found_closed.append(self._wire.port)
            self._drop()
        if self._wire is None:
            self._opened_at = time.monotonic()
            self._wire = Wire(self._address)
            self._number = self._history.new_connection()
        return self._wire

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _lose(self, why: Why, method: str, port: int, served: int) -> None:
        self.tally.losses.append(Loss(why, method, port, served, self._opened_at, time.monotonic()))


def ports_held_by(pid: int, server_port: int) -> set[int]:
    """Return the clients' ports of the TCP connections that a process has accepted on a port."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()))
    held = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].split(":")[1], 16) == server_port and f"socket:[{words[9]}]" in inodes:
            held.add(int(words[2].split(":")[1], 16))
    return held - {0}  # the listening socket


def state_of(pid: int) -> str:
    """Return the letter of a process's state: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def stop_clients(clients: Sequence[CarefulClient]) -> None:
    """Stop them all."""
    for client in clients:
        client.stop()
    for client in clients:
        client.wait()


def each_told(clients: Sequence[CarefulClient], count: int) -> Callable[[], bool]:
    """Return a condition: each client has been told so many answers from now."""
    before = [client.told for client in clients]
    return lambda: all(client.told >= told + count for client, told in zip(clients, before, strict=True))
