"""A CA whose CRLs are its source, a configuration and a private Redis: what tests of the CRL loader stand in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.crl_made import NOW, Revoked, make_crl
from tests.loader_room import LoaderRoom
from tests.redis_fixture import RedisServer

AT = NOW - 1_000_000
AT_TEXT = "2026-11-06T21:20:00Z"


class CRLSourceRoom(LoaderRoom):
    """Its CA's source is ``corp.crl``, or what ``source`` says."""

    def __init__(self, directory: Path, server: RedisServer, source: str = 'path = "corp.crl"', **more: str) -> None:
        self.source, self.ocsp = source, more.get("ocsp", "")
        self.profile = more.get("profile", "private")
        super().__init__(directory, server)

    def configure(self, source: str = "", ca: str = "", more: str = "") -> None:
        self.config_file.write_text(
            f'data_dir = "state"\n{self.server.config_section()}\n[log]\nlevel = "info"\n'
            f'[[ca]]\nname = "corp"\ncertificate = "ca.pem"\nprofile = "{self.profile}"\n{ca}\n'
            f'source = {{ type = "crl", {source or self.source} }}\nocsp = {{ key = "ca.key"{self.ocsp} }}\n{more}'
        )

    def publish(self, entries: Iterable[Revoked] = (), name: str = "corp.crl", **terms: Any) -> bytes:
        """Put a CRL of the CA into the folder; ``terms`` as of ``make_crl``."""
        crl = make_crl(self.ca, entries, **terms)
        self.put(name, crl)
        return crl

    def put(self, name: str, octets: bytes) -> Path:
        """Replace a file; its mtime is long ago."""
        fresh = self.directory / (name + ".new")
        fresh.write_bytes(octets)
        os.utime(fresh, (NOW - 1000, NOW - 1000))
        return fresh.rename(self.directory / name)


def issuer_of(name: x509.Name) -> x509.CertificateIssuer:
    """Make the entry extension that names another issuer."""
    return x509.CertificateIssuer([x509.DirectoryName(name)])
