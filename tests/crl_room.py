"""A CA with certificates, and the CRLs that Revocast makes for it: what the tests of CRLs work with.

Statuses are given as the store spells them. Times are POSIX seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from fastpath.crl_entries import Terms
from responder.crl.builder import CRLHead, build_crl
from responder.crl.extensions import CRLExtensions, authority_key_identifier_of
from responder.model import Status
from responder.signing.softkey import SoftKeySigner
from tests.crl_oracles import pem_of
from tests.crl_records import chunks_of
from tests.pki import CRL_HOST, DAY_S, PKI, Leaf, make_ca, make_leaf, serial_octets, utc

URL = f"http://{CRL_HOST}/crl/corp.crl"
DELTA_URL = f"http://{CRL_HOST}/crl/corp-delta.crl"
SHARDS = 4


def shard_url(shard: int) -> str:
    """Return the URL of a shard, as certificates and CRL name it."""
    return f"http://{CRL_HOST}/crl/corp/{shard}.crl"


@dataclass(frozen=True)
class Issued:
    """One CRL, in DER and in PEM."""

    path: Path
    pem: Path

    @property
    def der(self) -> bytes:
        """The whole file."""
        return self.path.read_bytes()


@dataclass
class CRLRoom:
    """One CA."""

    ca: PKI
    directory: Path
    now: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def make(cls, directory: Path, key_type: str) -> CRLRoom:
        """Make the CA."""
        return cls(make_ca(directory, key_type, name=f"Example CRL CA {key_type}"), directory)

    def leaf(
        self, name: str, crl_url: str = URL, serial_number: int | None = None, crl_issuer: x509.Name | None = None
    ) -> Leaf:
        """Make a certificate that names its CRL, and who issues it where that is not the CA."""
        return make_leaf(
            self.ca,
            host=f"{name}.example-shop.com",
            crl_url=crl_url,
            crl_issuer=crl_issuer,
            serial_number=serial_number,
            file_name=name,
        )

    def text(self, reason: str = "", ago: int = 7200) -> str:
        """Spell a revocation as the store does."""
        return Status.from_text(
            f"revoked {_text(self.now - ago)} {reason} exp=2049-12-31T23:59:59Z".replace("  ", " ")
        ).to_text()

    def issue(
        self,
        name: str,
        number: int,
        statuses: Mapping[int, str] | list[bytes],
        *,
        base_number: int | None = None,
        url: str | None = None,
        freshest_url: str | None = None,
        scope: str = "all",
        shard: int = 0,
        shards: int = 1,
        indirect_of: PKI | None = None,
        this_update: int | None = None,
        next_update: int | None = None,
        **more: int,
    ) -> Issued:
        """Issue a CRL: a delta with ``base_number``; ``url`` puts an issuingDistributionPoint into it; ``more``: extensions.

        ``statuses``: the store's texts by serial, or chunks of records. ``indirect_of``: the CA of the certificates, where it is
        another than the CRL's issuer.
        """
        this_update = self.now - 60 if this_update is None else this_update
        extensions = CRLExtensions(
            authority_key_identifier_of(self.ca.certificate),
            number,
            base_number=base_number,
            distribution_points=() if url is None else (url,),
            only_users=scope == "users",
            only_cas=scope == "cas",
            indirect=indirect_of is not None,
            freshest=() if freshest_url is None else (freshest_url,),
            **more,
        )
        issuer = None if indirect_of is None else indirect_of.subject_der
        path = self.directory / f"{name}.crl"
        records = statuses if isinstance(statuses, list) else records_of(statuses)
        self.built = build_crl(
            path,
            CRLHead(
                self.ca.subject_der,
                this_update,
                this_update + DAY_S if next_update is None else next_update,
                extensions.to_der(),
            ),
            lambda: iter(records),
            Terms(this_update, delta=base_number is not None, shard=shard, shards=shards, certificate_issuer=issuer),
            SoftKeySigner(self.ca.key, "pss" if self.ca.key_type.endswith("pss") else None),
        )
        pem = self.directory / f"{name}.crl.pem"
        pem.write_text(pem_of(path.read_bytes()))
        return Issued(path, pem)


def records_of(statuses: Mapping[int, str]) -> list[bytes]:
    """Pack statuses by serial as a snapshot gives them."""
    return chunks_of({serial_octets(serial): text for serial, text in statuses.items()})


def _text(seconds: int) -> str:
    return utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
