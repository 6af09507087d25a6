"""A CRL written element by element, as plain as can be, so that each of its parts can be wrong on purpose.

The signature is none: nobody here looks at it. Times are texts such as ``261120100000Z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.reference.der import encode_integer, oid, tlv

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ISSUER = tlv(0x30, tlv(0x31, tlv(0x30, tlv(0x06, oid("2.5.4.3")), tlv(0x0C, b"Example CRL CA"))))
KEY_ID = bytes(range(20))


def time(text: str) -> bytes:
    """Encode a Time: 13 characters are a UTCTime, 15 a GeneralizedTime."""
    return tlv(0x17 if len(text) == 13 else 0x18, text.encode())


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """Encode an Extension."""
    return tlv(0x30, tlv(0x06, oid(dotted)), tlv(0x01, b"\xff") if critical else b"", tlv(0x04, value))


def integer(value: int) -> bytes:
    """Encode an INTEGER."""
    return tlv(0x02, encode_integer(value))


def key_identifier(key_id: bytes = KEY_ID) -> bytes:
    """Encode an AuthorityKeyIdentifier with keyIdentifier alone."""
    return tlv(0x30, tlv(0x80, key_id))


def reason(number: int, *, critical: bool = False) -> bytes:
    """Encode a reasonCode extension."""
    return extension("2.5.29.21", tlv(0x0A, bytes([number])), critical=critical)


def full_name(url: str) -> bytes:
    """Encode a DistributionPointName with one URL."""
    return tlv(0xA0, tlv(0x86, url.encode()))


def distribution_point(url: str = "", *, flags: Sequence[int] = (), more: bytes = b"") -> bytes:
    """Encode an IssuingDistributionPoint; ``flags``: context tags of the BOOLEANs that are TRUE."""
    name = tlv(0xA0, full_name(url)) if url else b""
    return tlv(0x30, name, *(tlv(0x80 + tag, b"\xff") for tag in flags), more)


def entry(serial_number: int, date: str = "261120100000Z", *extensions: bytes) -> bytes:
    """Encode an element of revokedCertificates."""
    return tlv(0x30, integer(serial_number), time(date), tlv(0x30, *extensions) if extensions else b"")


AKI = extension("2.5.29.35", key_identifier())
NUMBER = extension("2.5.29.20", integer(7))


@dataclass(frozen=True)
class RawCRL:
    """What a CRL is put together from; everything is as it should be, unless it is replaced."""

    version: bytes = integer(1)
    signature: bytes = ECDSA_SHA256
    signature_algorithm: bytes = ECDSA_SHA256
    issuer: bytes = ISSUER
    this_update: str = "261126100000Z"
    next_update: str = "261203100000Z"
    entries: Sequence[bytes] = ()
    empty_sequence: bool = False  # revokedCertificates is there without any
    extensions: Sequence[bytes] = field(default=(AKI, NUMBER))
    behind: bytes = b""  # the CertificateList

    def but(self, **changes: object) -> RawCRL:
        """Return it with something else."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def and_extension(self, *extensions: bytes) -> RawCRL:
        """Return it with more extensions."""
        return self.but(extensions=(*self.extensions, *extensions))

    @property
    def der(self) -> bytes:
        """The whole file."""
        tbs = tlv(
            0x30,
            self.version,
            self.signature,
            self.issuer,
            time(self.this_update),
            time(self.next_update) if self.next_update else b"",
            tlv(0x30, *self.entries) if self.entries or self.empty_sequence else b"",
            tlv(0xA0, tlv(0x30, *self.extensions)) if self.extensions else b"",
        )
        return tlv(0x30, tbs, self.signature_algorithm, tlv(0x03, b"\0" + bytes(70))) + self.behind
