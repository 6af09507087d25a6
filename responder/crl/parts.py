"""Cuts a CRL into its parts without judging them: for describing CRLs of anybody, also wrong ones.

RFC 5280 §5.1. reader.py refuses what is wrong; lint.py says what it is, and needs the octets for that. The file is mapped, and its
revokedCertificates are passed over by their length, so that a CRL's size costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from asn1crypto import core, x509

SEQUENCE, INTEGER, BIT_STRING = 0x30, 0x02, 0x03
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
EXTENSIONS = 0xA0  # crlExtensions [0]
MAX_PART_BYTES = 1 << 20  # of a name, of all extensions, of a signature; a CRL of any size has less
_MAX_LENGTH_OCTETS = 8


class NoCRL(ValueError):
    """Octets that cannot be cut into the parts of a CertificateList; one line with the offset."""


@dataclass(frozen=True, slots=True)
class Element:
    """A TLV of the file: where it and its contents begin, where it ends."""

    tag: int
    start: int
    contents: int
    end: int


@dataclass(frozen=True, slots=True)
class Extension:
    """One of crlExtensions; ``value``: the contents of extnValue, DER of the extension itself."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class CRLParts:
    """Parts of a CertificateList, as DER where nothing else is said. ``version`` None: absent, so version 1."""

    version: int | None
    signature_der: bytes  # tbsCertList.signature
    signature_algorithm_der: bytes
    issuer_der: bytes
    this_update_der: bytes
    next_update_der: bytes | None
    revoked: Element | None  # revokedCertificates
    extensions: tuple[Extension, ...]
    tbs: Element  # tbsCertList
    signature_octets: bytes  # of the BIT STRING
    trailing: int  # octets behind the CertificateList

    def values(self, oid: str) -> list[Extension]:
        """Return the extensions of an identifier: one, unless the CRL is wrong."""
        return [extension for extension in self.extensions if extension.oid == oid]


def cut(data: mmap | bytes) -> CRLParts:
    """Cut a CRL in DER into its parts; raises NoCRL."""
    whole = _element(data, 0, len(data), SEQUENCE)
    tbs = _element(data, whole.contents, whole.end, SEQUENCE)
    inner = list(_elements(data, tbs))
    version = None
    if inner and inner[0].tag == INTEGER:
        version = int.from_bytes(_contents(data, inner.pop(0)), "big", signed=True)
    extensions: tuple[Extension, ...] = ()
    if inner and inner[-1].tag == EXTENSIONS:
        extensions = _extensions(_contents(data, inner.pop()))
    tags = [element.tag for element in inner]
    times = (UTC_TIME, GENERALIZED_TIME)
    if len(tags) < 3 or tags[:2] != [SEQUENCE, SEQUENCE] or tags[2] not in times:
        raise NoCRL("is no CRL: signature, issuer and thisUpdate do not come first in tbsCertList")
    signature, issuer, this_update, *rest = inner
    next_update = rest.pop(0) if rest and rest[0].tag in times else None
    revoked = rest.pop(0) if rest and rest[0].tag == SEQUENCE else None
    if rest:
        raise NoCRL(f"is no CRL: an element with tag {rest[0].tag:#04x} at offset {rest[0].start} of tbsCertList")
    algorithm = _element(data, tbs.end, whole.end, SEQUENCE)
    signature_value = _element(data, algorithm.end, whole.end, BIT_STRING)
    return CRLParts(
        version=version,
        signature_der=_whole(data, signature),
        signature_algorithm_der=_whole(data, algorithm),
        issuer_der=_whole(data, issuer),
        this_update_der=_whole(data, this_update),
        next_update_der=None if next_update is None else _whole(data, next_update),
        revoked=revoked,
        extensions=extensions,
        tbs=tbs,
        signature_octets=_contents(data, signature_value)[1:],
        trailing=len(data) - whole.end,
    )


def _element(data: mmap | bytes, start: int, limit: int, tag: int | None = None) -> Element:
    """Read the tag and the length at an offset."""
    if limit - start < 2:
        raise NoCRL(f"is no CRL: it ends at offset {limit}, within an element")
    length = data[start + 1]
    contents = start + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 0 < count <= _MAX_LENGTH_OCTETS or limit - contents < count:
            raise NoCRL(f"is no CRL in DER: the length at offset {start + 1} is indefinite, or too large (X.690 §10.1)")
        length = int.from_bytes(data[contents : contents + count], "big")
        contents += count
    if length > limit - contents:
        raise NoCRL(f"is cut off: the element at offset {start} has {length} octets, and {limit - contents} are there")
    if tag is not None and data[start] != tag:
        raise NoCRL(f"is no CRL: tag {data[start]:#04x} at offset {start}, where {tag:#04x} must be (RFC 5280 §5.1)")
    return Element(data[start], start, contents, contents + length)


def _elements(data: mmap | bytes, parent: Element) -> Iterator[Element]:
    at = parent.contents
    while at < parent.end:
        element = _element(data, at, parent.end)
        yield element
        at = element.end


def _whole(data: mmap | bytes, element: Element) -> bytes:
    if element.end - element.start > MAX_PART_BYTES:
        raise NoCRL(
            f"has an element of {element.end - element.start} octets at offset {element.start}; no CRL needs that"
        )
    return bytes(data[element.start : element.end])


def _contents(data: mmap | bytes, element: Element) -> bytes:
    return _whole(data, element)[element.contents - element.start :]


class _Extension(core.Sequence):  # type: ignore[misc]
    """RFC 5280 §4.1; asn1crypto's own class reads the values too, and refuses all for one of them."""

    _fields = [  # noqa: RUF012 - asn1crypto's way
        ("extn_id", core.ObjectIdentifier),
        ("critical", core.Boolean, {"default": False}),
        ("extn_value", core.OctetString),
    ]


class _Extensions(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _Extension


def _extensions(der: bytes) -> tuple[Extension, ...]:
    try:
        return tuple(
            Extension(one["extn_id"].dotted, bool(one["critical"].native), bytes(one["extn_value"].contents))
            for one in _Extensions.load(der, strict=True)
        )
    except (ValueError, TypeError) as error:
        raise NoCRL(f"has crlExtensions that cannot be read: {str(error).splitlines()[0]}") from error


# --- values -----------------------------------------------------------------------------------------------------------


def parse_integer(der: bytes) -> int:
    """Read an INTEGER; raises ValueError."""
    return int(core.Integer.load(der, strict=True).native)


def parse_time(der: bytes) -> int:
    """Read a Time as POSIX seconds; raises ValueError."""
    return int(x509.Time.load(der, strict=True).native.timestamp())
