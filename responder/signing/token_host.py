"""The process that holds one token's sessions: it finds keys, logs in once, and signs on several sessions at a time.

A PKCS#11 module is somebody else's code: it may hang, crash or lose its sessions. So it lives here, where that costs one
process; whatever goes wrong while signing ends this process, and the next one starts afresh with a new login. Started by
responder/signing/hsm.py, the other end of its socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from pkcs11 import PKCS11Error

from responder.errors import SignerUnavailable
from responder.signing.algorithms import Scheme, public_key_to_der, scheme_of
from responder.signing.cryptoki import CryptokiError
from responder.signing.pkcs11_uri import PKCS11URI, parse_pkcs11_uri
from responder.signing.token import (
    NO_MORE_SESSIONS,
    PinRefused,
    Token,
    find_key,
    public_key_of,
    usable_mechanisms,
    why,
)
from responder.signing.token_keys import TokenMechanism
from responder.signing.token_wire import FrameReader, Kind, frame, json_frame, pack_octets, read_sign

CHUNK_S = 0.01  # of signing between two looks at what is most urgent
MOST_IN_CHUNK = 128
PROGRESS_EVERY_S = 0.5  # of a long job the parent hears at least so often, as long as the token signs
CLOSE_WITHIN_S = 1  # politely; then the kernel ends this process


class Host:
    """One module in this process, and the keys that are open."""

    def __init__(self, to_parent: socket.socket) -> None:
        self._socket = to_parent
        self._send_lock = threading.Lock()
        self._sent_at = 0.0  # monotonic
        self._open_lock = threading.Lock()  # finding and logging in is done by one thread at a time
        self._keys: dict[int, _Key] = {}
        self._pins: dict[int, _Answer] = {}
        self._token: Token | None = None

    def run(self) -> None:
        """Do what the parent asks until it closes the socket."""
        reader = FrameReader()
        while data := self._socket.recv(1 << 18):
            for kind, job, payload in reader.feed(data):
                self._take(kind, job, payload)
        if self._token is not None:
            signal.alarm(CLOSE_WITHIN_S)
            self._token.finalize()

    def _take(self, kind: Kind, job: int, payload: bytes) -> None:
        if kind is Kind.OPEN:
            key = self._keys[job] = _Key(self, job, json.loads(payload))
            threading.Thread(target=key.open_and_work, daemon=True).start()
        elif kind is Kind.SIGN:
            number, priority, mechanism, messages = read_sign(payload)
            self._keys[number].add(_Job(job, mechanism, messages), priority)
        elif kind is Kind.CLOSE:
            self._keys.pop(job).close()
        else:
            answer = self._pins[job]
            answer.pin, answer.problem = (payload.decode(), None) if kind is Kind.PIN else (None, payload.decode())
            answer.there.set()

    def send(self, data: bytes) -> None:
        """Send a frame; any thread."""
        with self._send_lock:
            self._socket.sendall(data)
            self._sent_at = time.monotonic()

    def tell_progress(self) -> None:
        """Let the parent know that the token signs, though nothing is done; any thread."""
        if time.monotonic() - self._sent_at >= PROGRESS_EVERY_S:
            self.send(frame(Kind.SIGNING, 0))

    def ask_for_pin(self, job: int) -> str:
        """Have the parent read the PIN; raises ValueError where it has none."""
        answer = self._pins[job] = _Answer()
        self.send(frame(Kind.NEED_PIN, job))
        answer.there.wait()
        del self._pins[job]
        if answer.pin is None:
            raise ValueError(answer.problem)
        return answer.pin

    def fail(self, job: int, error: str, text: str, *, pin_refused: bool = False) -> None:
        """Report that a job failed."""
        self.send(json_frame(Kind.FAILED, job, error=error, text=text, pin_refused=pin_refused))

    def token(self, uri: PKCS11URI, data_dir: Path, job: int) -> Token:
        """Return the token, logged in; the same for every key of this process."""
        if self._token is None:
            token = Token(uri, data_dir)
            token.log_in(lambda: self.ask_for_pin(job))
            self._token = token
        return self._token

    def opening(self) -> threading.Lock:
        """Return the lock under which tokens and keys are looked for."""
        return self._open_lock


@dataclass(slots=True)
class _Answer:
    there: threading.Event = field(default_factory=threading.Event)
    pin: str | None = None
    problem: str | None = None


class _Job:
    """Messages of one SIGN frame, signed in chunks by whichever sessions are free."""

    __slots__ = ("left", "mechanism", "messages", "number", "signatures", "taken")

    def __init__(self, number: int, mechanism: int, messages: list[bytes]) -> None:
        self.number = number
        self.mechanism = mechanism
        self.messages = messages
        self.taken = 0
        self.left = len(messages)
        self.signatures: list[bytes] = [b""] * len(messages)


class _Key:
    """One private key, with a thread for each session that it signs on."""

    def __init__(self, host: Host, number: int, wanted: dict[str, Any]) -> None:
        self._host = host
        self._number = number
        self._wanted = wanted
        self._uri = parse_pkcs11_uri(wanted["uri"])
        self._queues: dict[int, deque[_Job]] = {}
        self._more = threading.Condition()
        self._closed = False
        self._problem = "the key is closed"
        self._seconds_each = CHUNK_S
        self._sessions = int(wanted["sessions"])
        self._mechanisms: dict[int, TokenMechanism]
        self._scheme: Scheme
        self._token: Token

    def open_and_work(self) -> None:
        """Find the key and sign with it: the first thread's whole life."""
        try:
            with self._host.opening():
                self._token = self._host.token(self._uri, Path(self._wanted["data_dir"]), self._number)
                sessions = self._open()
        except (SignerUnavailable, PKCS11Error, OSError, CryptokiError) as error:
            text = str(error) if isinstance(error, SignerUnavailable) else why(error)
            self._give_up("unavailable", text, pin_refused=isinstance(error, PinRefused))
        except ValueError as error:
            self._give_up("config", str(error))
        except Exception as error:  # somebody else's code: whatever it is, the parent is not kept waiting
            self._give_up("unavailable", why(error))
        else:
            for session, key in sessions[1:]:
                threading.Thread(target=self._work, args=(session, key), daemon=True).start()
            self._work(*sessions[0])

    def _give_up(self, error: str, text: str, *, pin_refused: bool = False) -> None:
        with self._more:
            self._closed, self._problem = True, text
            jobs = [job for queue in self._queues.values() for job in queue]
        self._host.fail(self._number, error, text, pin_refused=pin_refused)
        for job in jobs:
            self._host.fail(job.number, "unavailable", text)

    def _open(self) -> list[tuple[Any, int]]:
        """Find the key in each session; tells the parent what it is. Raises ValueError for what an operator must mend."""
        session = self._token.new_session()
        try:
            return self._open_in(session)
        except BaseException:
            self._token.let_go(session)  # of a key that is not there there may be many tries
            raise

    def _open_in(self, session: Any) -> list[tuple[Any, int]]:
        known = [serialization.load_der_public_key(bytes.fromhex(der)) for der in self._wanted["known"]]
        key = find_key(session, self._uri)
        public_key = public_key_of(session, key, known)
        scheme = scheme_of(public_key, self._wanted["rsa_padding"])
        public_key_der = public_key_to_der(public_key)
        if self._wanted["expected"] not in ("", public_key_der.hex()):
            raise ValueError(f"{self._uri.describe_token()} now holds another key as {self._uri.describe_key()}")
        usable = usable_mechanisms(scheme, session.token)
        self._scheme, self._mechanisms = scheme, {one.number: one for one in usable}
        sessions = [(session, key.handle)]
        for _ in range(1, self._sessions if self._token.bears_threads else 1):
            try:
                more = self._token.new_session()
            except NO_MORE_SESSIONS:
                break  # the token has no more; it signs on those that there are
            sessions.append((more, find_key(more, self._uri).handle))
        opened = {
            "public_key": public_key_der.hex(),
            "mechanisms": [one.number for one in usable],
            "sessions": len(sessions),
            "token": self._token.name,
            "logged_in": self._token.take_login(),
        }
        self._host.send(json_frame(Kind.OPENED, self._number, **opened))
        return sessions

    def add(self, job: _Job, priority: int) -> None:
        """Queue a job."""
        with self._more:
            if not self._closed:
                self._queues.setdefault(priority, deque()).append(job)
                self._more.notify_all()
                return
        self._host.fail(job.number, "unavailable", self._problem)

    def close(self) -> None:
        """Let the threads end once they have signed what they took."""
        with self._more:
            self._closed = True
            self._more.notify_all()

    def _take(self) -> tuple[_Job, int, list[bytes]] | None:
        """Wait for work; returns a job, the place of a chunk in it, and the chunk. The lowest priority number goes first."""
        with self._more:
            while not (waiting := [queue for _, queue in sorted(self._queues.items()) if queue]):
                if self._closed:
                    return None
                self._more.wait()
            job = waiting[0][0]
            share = -(-len(job.messages) // self._sessions)  # so that every session gets its part of a job
            size = max(1, min(MOST_IN_CHUNK, share, int(CHUNK_S / max(self._seconds_each, 1e-9))))
            at = job.taken
            job.taken = min(len(job.messages), at + size)
            if job.taken == len(job.messages):
                waiting[0].popleft()
            return job, at, job.messages[at : job.taken]

    def _work(self, session: Any, key: int) -> None:
        """Sign chunk after chunk on one session."""
        coordinate_bytes, token = self._scheme.coordinate_bytes, self._token
        while (taken := self._take()) is not None:
            job, at, messages = taken
            began = time.monotonic()
            try:
                mechanism = self._mechanisms[job.mechanism]
                with token.turn:
                    signatures = token.module.sign(
                        session.handle, key, mechanism.number, mechanism.parameter, messages, coordinate_bytes
                    )
            except Exception as error:
                # Whatever it is, nothing that this process holds is trusted any more: the next one starts afresh.
                self._host.fail(job.number, "unavailable", f"{self._uri.describe_token()} failed to sign: {why(error)}")
                os._exit(1)
            each = (time.monotonic() - began) / len(messages)
            with self._more:
                self._seconds_each += (each - self._seconds_each) / 4
                job.signatures[at : at + len(messages)] = signatures
                job.left -= len(messages)
                done = job.left == 0
            if done:
                self._host.send(frame(Kind.SIGNED, job.number, pack_octets(job.signatures)))
            else:
                self._host.tell_progress()
        token.let_go(session)


def main() -> None:
    """Serve the parent, at the other end of the socket whose number is the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it closes the socket
    with socket.socket(fileno=int(sys.argv[1])) as to_parent:
        try:
            Host(to_parent).run()
        except (ConnectionError, BrokenPipeError):
            os._exit(1)
    os._exit(0)  # threads may be in the module still


if __name__ == "__main__":
    main()
