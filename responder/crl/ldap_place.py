"""A CRL in a directory: one attribute of one entry, as an LDAP URL names it (RFC 4516, RFC 4523 §2).

    ldap://host/cn=Corp CA,o=Corp?certificateRevocationList;binary
    ldap://dc1.corp.example/CN=Corp CA,CN=pki,CN=CDP,CN=Public%20Key%20Services,…?deltaRevocationList?base

The client holds an LDAP message in memory until it is whole, so ``max_bytes`` bounds that memory here.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException

from responder.crl.fetch import CHUNK_BYTES, Fetched, FetchTerms, Incoming
from responder.errors import SourceUnavailable

DEFAULT_ATTRIBUTE = "certificateRevocationList;binary"
PORTS = {"ldap": 389, "ldaps": 636}
SCOPES = {"base": ldap3.BASE, "one": ldap3.LEVEL, "sub": ldap3.SUBTREE}
MESSAGE_ROOM = 65_536  # octets of a reply beside the CRL
RECEIVE_BYTES = 1 << 20  # at a time: the client joins what came before for each


class LDAPPlace:
    """One attribute of a directory entry; read anew each time."""

    fresh_for_s = 0.0

    def __init__(self, url: str, terms: FetchTerms, directory: Path) -> None:
        """Raises ValueError for a URL that cannot be asked."""
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError(
                f"{url!r} names no host: a CDP of Active Directory leaves it out, put a domain controller in"
            )
        self._host, self._port = parts.hostname, parts.port or PORTS[parts.scheme.lower()]
        self._tls = parts.scheme.lower() == "ldaps"
        self._dn = unquote(parts.path[1:])
        attributes, scope, search, extensions, *rest = [*parts.query.split("?"), "", "", "", ""][:5]
        if "," in attributes or any(rest) or extensions.startswith("!"):
            raise ValueError(f"{url!r}: one attribute and no critical extension may be named")
        self._attribute = unquote(attributes) or DEFAULT_ATTRIBUTE
        if scope and scope.lower() not in SCOPES:
            raise ValueError(f"{url!r}: the scope must be base, one or sub, and is {scope!r}")
        self._scope = SCOPES[scope.lower() or "base"]
        search = unquote(search) or "objectClass=*"
        self._filter = search if search.startswith("(") else f"({search})"
        self.name = url
        self._terms = terms
        self._directory = directory
        self._sha256: str | None = None

    def forget(self) -> None:
        """Take it once more; see ``fetch.Place``."""
        self._sha256 = None

    def fetch(self) -> Fetched | None:
        """Search for it; see ``fetch.Place``."""
        try:
            values = self._values()
        except (LDAPException, OSError, ssl.SSLError) as error:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise SourceUnavailable(f"{self.name}: {text}") from error
        if len(values) != 1:
            raise SourceUnavailable(
                f"{self.name}: {len(values) or 'no'} values of {self._attribute}; there must be one (may it be read by {self._terms.bind_dn or 'anybody'}?)"
            )
        with Incoming(self.name, self._directory, self._terms.max_bytes) as incoming:
            for at in range(0, len(values[0]), CHUNK_BYTES):
                incoming.write(values[0][at : at + CHUNK_BYTES])
            fetched = incoming.keep(self._sha256)
        if fetched is not None:
            self._sha256 = fetched.sha256
        return fetched

    def _values(self) -> list[bytes]:
        deadline = time.monotonic() + self._terms.timeout_s
        trust = self._terms.ca_certificate
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=None if trust is None else str(trust))
        server = ldap3.Server(
            self._host,
            self._port,
            use_ssl=self._tls,
            tls=tls,
            get_info=ldap3.NONE,
            connect_timeout=self._terms.idle_s,
        )
        login = {} if self._terms.bind_dn is None else self._login(self._terms.bind_dn)
        connection = ldap3.Connection(
            server,
            auto_referrals=False,
            raise_exceptions=True,
            read_only=True,
            check_names=False,
            **login,
        )
        try:
            connection.open(read_server_info=False)
            limit = self._terms.max_bytes + MESSAGE_ROOM
            connection.socket = BoundedSocket(connection.socket, limit, self._terms.idle_s, deadline)
            connection.bind(read_server_info=False)
            connection.search(self._dn, self._filter, self._scope, attributes=[self._attribute])
            entries = [entry for entry in connection.response or [] if entry.get("type") == "searchResEntry"]
        finally:
            # Its own closing leaves the socket open where the server was quicker.
            opened = connection.socket
            connection.strategy.close()
            if opened is not None:
                opened.close()
        wanted = self._attribute.split(";")[0].lower()
        # RFC 4523 §2.5 wants ";binary" in the name; Active Directory has none.
        return [
            value
            for entry in entries
            for name, values in entry["raw_attributes"].items()
            if name.split(";")[0].lower() == wanted
            for value in values
        ]

    def _login(self, bind_dn: str) -> dict[str, Any]:
        assert self._terms.password is not None  # noqa: S101 - whoever makes the terms sees to it
        return {"user": bind_dn, "password": self._terms.password(), "authentication": ldap3.SIMPLE}


class BoundedSocket:
    """A socket that gives no more than so many octets, and none after a deadline (monotonic): ldap3 knows no such limits."""

    def __init__(self, inner: Any, max_bytes: int, idle_s: float, deadline: float) -> None:
        self._inner: socket.socket = inner
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._deadline = deadline

    def recv(self, _size: int) -> bytes:
        """Receive whatever is there; raises OSError past the bounds."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise OSError("not there in time")
        self._inner.settimeout(min(left_s, self._idle_s))
        data = self._inner.recv(RECEIVE_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"more than {self._max_bytes} octets (max_bytes)")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
