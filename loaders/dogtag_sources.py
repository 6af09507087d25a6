"""Where the entries of Dogtag's certificate repository come from: an LDIF (RFC 2849), or a directory over LDAP.

Names of attributes are lower case, values octets, the first of several. Called by loaders/dogtag.py.
"""

from __future__ import annotations

import ipaddress
import ssl
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException
from pydantic import Field, field_validator

from loaders.base import LoaderOptions
from loaders.ownership import MAX_CERTIFICATE_BYTES
from responder.clock import format_utc
from responder.config import FilePath
from responder.errors import SourceUnavailable

PAGE_ENTRIES = 1000  # half of what 389-DS gives to anybody but the Directory Manager
CONNECT_S, RECEIVE_S = 10, 120
MAX_ENTRY_BYTES = 4 * MAX_CERTIFICATE_BYTES
CLASS_LINE = b"objectclass:certificaterecord"
ATTRIBUTES = [
    "cn",
    "serialno",
    "certStatus",
    "revInfo",
    "revokedOn",
    "notBefore",
    "dateOfModify",
    "modifyTimestamp",
    "userCertificate;binary",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate's entry."""

    where: str
    values: dict[str, bytes]


class DirectoryOptions(LoaderOptions):
    """How a directory is reached."""

    url: str | None = Field(None, description="The directory, such as ldaps://ca.example.com; instead of path.")
    base: str = Field(
        "ou=certificateRepository,ou=ca,o=ipaca",
        description="Where the repository lies: FreeIPA's by default; of a standalone Dogtag ou=certificateRepository,ou=ca,o=pki-tomcat-CA and the like.",
    )
    bind_dn: str | None = Field(None, description="Whom to log in as; absent: anonymous.")
    password_file: FilePath | None = Field(None, description="File whose first line is the password of bind_dn.")
    ca_certificate: FilePath | None = Field(
        None, description="Certificates that the directory's TLS certificate is verified with; absent: the system's."
    )

    @field_validator("url")
    @classmethod
    def _is_ldap(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or parts.path.strip("/"):
                raise ValueError("must be like ldaps://ca.example.com or ldap://ca.example.com:389")
        return value


class Directory:
    """One connection, made when the first entry is asked for."""

    def __init__(self, options: DirectoryOptions) -> None:
        self._options = options
        self._connection: Any = None
        self._socket: Any = None

    def entries(self, since: int | None) -> Iterator[Entry | tuple[str, str]]:
        """Yield the entries, or those that changed at ``since`` or later; raises SourceUnavailable."""
        condition = "(objectClass=certificateRecord)"
        if since is not None:
            stamp = format_utc(since).translate({ord(sign): None for sign in "-:T"})
            condition = f"(&{condition}(modifyTimestamp>={stamp}))"
        try:
            connection = self._connected()
            found = connection.extend.standard.paged_search(
                self._options.base,
                condition,
                search_scope=ldap3.LEVEL,
                attributes=ATTRIBUTES,
                paged_size=PAGE_ENTRIES,
                generator=True,
            )
            for result in found:
                if result.get("type") == "searchResEntry":
                    values = {name.lower(): values[0] for name, values in result["raw_attributes"].items() if values}
                    yield Entry(str(result["dn"])[:200], values)
            outcome = connection.result
            if outcome.get("result"):
                raise SourceUnavailable(f"{self.name}: {outcome.get('description')}: {outcome.get('message')}"[:500])
        except (LDAPException, OSError, ssl.SSLError) as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise SourceUnavailable(f"{self.name}: cannot be read: {said}") from error

    def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            opened = {connection.socket, self._socket} - {None}
            with suppress(LDAPException, OSError):
                connection.unbind()
            for one in opened:
                one.close()  # ldap3 does not where the server was quicker, or said no

    @property
    def name(self) -> str:
        """The directory, for people."""
        return f"{self._options.url}/{self._options.base}"

    def _connected(self) -> Any:
        options = self._options
        parts = urlsplit(options.url or "")
        uses_tls = parts.scheme == "ldaps"
        trust = None if options.ca_certificate is None else str(options.ca_certificate)
        server = ldap3.Server(
            parts.hostname,
            parts.port or (636 if uses_tls else 389),
            use_ssl=uses_tls,
            tls=ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=trust),
            get_info=ldap3.NONE,
            connect_timeout=CONNECT_S,
        )
        password = None
        if options.password_file is not None:
            password = (options.password_file.read_text("utf-8").splitlines() or [""])[0]
        connection = self._connection = ldap3.Connection(
            server,
            options.bind_dn,
            password,
            receive_timeout=RECEIVE_S,
            check_names=False,
            return_empty_attributes=False,
            read_only=True,
            auto_range=False,
            raise_exceptions=True,
        )
        connection.open()
        self._socket = connection.socket
        if not uses_tls and password is not None and not _is_loopback(parts.hostname or ""):
            connection.start_tls()  # no password in the clear
        connection.bind()
        return connection


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- LDIF -----------------------------------------------------------------------------------------------------------------


def read_ldif(path: Path, file: BinaryIO) -> Iterator[Entry | tuple[str, str]]:
    """Yield the certificate records of an LDIF, or where one stands that cannot be read, and why; raises SourceUnavailable."""
    found = 0
    try:
        for number, lines in _records(file):
            where = f"line {number}"
            if lines is None:
                yield where, f"an entry of more than {MAX_ENTRY_BYTES} octets"
                continue
            if not any(line.lower().replace(b" ", b"") == CLASS_LINE for line in lines):
                continue
            found += 1
            try:
                yield Entry(where, _values(lines))
            except ValueError as error:
                yield where, str(error)
    except OSError as error:
        raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise SourceUnavailable(f"{path}: holds no certificateRecord: not an LDIF of a certificate repository")


def _records(file: BinaryIO) -> Iterator[tuple[int, list[bytes] | None]]:
    """Yield entries as unfolded lines, with the number of the first; None for one that is too large."""
    lines: list[bytes] = []
    number = first = size = 0
    while raw := file.readline(MAX_ENTRY_BYTES):
        number += 1
        line = raw.rstrip(b"\r\n")
        if not line:
            if size:
                yield first, lines if size <= MAX_ENTRY_BYTES else None
            lines, size = [], 0
            continue
        if not size:
            first = number
        size += len(raw)
        if size > MAX_ENTRY_BYTES:
            lines = []
        elif line[:1] == b" " and lines:
            lines.append(line)  # joined below: folded lines are many
        elif line[:1] != b"#":
            lines.append(line)
    if size:
        yield first, lines if size <= MAX_ENTRY_BYTES else None


def _values(lines: list[bytes]) -> dict[str, bytes]:
    unfolded: list[list[bytes]] = []
    for line in lines:
        if line[:1] == b" " and unfolded:
            unfolded[-1].append(line[1:])
        else:
            unfolded.append([line])
    values: dict[str, bytes] = {}
    for parts in unfolded:
        name, colon, value = b"".join(parts).partition(b":")
        if not colon:
            raise ValueError(f"not LDIF: {name[:60]!r}")
        if value[:1] == b":":
            try:
                value = b64decode(value[1:].strip(), validate=True)
            except Base64Error as error:
                raise ValueError(f"{name[:60].decode('ascii', 'replace')}: not base64") from error
        elif value[:1] == b"<":
            continue  # a URL: never followed
        else:
            value = value.strip(b" ")
        values.setdefault(name.strip().lower().decode("ascii", "replace"), value)
    return values
