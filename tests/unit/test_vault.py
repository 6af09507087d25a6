"""The PKI engine of Vault and OpenBao: a small real HTTP server that speaks the documented API stands for it.

Neither binary is to be had where the tests run. The server answers as the API's documentation and OpenBao's sources say:
an empty list is a 404 without errors, serials in lists may have hyphens, a token that may not is a 403.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from loaders.base import Row
from loaders.contract_suite import ContractSource, LoaderContract, read, rows_of
from loaders.vault import VaultLoader, VaultOptions
from responder.errors import SourceUnavailable
from tests.loader_reading import Read
from tests.pki import make_ca, make_leaf
from tests.unit.test_files_contract import EXP, Source


class Engine(ThreadingHTTPServer):
    """A mount ``pki``: certificates by serial, and how they are to be answered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.certs: dict[str, dict[str, Any]] = {}
        self.raw: dict[str, bytes] = {}  # answers of single certificates that replace what would be said
        self.token = "s.reader"
        self.lists_revoked = True
        self.revoked_only: list[str] = []  # listed as revoked, and nowhere else
        self.odd_list: bytes | None = None  # what is said instead of either list
        self.issuers: dict[str, str] = {}  # PEM by id
        self.one_issuer = ""  # of a server that knows no others
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    protocol_version = "HTTP/1.1"
    server: Engine

    def log_message(self, *args: object) -> None:
        """Keep still."""

    def do_GET(self) -> None:
        engine, parts = self.server, urlsplit(self.path)
        path, is_list = parts.path.removeprefix("/v1/pki/"), "list" in parse_qs(parts.query)
        engine.asked.append(path)
        if self.headers.get("X-Vault-Token") != engine.token:
            return self.answer(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
        if is_list and engine.odd_list is not None:
            return self.send(200, engine.odd_list)
        if is_list and path == "certs":
            return self.keys([name.replace(":", "-") for name in [*engine.certs, *engine.raw]])
        if is_list and path == "certs/revoked" and engine.lists_revoked:
            return self.keys(
                [name for name, one in engine.certs.items() if one["revocation_time"]] + engine.revoked_only
            )
        if is_list and path == "issuers" and not engine.one_issuer:
            return self.keys(list(engine.issuers))
        if path == "cert/ca" and engine.one_issuer:
            return self.answer(200, {"data": {"certificate": engine.one_issuer}})
        if path.startswith("issuer/") and path.split("/")[1] in engine.issuers:
            return self.answer(200, {"data": {"certificate": engine.issuers[path.split("/")[1]], "ca_chain": []}})
        name = unquote(path.removeprefix("cert/")).replace("-", ":")
        if path.startswith("cert/") and name in engine.raw:
            return self.send(200, engine.raw[name])
        if path.startswith("cert/") and name in engine.certs:
            return self.answer(200, {"request_id": "x", "data": engine.certs[name], "warnings": None})
        return self.answer(404, {"errors": [] if path.startswith("cert/") else ["unsupported path"]})

    def keys(self, names: list[str]) -> None:
        self.answer(200, {"data": {"keys": names}}) if names else self.answer(404, {"errors": []})

    def answer(self, status: int, said: dict[str, Any]) -> None:
        self.send(status, json.dumps(said).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class VaultSource(Source):
    kind = "vault"

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(folder)
        self.engine = engine
        self.token = folder / "token"
        self.token.write_text(engine.token + "\n")
        self.loaders: list[VaultLoader] = []
        engine.issuers = {"3a5c": self.ca.certificate.public_bytes(Encoding.PEM).decode()}

    def options(self) -> dict[str, Any]:
        return {"url": self.engine.url, "token_file": str(self.token)}

    def open(self) -> VaultLoader:
        loader = super().open()
        assert isinstance(loader, VaultLoader)
        self.loaders.append(loader)
        return loader

    def close(self) -> None:
        for loader in self.loaders:
            loader._mount.close()

    def write(self, rows: Sequence[Row]) -> None:
        self.engine.certs = {}
        for certificate, status in self.both(rows):
            text = f"{certificate.serial_number:x}"
            text = "0" * (len(text) % 2) + text
            name = ":".join(text[at : at + 2] for at in range(0, len(text), 2))
            pem = certificate.public_bytes(Encoding.PEM).decode()
            self.engine.certs[name] = {"certificate": pem, "revocation_time": status.revoked_at or 0, "issuer_id": "x"}

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        self.engine.raw = {
            "09:01": b"not JSON in data".join([b'{"data": "', b'"}']),
            "09:02": b'{"data": {"certificate": "no PEM", "revocation_time": 0}}',
            "09:03": b'{"data": {"certificate": "no PEM", "revocation_time": "soon"}}',
            "09:04": b'{"data": {"certificate": "no PEM", "revocation_time": 999999999999999}}',
            "zz": b"{}",
            "ab" * 40_000: b"{}",
            "1\x002": b"{}",
        }
        return len(self.engine.raw)

    def take_away(self) -> None:
        self.engine.token = "another"


@pytest.fixture
def source(tmp_path: Path, engine: Engine) -> Iterator[VaultSource]:
    made = VaultSource(tmp_path, engine)
    yield made
    made.close()


# No reasons: the engine keeps none.
ROWS: tuple[Row, ...] = tuple(
    (serial, " ".join(word for word in text.split(" ") if word not in ("keyCompromise", "superseded")))
    for serial, text in (
        (b"\x01", "good" + EXP),
        (b"\x7f", "good" + EXP),
        (b"\x00\x80", "good" + EXP),
        (b"\x0a", "revoked 2026-01-02T03:04:05Z" + EXP),
        (b"\x0c", "revoked 2027-08-09T10:11:12Z" + EXP),
    )
)


class TestVault(LoaderContract):
    rows = ROWS
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path, engine: Engine) -> Iterator[ContractSource]:
        made = VaultSource(tmp_path, engine)
        yield made
        made.close()


def test_a_certificate_is_asked_for_once(source: VaultSource) -> None:
    """And once more when it is revoked; the two lists each time."""
    source.write(ROWS)
    loader = source.open()
    read(loader.snapshot())
    source.engine.asked.clear()
    assert rows_of(read(loader.snapshot())) == dict(ROWS)
    assert source.engine.asked == ["certs", "certs/revoked"]
    source.engine.certs["7f"]["revocation_time"] = 1_767_323_045
    source.engine.asked.clear()
    assert rows_of(read(loader.snapshot()))[b"\x7f"] == "revoked 2026-01-02T03:04:05Z" + EXP
    assert source.engine.asked[2:] == ["cert/7f"]


def test_without_a_list_of_the_revoked_each_good_one_is_asked_for(source: VaultSource) -> None:
    """Before Vault 1.12 there is none."""
    source.engine.lists_revoked = False
    source.write(ROWS)
    loader = source.open()
    read(loader.snapshot())
    source.engine.certs["7f"]["revocation_time"] = 1_767_323_045
    assert rows_of(read(loader.snapshot()))[b"\x7f"].startswith("revoked 2026-01-02T03:04:05Z")


def test_what_is_listed_as_revoked_is_revoked(source: VaultSource) -> None:
    """Though the certificate is gone, or says otherwise: reported, and presumed to be."""
    source.write(ROWS)
    source.engine.revoked_only = ["55", "7f"]
    got = Read(source.open())
    presumed = {row.serial_octets: row.presumed for row in got.rejected}
    assert presumed == {b"\x55": "revoked 2026-11-18T11:06:40Z", b"\x7f": "revoked 2026-11-18T11:06:40Z" + EXP}


def test_other_issuers_of_the_mount_are_not_ours(source: VaultSource) -> None:
    """Their certificates are passed over; a mount of another CA altogether is refused."""
    source.write(ROWS)
    other = make_ca(source.folder / "other", label="other-issuer")
    pem = make_leaf(other, serial_number=0x77).certificate.public_bytes(Encoding.PEM).decode()
    source.engine.certs["77"] = {"certificate": pem, "revocation_time": 0}
    loader = source.open()
    for _ in range(2):
        assert rows_of(read(loader.snapshot())) == dict(ROWS)
    source.engine.certs = {"77": source.engine.certs["77"]}
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        read(source.open().snapshot())


def test_the_issuers_of_a_mount(source: VaultSource) -> None:
    """Each once, whatever it has issued; a server before 1.11 has one, and knows no list of them."""
    other = make_ca(source.folder / "other", label="other-issuer")
    pem = other.certificate.public_bytes(Encoding.PEM).decode()
    source.engine.issuers |= {"77": pem, "78": "no PEM"}
    assert [one.certificate_der for one in source.open().discover()] == [
        source.issuer.certificate_der,
        other.certificate_der,
    ]
    source.engine.one_issuer = pem
    assert [(one.certificate_der, one.rows) for one in source.open().discover()] == [(other.certificate_der, None)]


def test_a_mount_with_no_store_roles_does_not_list_what_was_issued(source: VaultSource) -> None:
    """So that nobody is told that a serial was never issued."""
    made = VaultOptions.model_validate({**source.options(), "lists": "revoked"}, context={"base": source.folder})
    loader = VaultLoader(made, source.issuer, (), source.clock)
    source.loaders.append(loader)
    assert not loader.lists_issued


@pytest.mark.parametrize("said", [b'{"data": ["keys"]}', b'{"data": {"keys": {}}}', b"[]", b"<html>"])
def test_a_list_that_is_none_is_one_line(said: bytes, source: VaultSource) -> None:
    """Of some other server, or of a proxy."""
    source.engine.odd_list = said
    with pytest.raises(SourceUnavailable, match=r"no list of keys|is this Vault"):
        source.open().peek()


def test_a_token_that_was_renewed_is_read_anew(source: VaultSource) -> None:
    """One line says what was refused, without the token."""
    source.write(ROWS)
    loader = source.open()
    source.engine.token = "s.renewed"
    with pytest.raises(SourceUnavailable, match=r"HTTP 403: .*permission denied") as caught:
        read(loader.snapshot())
    assert "s.reader" not in str(caught.value)
    source.token.write_text("s.renewed\n")
    assert rows_of(read(loader.snapshot())) == dict(ROWS)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "http://vault.example.com:8200"}, "in the clear"),
        ({"url": "ftp://x"}, "must be like"),
        ({"mount": "../sys"}, None),
        ({"mount": "p?x"}, "mount"),
    ],
)
def test_options_that_will_not_do(options: dict[str, str], problem: str | None, source: VaultSource) -> None:
    """One line each."""
    values = source.options() | options
    if problem is None:
        problem = "mount"
    with pytest.raises(ValidationError, match=problem):
        VaultOptions.model_validate(values, context={"base": source.folder})
