"""Keys in PKCS#11 tokens, as the presigning role sees them: what it asks of the process that holds a token's sessions.

Each token has a process of its own (token_host.py), started when its first key is opened and again when it has ended. Nothing
here waits for a token longer than the caller has patience: jobs are sent, and their signatures are there some day, or the
process is found dead or stuck and is ended. Used by one thread.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder import audit
from responder.errors import ConfigError, InvariantBroken, SignerOpening, SignerUnavailable
from responder.log import get_logger
from responder.process import die_with_parent
from responder.signing.algorithms import RSAPadding, Scheme, public_key_to_der, scheme_of
from responder.signing.pins import PinSource
from responder.signing.pkcs11_uri import PKCS11URI
from responder.signing.token_keys import TokenMechanism, mechanisms_for
from responder.signing.token_wire import FrameReader, Kind, frame, json_frame, sign_frame, unpack_octets

log = get_logger(__name__)

OPEN_WITHIN_S = 10.0  # finding a token, logging in and finding a key; a network HSM may take seconds
STUCK_AFTER_S = 10.0  # without any reply while one is owed: the process is ended
SILENT_AFTER_S = 2.0  # likewise: nothing more is asked of it until it is heard of
SIGN_WITHIN_S = 2.0  # for those who wait while others are kept waiting
END_WITHIN_S = 2.0  # for a process that was asked to end
READ_OCTETS = 1 << 18
URGENT, ROUTINE = 0, 1  # priorities of SIGN frames


class Signing:
    """Messages on their way through a token. ``done`` once there are signatures or an error."""

    __slots__ = ("_host", "error", "signatures")

    def __init__(self, host: TokenHost) -> None:
        self._host = host
        self.signatures: list[bytes] | None = None
        self.error: SignerUnavailable | None = None

    @property
    def done(self) -> bool:
        """Say whether ``result`` would not wait, as far as ``HSMSigner.poll`` has seen."""
        return self.signatures is not None or self.error is not None

    def result(self, within_s: float = STUCK_AFTER_S) -> list[bytes]:
        """Wait for the signatures; raises SignerUnavailable where there are none by then."""
        until = time.monotonic() + within_s
        while not self.done:
            left = until - time.monotonic()
            if left <= 0:
                raise SignerUnavailable(f"{self._host.label} has not signed within {within_s:.0f} s")
            self._host.poll(left)
        if self.error is not None:
            raise self.error
        assert self.signatures is not None  # noqa: S101 - one of the two is there
        return self.signatures


class TokenHost:
    """The process that holds one token's sessions, seen from outside."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.keys: dict[int, HSMSigner] = {}  # by the number under which the process knows them
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._jobs: dict[int, Signing] = {}
        self._numbers = itertools.count(1)
        self._heard_at = 0.0  # monotonic: of the last frame, or of the first job since nothing was owed
        self._pid = os.getpid()

    @property
    def is_alive(self) -> bool:
        """Say whether there is a process to speak to, as far as is known."""
        return self._socket is not None

    @property
    def is_silent(self) -> bool:
        """Say whether the process has long owed a reply, as far as is known."""
        return bool(self._jobs) and time.monotonic() - self._heard_at > SILENT_AFTER_S

    def fileno(self) -> int | None:
        """Return what becomes readable when the process has replied; None: there is no process."""
        return None if self._socket is None else self._socket.fileno()

    def start(self) -> None:
        """Start the process; raises SignerUnavailable where there can be none."""
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "responder.signing.token_host", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            ours.close()
            raise SignerUnavailable(f"no process for {self.label} can be started: {error}") from error
        finally:
            theirs.close()
        ours.settimeout(STUCK_AFTER_S)
        self._socket, self._reader = ours, FrameReader()

    def new_number(self) -> int:
        """Return a number for a job or a key."""
        return next(self._numbers)

    def send(self, data: bytes) -> None:
        """Send a frame; what cannot be sent ends the process."""
        if self._pid != os.getpid():
            raise InvariantBroken(f"the process forked after it had opened {self.label}")
        if self._socket is None:
            return
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.give_up(f"the process of {self.label} does not listen: {error}")

    def add(self, number: int, job: Signing, data: bytes) -> None:
        """Send a job."""
        if not self.is_alive:
            job.error = SignerUnavailable(f"the process of {self.label} has ended")
            return
        if not self._jobs:
            self._heard_at = time.monotonic()
        self._jobs[number] = job
        self.send(data)

    def poll(self, timeout_s: float) -> None:
        """Take in what the process has sent, waiting up to ``timeout_s`` for something."""
        while self._socket is not None:
            if not select.select([self._socket], [], [], timeout_s)[0]:
                limit_s = OPEN_WITHIN_S if any(not key.is_open for key in self.keys.values()) else STUCK_AFTER_S
                if self._jobs and time.monotonic() - self._heard_at > limit_s:
                    self.give_up(f"{self.label} has not replied for {limit_s:.0f} s; its process is ended")
                return
            try:
                data = self._socket.recv(READ_OCTETS)
            except OSError:
                data = b""
            if not data:
                self.give_up(f"the process of {self.label} has ended{self._how()}")
                return
            self._heard_at = time.monotonic()
            for kind, number, payload in self._reader.feed(data):
                self._take(kind, number, payload)
            timeout_s = 0.0

    def _take(self, kind: Kind, number: int, payload: bytes) -> None:
        if self._socket is None or kind is Kind.SIGNING:
            return  # nothing more is believed of a process that was dropped; that it still signs was noted by the caller
        if kind is Kind.SIGNED:
            self._jobs.pop(number).signatures = unpack_octets(payload)
            return
        if kind is Kind.FAILED:
            failed = json.loads(payload)
            if (key := self.keys.pop(number, None)) is not None:
                key.not_opened(failed["error"], failed["text"], pin_refused=failed["pin_refused"])
            job = self._jobs.pop(number, None)
            if job is not None:
                job.error = SignerUnavailable(failed["text"])
            if not self.keys or (job is not None and not self._jobs):
                # Nothing that a process holds whose token failed is trusted any more. Where it still owes another key's jobs,
                # it ends by itself if the token is to blame; if it was that one key, the others sign on.
                self._drop(failed["text"])
            elif key is not None:
                self.send(frame(Kind.CLOSE, number))
            return
        key = self.keys.get(number)
        if key is None:
            return  # closed meanwhile
        if kind is Kind.OPENED:
            key.opened(json.loads(payload))
        elif kind is Kind.NEED_PIN:
            self.send(key.pin_frame(number))

    def _how(self) -> str:
        assert self._process is not None  # noqa: S101 - _socket is there
        try:
            code = self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with code {code}"

    def give_up(self, text: str) -> None:
        """End a process that is gone, or good for nothing any more."""
        log.error("token_process_lost", reason=text)
        self._drop(text)

    def _drop(self, text: str) -> None:
        """End the process, and fail what it owed."""
        keys, self.keys = self.keys, {}
        self.end(text, within_s=0.0)
        for key in keys.values():
            key.lost(text)

    def end(self, text: str = "the key is closed", within_s: float = END_WITHIN_S) -> None:
        """Have the process end, and see that it does; what it owed has failed."""
        connection, self._socket = self._socket, None
        process, self._process = self._process, None
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.error = SignerUnavailable(text)
        if connection is not None:
            connection.close()
        if process is not None:
            try:
                process.wait(within_s)
            except subprocess.TimeoutExpired:
                process.kill()
                try:
                    process.wait(END_WITHIN_S)
                except subprocess.TimeoutExpired:  # in a driver that does not let go; subprocess takes its end in later
                    log.error("token_process_not_ended", pid=process.pid)


class HSMSigner:
    """A private key in a token. See AsyncSigner. After a failure the next job starts the token's process anew."""

    def __init__(
        self,
        host: TokenHost,
        uri: PKCS11URI,
        pin: PinSource,
        open_request: dict[str, Any],
    ) -> None:
        """Ask for the key; ``wait_until_open`` is next. Raises SignerUnavailable."""
        self._host = host
        self._uri = uri
        self._pin = pin
        self.open_request = open_request
        self._number = 0  # under which the process knows the key; 0: it does not
        self._public_key_der = b""
        self._scheme: Scheme
        self._mechanism: TokenMechanism
        self._digest_mechanism: TokenMechanism | None = None
        self._failure: tuple[str, str] | None = None
        self._closed = False
        self.is_open = False  # the process that there is has found it
        self.sessions = 0
        self._sign_within_s = SIGN_WITHIN_S
        self._open()
        self._open_until = time.monotonic() + OPEN_WITHIN_S

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo DER, read from the token."""
        return self._public_key_der

    @property
    def signature_algorithm_der(self) -> bytes:
        """AlgorithmIdentifier DER of its signatures."""
        return self._scheme.algorithm_der

    def submit(self, messages: Sequence[bytes], *, urgent: bool) -> Signing:
        """Have messages signed, without waiting; urgent ones before all that are not. Raises SignerUnavailable."""
        self._be_ready()
        return self._submit(self._mechanism, self._mechanism.prepare(messages), URGENT if urgent else ROUTINE)

    def _be_ready(self) -> None:
        """See to it that there is a process that knows the key; raises SignerUnavailable."""
        if self._closed:
            raise SignerUnavailable("the key is closed")
        self._host.poll(0.0)
        if self._host.is_silent:
            # Whoever waits for its replies waits once, not once more for every key and question.
            raise SignerUnavailable(f"{self._host.label} owes replies and says nothing")
        if not self._host.is_alive or self._number == 0:
            self._open()

    def _submit(self, mechanism: TokenMechanism, prepared: list[bytes], priority: int) -> Signing:
        job, number = Signing(self._host), self._host.new_number()
        if not prepared:
            job.signatures = []
            return job
        self._host.add(number, job, sign_frame(number, self._number, priority, mechanism.number, prepared))
        return job

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message; raises SignerUnavailable, and nothing else, where any fails."""
        return self.submit(messages, urgent=True).result(self._sign_within_s)

    @property
    def digest_name(self) -> str:
        """hashlib's name of the digest that ``sign_digest`` takes; empty: none, or the token only hashes by itself."""
        return self._digest_mechanism.hash_name if self._digest_mechanism is not None else ""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a message by its digest; raises SignerUnavailable."""
        if self._digest_mechanism is None:
            raise InvariantBroken(f"{self._host.label} signs whole messages with this key, not digests")
        self._be_ready()
        prepared = self._digest_mechanism.prepare_digest(digest)
        (signature,) = self._submit(self._digest_mechanism, [prepared], URGENT).result(self._sign_within_s)
        return signature

    def poll(self) -> None:
        """Take in what has come, without waiting; sees too whether the process still lives."""
        self._host.poll(0.0)

    def fileno(self) -> int | None:
        """Return what becomes readable when signatures have come; None: the process is not there."""
        return self._host.fileno()

    def close(self) -> None:
        """Let go of the key; the last key of a token ends its process."""
        if not self._closed:
            self._closed = True
            if self._host.keys.pop(self._number, None) is not None:
                self._host.send(frame(Kind.CLOSE, self._number))
            _release(self._host)

    # --- opening --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Ask for the key, in a new process where there is none; its reply is awaited by nobody."""
        if not self._host.is_alive:
            self._host.start()
        self._failure = None
        self.is_open = False
        self._number = self._host.new_number()
        self._host.keys[self._number] = self
        self._host.send(json_frame(Kind.OPEN, self._number, expected=self._public_key_der.hex(), **self.open_request))

    def wait_until_open(self, patience_s: float) -> None:
        """Wait for the first opening, which takes OPEN_WITHIN_S at most.

        Raises SignerOpening where it takes longer than ``patience_s``, and may be called again; ValueError for what the
        operator must mend, SignerUnavailable for the rest.
        """
        self._sign_within_s = max(patience_s, SIGN_WITHIN_S)
        until = min(self._open_until, time.monotonic() + patience_s)
        while not self._public_key_der and self._failure is None:
            left = max(0.0, until - time.monotonic())
            self._host.poll(left)
            if left == 0.0 and not self._public_key_der and self._failure is None:
                if until < self._open_until:
                    raise SignerOpening(f"{self._host.label} is being opened")
                # Its module hangs, and would keep every later try waiting too.
                self._host.give_up(f"{self._host.label} was not opened within {OPEN_WITHIN_S:.0f} s")
        if self._failure is not None:
            error, text = self._failure
            raise ValueError(text) if error == "config" else SignerUnavailable(text)

    def opened(self, reply: dict[str, Any]) -> None:
        """Take in what the key is; called by its host."""
        der = bytes.fromhex(reply["public_key"])
        self._scheme = scheme_of(serialization.load_der_public_key(der), self.open_request["rsa_padding"])
        usable = [one for one in mechanisms_for(self._scheme) if one.number in reply["mechanisms"]]
        self._mechanism = usable[0]
        self._digest_mechanism = next((one for one in usable if one.takes_digests), None)
        self._public_key_der = der
        self.is_open = True
        self.sessions = reply["sessions"]
        if reply["logged_in"]:
            audit.record("login", token=reply["token"])
        log.info("token_key_opened", token=reply["token"], sessions=self.sessions)

    def not_opened(self, error: str, text: str, *, pin_refused: bool) -> None:
        """Take in why it could not be opened; the next job asks again."""
        if pin_refused:
            audit.record("login_refused", token=self._uri.describe_token())
            self._pin.forget_typed()
        self._number = 0
        self._failure = (error, text)

    def lost(self, text: str) -> None:
        """Take in that the process has ended."""
        self._number = 0
        self._failure = self._failure or ("unavailable", text)

    def pin_frame(self, number: int) -> bytes:
        """Read the PIN for the process, as it is now."""
        try:
            return frame(Kind.PIN, number, self._pin.read().encode())
        except ConfigError as error:
            return frame(Kind.NO_PIN, number, str(error).encode())


_hosts: dict[object, TokenHost] = {}  # by module and the attributes that name a token
_opening: dict[tuple[str, str], HSMSigner] = {}  # by configuration and key in it: asked for, and not there yet


def open_hsm_key(
    uri: PKCS11URI,
    pin: PinSource,
    data_dir: Path,
    config_file: str,
    config_key: str,
    known_public_keys: Sequence[PublicKeyTypes] = (),
    rsa_padding: RSAPadding | None = None,
    *,
    sessions: int = 1,
    patience_s: float = OPEN_WITHIN_S,
) -> HSMSigner:
    """Open a key in a token. Keys of one token share its process and its one login; each has sessions of its own.

    ``known_public_keys``: the configured certificate's key, for tokens that hold nothing but the private key. Raises
    ConfigError where the operator must mend something, SignerUnavailable where the token may come back or refuses the
    PIN; either is one line that says what was looked for and what is there. SignerOpening where that takes longer than
    ``patience_s``: who asks again for the same has the same opening.
    """
    place = (config_file, config_key)
    open_request = {
        "uri": uri.text,
        "data_dir": str(data_dir),
        "known": [public_key_to_der(key).hex() for key in known_public_keys],
        "rsa_padding": rsa_padding,
        "sessions": sessions,
    }
    try:
        key = _opening.pop(place, None)
        if key is not None and key.open_request != open_request:
            key.close()
            key = None
        key = key or HSMSigner(_host_of(uri), uri, pin, open_request)
        try:
            key.wait_until_open(patience_s)
        except SignerOpening:
            _opening[place] = key
            raise
        except BaseException:
            key.close()
            raise
        return key
    except ValueError as error:
        raise ConfigError(config_file, config_key, str(error)) from error
    except SignerOpening:
        raise
    except SignerUnavailable as error:
        raise SignerUnavailable(f"{config_file}: {config_key}: {error}") from error


def _host_of(uri: PKCS11URI) -> TokenHost:
    path = uri.module_file().resolve()
    named = (path, uri.token, uri.serial, uri.manufacturer, uri.model, uri.slot_id)
    return _hosts.setdefault(named, TokenHost(uri.describe_token()))


def _release(host: TokenHost) -> None:
    """End a token's process that holds no key any more."""
    if not host.keys:
        host.end()
        for named in [name for name, one in _hosts.items() if one is host]:
            del _hosts[named]
