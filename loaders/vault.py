"""Reads the PKI secrets engine of HashiCorp Vault and of OpenBao, over its HTTP API (docs/loaders/vault.md).

Two lists tell which serials were issued and which revoked; each certificate is asked for once, since it never changes, and
once more when it is revoked. The engine keeps no reasons, knows no hold, and takes no revocation back. Made by
loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import httpx
from pydantic import Field, field_validator

from loaders.base import FoundIssuer, LoaderOptions
from loaders.columns import shown
from loaders.discovery import CertificateIssuers
from loaders.entries import Doubts, Item, ItemSnapshot, RowMaker, serial_from_hex
from loaders.ownership import CertificateOwner, certificate_expiry, certificate_serial, parse_pem_certificate
from responder.clock import Clock
from responder.config import Duration, FilePath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import CRLReason

MAX_LIST_BYTES = 1 << 29  # five million serials
MAX_CERTIFICATE_BYTES = 1 << 21  # an answer with one certificate and its chain
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class VaultOptions(LoaderOptions):
    """The keys of ``source = { type = "vault", … }``."""

    url: str = Field(description="The server, such as https://vault.example.com:8200.")
    mount: str = Field(
        "pki", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", description="Where the PKI secrets engine is mounted."
    )
    token_file: FilePath = Field(description="File whose first line is the token; it is read anew for each reading.")
    namespace: str | None = Field(None, description="Namespace of the mount, where there are any.")
    ca_certificate: FilePath | None = Field(
        None, description="Certificates that the server's TLS certificate is verified with; absent: the system's."
    )
    lists: Literal["issued", "revoked"] = Field(
        "issued",
        description='"revoked" where a role of the mount has no_store: then a serial that is not listed may have been issued all the same.',
    )
    poll: Duration | None = Field(10, ge=1, description="How often the two lists are asked for.")

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        url = httpx.URL(value)
        if url.scheme not in ("https", "http") or not url.host or url.path.strip("/"):
            raise ValueError("must be like https://vault.example.com:8200")
        if url.scheme == "http" and not _is_loopback(url.host):
            raise ValueError("the token would go over the wire in the clear: https, or a server on this machine")
        return value

    @property
    def shared_key(self) -> str:
        """A mount may have several issuers."""
        return f"{self.url}/{self.namespace or ''}/{self.mount}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Mount:
    """One mount's API, over one connection that is kept. Raises SourceUnavailable, in one line."""

    def __init__(self, options: VaultOptions) -> None:
        self.name = f"{options.url}/{options.mount}"
        self._options = options
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody: enough for http
        if options.url.startswith("https"):
            trust = ssl.create_default_context(cafile=options.ca_certificate and str(options.ca_certificate))
        # A redirect would carry the token to whoever it names.
        self._client = httpx.Client(
            base_url=f"{options.url.rstrip('/')}/v1/{options.mount.strip('/')}/",
            verify=trust,
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def serials(self, path: str) -> list[str] | None:
        """Return what a list holds; None where this server has no such list."""
        status, body = self._get(path, {"list": "true"}, MAX_LIST_BYTES)
        said = self._json(path, body)
        if status == 404:
            # An empty list is "not found" without an error.
            return None if said.get("errors") else []
        data = said.get("data")
        keys = data.get("keys") if isinstance(data, dict) else None
        if not isinstance(keys, list):
            raise SourceUnavailable(f"{self.name}/{path}: no list of keys in the answer")
        return [key if isinstance(key, str) else repr(key) for key in keys]

    def certificate(self, serial: str) -> dict[str, Any] | None:
        """Return what is told of one certificate; None where it is gone. Raises ValueError for an answer that is odd."""
        return self._data(f"cert/{quote(serial, safe=':-')}")

    def issuer(self, reference: str) -> dict[str, Any] | None:
        """Return what is told of one issuer; None where it is gone. Raises ValueError for an answer that is odd."""
        return self._data(f"issuer/{quote(reference, safe='')}/json")

    def _data(self, path: str) -> dict[str, Any] | None:
        status, body = self._get(path, {}, MAX_CERTIFICATE_BYTES)
        if status == 404:
            return None
        data = self._json(path[:100], body).get("data")
        if not isinstance(data, dict):
            raise ValueError("no data in the answer")
        return data

    def _get(self, path: str, query: dict[str, str], limit: int) -> tuple[int, bytes]:
        where = f"{self.name}/{path[:100]}"
        try:
            lines = self._options.token_file.read_text("utf-8").splitlines() or [""]
            headers = {"X-Vault-Token": lines[0].strip(), "X-Vault-Request": "true"}
            if self._options.namespace is not None:
                headers["X-Vault-Namespace"] = self._options.namespace
            body = bytearray()
            with self._client.stream("GET", path, params=query, headers=headers) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise SourceUnavailable(f"{where}: more than {limit} octets")
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise SourceUnavailable(f"{where}: cannot be read: {said}") from error
        if response.status_code not in (200, 404):
            raise SourceUnavailable(f"{where}: HTTP {response.status_code}: {_errors(bytes(body))}")
        return response.status_code, bytes(body)

    def _json(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            said = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SourceUnavailable(f"{self.name}/{path}: the answer is not JSON: is this Vault?") from error
        if not isinstance(said, dict):
            raise SourceUnavailable(f"{self.name}/{path}: the answer is no JSON object: is this Vault?")
        return said


def _errors(body: bytes) -> str:
    try:
        said = json.loads(body).get("errors")
    except (ValueError, RecursionError, AttributeError):
        return "no reason given"
    return " ".join(str(said).split())[:300]


class VaultLoader:
    """One mount for one of its issuers."""

    Options: ClassVar[type[LoaderOptions]] = VaultOptions
    no_issuers = "the mount has no issuer"
    good_releases_hold = False
    follows_clock = True

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, VaultOptions)  # noqa: S101 - the registry checks options by our own model
        self._mount = Mount(options)
        self.name = self._mount.name
        self.lists_issued = options.lists == "issued"
        self._clock = clock
        self._owner = CertificateOwner(issuer)
        # Serial as the mount spells it → what is known of it for good: an item, or None for another issuer's.
        self._known: dict[str, Item | None] = {}

    def peek(self) -> str:
        """Return the digest of both lists; raises SourceUnavailable."""
        digest = hashlib.sha256()
        for path in ("certs", "certs/revoked"):
            digest.update(repr(sorted(self._mount.serials(path) or [])).encode())
        return digest.hexdigest()

    def snapshot(self) -> ItemSnapshot:
        """Start one reading."""
        as_of = self._clock.now()
        return ItemSnapshot(self._items(RowMaker(self.name, as_of)), as_of)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the mount's issuers; of a server before Vault 1.11, which has one in each mount, that one."""
        issuers = CertificateIssuers(self.name)
        references = self._mount.serials("issuers")
        ask = self._mount.issuer if references else self._mount.certificate
        for reference in references or ["ca"]:
            data = Doubts().read("issuer", ask, reference)
            pem = None if data is None else data.get("certificate")
            if isinstance(pem, str):
                certificate = Doubts().read("certificate", parse_pem_certificate, pem.encode())
                if certificate is not None:
                    issuers.add_ca(certificate)
        return [replace(one, rows=None) for one in issuers.found()]

    def _items(self, make: RowMaker) -> Iterator[Item]:
        issued = self._mount.serials("certs")
        if issued is None:
            raise SourceUnavailable(f"{self.name}: is no PKI secrets engine: it has no list of certificates")
        revoked = self._mount.serials("certs/revoked")
        # Before Vault 1.12 there was no list of what is revoked: then nothing may be remembered as good.
        told_revoked = frozenset(map(_plain, revoked)) if revoked is not None else None
        names = dict.fromkeys([*issued, *(revoked or [])])
        by_plain = {_plain(name): name for name in names}
        self._known = {name: item for name, item in self._known.items() if _plain(name) in by_plain}
        self._owner.begin()
        for plain in sorted(by_plain):
            name = by_plain[plain]
            is_revoked = None if told_revoked is None else plain in told_revoked
            if name in self._known and (self._is_final(self._known[name]) or is_revoked is False):
                item = self._known[name]
                self._owner.ours += item is not None
            else:
                item = self._ask(name, is_revoked, make)
            if item is not None:
                yield item
        self._owner.check(self.name)

    @staticmethod
    def _is_final(item: Item | None) -> bool:
        """Say whether nothing can become of it any more: another issuer's, or revoked."""
        return item is None or (type(item) is tuple and item[1].startswith("revoked"))

    def _ask(self, name: str, is_revoked: bool | None, make: RowMaker) -> Item | None:
        """Ask for a certificate, and remember what is sure."""
        where, doubts = f"cert {shown(name)}", Doubts()
        told = doubts.read("serial", serial_from_hex, name, ":-")
        if told is None:
            return make.rejected(where, doubts.problem or "no serial")
        data: dict[str, Any] | None = None
        try:
            data = self._mount.certificate(name)
        except ValueError as error:
            doubts.add(str(error))
        if data is None and doubts.problem is None and not is_revoked:
            return None  # tidied away since the list was made
        octets, not_after, seconds = told, None, None
        if data is not None:
            pem = data.get("certificate")
            certificate = doubts.read(
                "certificate", parse_pem_certificate, pem.encode() if isinstance(pem, str) else b""
            )
            if certificate is not None:
                if not self._owner.owns(certificate):
                    self._known[name] = None
                    return None
                own = doubts.read("certificate", certificate_serial, certificate)
                if own != told:
                    doubts.add(f"its certificate has the serial {(own or b'').hex()}")
                not_after = certificate_expiry(certificate)
            seconds = doubts.read("revocation_time", _seconds, data.get("revocation_time"))
            is_revoked = is_revoked or seconds is None or seconds > 0
        if is_revoked:
            item = make.revoked(
                where, octets, not_after, doubts, revoked_at=seconds or None, reason=CRLReason.UNSPECIFIED
            )
        else:
            item = make.good(where, octets, not_after, doubts)
        if type(item) is tuple:
            self._known[name] = item
        return item


def _plain(name: str) -> str:
    """Return a serial as it is compared: older servers spell it with hyphens, and lists differ."""
    return name.replace("-", ":").lower()


def _seconds(value: object) -> int:
    """Read revocation_time: 0 is not revoked."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"no number of seconds: {str(value)[:40]!r}")
    return value
