"""A whole running Revocast for tests that look at it from outside: `revocast run` on a CA in OpenSSL's layout.

Ports are the server's own choice; a test waits until it answers and stops it by its process id.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from tests.pki import PKI, Leaf, utc

READY_WITHIN_S = 40.0
POLL_S = 0.01

T = TypeVar("T")


def wait_until(what: str, check: Callable[[], T], within_s: float = READY_WITHIN_S) -> T:
    """Poll ``check`` until it returns something true; fails naming ``what`` after ``within_s``."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"waited {within_s:g} s in vain for {what}")


def index_time(seconds: int) -> str:
    """Spell a time as index.txt does."""
    moment = utc(seconds)
    return moment.strftime("%y%m%d%H%M%SZ") if moment.year < 2050 else moment.strftime("%Y%m%d%H%M%SZ")


def index_line(leaf: Leaf, revoked_at: int | None = None, reason: str = "") -> str:
    """Write a certificate's line of index.txt; revoked where a time is given."""
    text = f"{leaf.serial_number:X}"
    serial = text if len(text) % 2 == 0 else "0" + text
    expires = index_time(int(leaf.certificate.not_valid_after_utc.timestamp()))
    revocation = "" if revoked_at is None else index_time(revoked_at) + (f",{reason}" if reason else "")
    return f"{'V' if revoked_at is None else 'R'}\t{expires}\t{revocation}\t{serial}\tunknown\t/CN=test\n"


def write_index(path: Path, lines: Sequence[str]) -> None:
    """Replace index.txt in one step, as `openssl ca` does."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(lines))
    fresh.replace(path)


def ca_section(name: str, ca: PKI, index: Path, *, validity: str = "4d", extra_ocsp: str = "", extra: str = "") -> str:
    """Write a [[ca]] table for a CA of tests.pki: signed by its delegate if it has one, else by itself."""
    signer = ca.signer
    certificate = f'certificate = "{signer.certificate_path}", ' if signer else ""
    key = signer.key_path if signer else ca.key_path
    return (
        f'[[ca]]\nname = "{name}"\ncertificate = "{ca.certificate_path}"\n{extra}'
        f'source = {{ type = "openssl", path = "{index}" }}\n'
        f'ocsp = {{ {certificate}key = "{key}", validity = "{validity}"{extra_ocsp} }}\n'
    )


@dataclass
class Revocast:
    """One `revocast run` (or another command that supervises) and where it listens."""

    directory: Path
    sections: Sequence[str]
    workers: int = 1
    head: str = ""
    http_options: str = ""
    command: str = "run"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    http: tuple[str, int] = ("", 0)
    admin: tuple[str, int] = ("", 0)

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "revocast.toml"

    @property
    def log(self) -> str:
        """What it wrote to standard error so far."""
        return (self.directory / "stderr.log").read_text(errors="replace")

    def write_config(self) -> None:
        """Write the configuration file from the sections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f'data_dir = "state"\n{self.head}\n[http]\nlisten = ["127.0.0.1:0"]\nworkers = {self.workers}\n{self.http_options}\n'
            f'[admin]\nlisten = "127.0.0.1:0"\n' + "\n".join(self.sections)
        )

    def start(self) -> Revocast:
        """Start it and wait until it listens."""
        self.write_config()
        addresses = self.directory / "state" / "run" / "addresses"
        addresses.unlink(missing_ok=True)
        with (self.directory / "stderr.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "responder", self.command, "-c", str(self.config)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
            )
        wait_until("the addresses", lambda: self._alive() and addresses.exists())
        for line in addresses.read_text().splitlines():
            kind, _, address = line.partition(" ")
            host, _, port = address.rpartition(":")
            setattr(self, kind, (host.strip("[]"), int(port)))
        return self

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"revocast ended with {self.process.returncode}:\n{self.log}"
        return True

    def stop(self) -> int:
        """Stop it with SIGTERM; returns its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Revocast:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self.http[0]}:{self.http[1]}"

    def post(self, request_der: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """POST a request; returns HTTP status and body."""
        connection = http.client.HTTPConnection(*self.http, timeout=5)
        try:
            connection.request(
                "POST", "/", request_der, {"Content-Type": "application/ocsp-request", **(headers or {})}
            )
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def get(self, path: str, address: tuple[str, int] | None = None) -> tuple[int, dict[str, str], bytes]:
        """GET a path; returns status, headers (lower-case names) and body."""
        connection = http.client.HTTPConnection(*(address or self.http), timeout=5)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def query(
        self, leaf: Leaf, ca: PKI, algorithm: hashes.HashAlgorithm | None = None, nonce: bytes | None = None
    ) -> ocsp.OCSPResponse:
        """Ask about a certificate and parse the answer."""
        return ocsp.load_der_ocsp_response(self.post(request_for(leaf, ca, algorithm, nonce))[1])

    def wait_for(self, leaf: Leaf, ca: PKI, *statuses: ocsp.OCSPCertStatus, within_s: float = READY_WITHIN_S) -> None:
        """Wait until a certificate's answer is successful and says one of ``statuses``."""

        def settled() -> bool:
            self._alive()
            try:
                answer = self.query(leaf, ca)
            except OSError:
                return False
            return answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL and all(
                single.certificate_status in statuses for single in answer.responses
            )

        try:
            wait_until(f"{statuses} of {leaf.serial_number:x}", settled, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None


def request_for(
    leaf: Leaf, ca: PKI, algorithm: hashes.HashAlgorithm | None = None, nonce: bytes | None = None
) -> bytes:
    """Encode a request with one CertID, SHA-1 unless told otherwise."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf.certificate, ca.certificate, algorithm or hashes.SHA1())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(serialization.Encoding.DER)
