"""The request parser once more, slow and obvious: what ``fastpath.ocsp_request`` is compared with.

Written from RFC 6960 §4.1.1 and X.690, not from the fast one: where that looks at octets, this decodes a value, encodes
it again in the one DER way and compares. The order of checks is the order of reading, so that the first defect found is
the same. ``features`` tells what a request holds that other parsers are known to see differently.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.reference.der import encode_integer, encode_length, encode_oid, oid

HASH_NAMES = {
    oid("1.3.14.3.2.26"): "sha1",
    oid("2.16.840.1.101.3.4.2.1"): "sha256",
    oid("2.16.840.1.101.3.4.2.2"): "sha384",
    oid("2.16.840.1.101.3.4.2.3"): "sha512",
}
ID_PKIX_OCSP_BASIC = oid("1.3.6.1.5.5.7.48.1.1")
NONCE = oid("1.3.6.1.5.5.7.48.1.2")
ACCEPTABLE_RESPONSES = oid("1.3.6.1.5.5.7.48.1.4")
SERVICE_LOCATOR = oid("1.3.6.1.5.5.7.48.1.7")
PREFERRED_SIGNATURE_ALGORITHMS = oid("1.3.6.1.5.5.7.48.1.8")
KNOWN_EXTENSIONS = {NONCE, ACCEPTABLE_RESPONSES, SERVICE_LOCATOR, PREFERRED_SIGNATURE_ALGORITHMS}

GENERAL_NAME_TAGS = {0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88}

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OBJECT_IDENTIFIER, SEQUENCE = 1, 2, 3, 4, 5, 6, 0x30
CONTEXT_0, CONTEXT_1, CONTEXT_2 = 0xA0, 0xA1, 0xA2


class RefusedError(Exception):
    """``kind`` is the name of the fast parser's exception."""

    def __init__(self, kind: str, code: str, offset: int) -> None:
        super().__init__(kind, code, offset)
        self.kind, self.code, self.offset = kind, code, offset
        self.is_within_signature = False


def malformed(code: str, offset: int) -> RefusedError:
    return RefusedError("MalformedRequest", code, offset)


@dataclass(frozen=True)
class CertID:
    hash_name: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_octets: bytes
    der: bytes


@dataclass
class OCSPRequest:
    cert_ids: list[CertID] = field(default_factory=list)
    nonce_octets: bytes | None = None
    has_requestor_name: bool = False
    has_signature: bool = False
    accepts_basic: bool = True
    preferred_signature_algorithms_der: bytes | None = None
    unsupported_offset: int | None = None
    features: set[str] = field(default_factory=set)


class Element:
    """One TLV, and the elements within it, taken one after the other."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        """View data[start:end] as contents; ``take`` makes the inner ones."""
        self.data, self.start, self.at, self.end = data, start, start, end

    @property
    def contents(self) -> bytes:
        return self.data[self.start : self.end]

    @property
    def next_tag(self) -> int | None:
        return self.data[self.at] if self.at < self.end else None

    def take(self, tag: int | None = None) -> Element:
        """Take the next element, which must have ``tag`` unless that is None."""
        rest = self.data[self.at : self.end]
        if not rest:
            raise malformed("truncated", self.at)
        if rest[0] % 32 == 31:
            raise malformed("high-tag-number", self.at)
        if tag is not None and rest[0] != tag:
            raise malformed("unexpected-tag", self.at)
        if len(rest) == 1:
            raise malformed("truncated", self.at)
        if rest[1] == 0x80:
            raise malformed("indefinite-length", self.at)
        if rest[1] > 0x84:
            raise malformed("length-too-large", self.at)
        size_of_length = 1 if rest[1] < 0x80 else 1 + rest[1] - 0x80
        length_octets = rest[1 : 1 + size_of_length]
        if len(length_octets) < size_of_length:
            raise malformed("truncated", self.at)
        length = length_octets[0] if size_of_length == 1 else int.from_bytes(length_octets[1:], "big")
        if encode_length(length) != length_octets:
            raise malformed("length-not-minimal", self.at)
        start = self.at + 1 + size_of_length
        if start + length > self.end:
            raise malformed("truncated", self.at)
        self.at = start + length
        return Element(self.data, start, start + length)

    def finish(self) -> None:
        if self.at != self.end:
            raise malformed("trailing-data", self.at)

    def take_oid(self) -> bytes:
        element = self.take(OBJECT_IDENTIFIER)
        if len(element.contents) > 63:
            raise malformed("object-identifier-invalid", element.start)
        arcs, arc, is_complete = [], 0, False
        for octet in element.contents:
            arc = arc * 128 + octet % 128
            is_complete = octet < 128
            if is_complete:
                arcs.append(arc)
                arc = 0
        if not is_complete or encode_oid(arcs) != element.contents:
            raise malformed("object-identifier-invalid", element.start)
        return element.contents

    def take_integer(self) -> tuple[Element, int]:
        element = self.take(INTEGER)
        value = int.from_bytes(element.contents, "big", signed=True)
        if encode_integer(value) != element.contents:
            raise malformed("integer-invalid", element.start)
        return element, value


def parse(data: bytes, max_cert_ids: int = 16) -> OCSPRequest:
    """Parse an OCSPRequest, or raise RefusedError."""
    result = OCSPRequest()
    if len(data) > 1_000_000:
        raise malformed("request-too-large", 0)
    whole = Element(data, 0, len(data))
    request = whole.take(SEQUENCE)
    whole.finish()
    parse_tbs_request(request.take(SEQUENCE), result, max_cert_ids)
    if request.next_tag == CONTEXT_0:
        try:
            parse_signature(request.take(CONTEXT_0), result)
        except RefusedError as error:
            error.is_within_signature = True
            raise
        result.has_signature = True
    request.finish()
    if result.unsupported_offset is not None:
        raise RefusedError("Unsupported", "critical-extension", result.unsupported_offset)
    return result


def parse_tbs_request(tbs_request: Element, result: OCSPRequest, max_cert_ids: int) -> None:
    if tbs_request.next_tag == CONTEXT_0:
        explicit = tbs_request.take(CONTEXT_0)
        version, value = explicit.take_integer()
        explicit.finish()
        if value != 0:
            raise malformed("version-not-v1", version.start)
        result.features.add("version-explicit")
    if tbs_request.next_tag == CONTEXT_1:
        explicit = tbs_request.take(CONTEXT_1)
        tag = explicit.next_tag
        explicit.take()
        if tag not in GENERAL_NAME_TAGS:
            raise malformed("requestor-name-not-general-name", explicit.start)
        explicit.finish()
        result.has_requestor_name = True
        result.features.add("requestor-name")
    request_list = tbs_request.take(SEQUENCE)
    if request_list.next_tag is None:
        raise malformed("request-list-empty", request_list.at)
    while request_list.next_tag is not None:
        if len(result.cert_ids) == max_cert_ids:
            raise malformed("too-many-cert-ids", request_list.at)
        request = request_list.take(SEQUENCE)
        result.cert_ids.append(parse_cert_id(request, result))
        if request.next_tag == CONTEXT_0:
            parse_extensions(request.take(CONTEXT_0), result, is_single=True)
            result.features.add("single-request-extensions")
        request.finish()
    if len(result.cert_ids) > 1:
        result.features.add("several-cert-ids")
    if tbs_request.next_tag == CONTEXT_2:
        parse_extensions(tbs_request.take(CONTEXT_2), result, is_single=False)
        result.features.add("request-extensions")
    tbs_request.finish()


def parse_cert_id(request: Element, result: OCSPRequest) -> CertID:
    start = request.at
    cert_id = request.take(SEQUENCE)
    algorithm_identifier = cert_id.take(SEQUENCE)
    algorithm = algorithm_identifier.take_oid()
    if algorithm_identifier.next_tag is not None:
        if algorithm_identifier.next_tag != NULL:
            raise malformed("algorithm-parameters", algorithm_identifier.at)
        parameters = algorithm_identifier.take(NULL)
        if parameters.contents:
            raise malformed("algorithm-parameters", parameters.start)
        algorithm_identifier.finish()
    hashes = []
    for _ in ("issuerNameHash", "issuerKeyHash"):
        element = cert_id.take(OCTET_STRING)
        if len(element.contents) > 64:
            raise malformed("hash-too-long", element.start)
        hashes.append(element.contents)
    serial, value = cert_id.take_integer()
    if len(serial.contents) > 21:
        raise malformed("serial-too-long", serial.start)
    cert_id.finish()
    if algorithm not in HASH_NAMES:
        result.features.add("hash-algorithm-other")
    if value < 0:
        result.features.add("serial-negative")
    return CertID(HASH_NAMES.get(algorithm), hashes[0], hashes[1], serial.contents, cert_id.data[start : cert_id.end])


def parse_extensions(explicit: Element, result: OCSPRequest, *, is_single: bool) -> None:
    extensions = explicit.take(SEQUENCE)
    explicit.finish()
    if extensions.next_tag is None:
        raise malformed("extensions-empty", extensions.at)
    seen: list[bytes] = []
    while extensions.next_tag is not None:
        start = extensions.at
        if len(seen) == 16:
            raise malformed("too-many-extensions", start)
        extension = extensions.take(SEQUENCE)
        extension_id = extension.take_oid()
        critical = False
        if extension.next_tag == BOOLEAN:
            boolean = extension.take(BOOLEAN)
            if boolean.contents not in (b"\x00", b"\xff"):
                raise malformed("boolean-invalid", boolean.start)
            critical = boolean.contents == b"\xff"
            if not critical:
                result.features.add("critical-explicit-false")
        value = extension.take(OCTET_STRING)
        extension.finish()
        if extension_id in seen:
            raise malformed("duplicate-extension", start)
        seen.append(extension_id)
        if extension_id not in KNOWN_EXTENSIONS:
            if critical and result.unsupported_offset is None:
                result.unsupported_offset = start
        elif not is_single:
            parse_request_extension(extension_id, value, result)


def parse_request_extension(extension_id: bytes, value: Element, result: OCSPRequest) -> None:
    if extension_id == NONCE:
        inner = Element(value.data, value.start, value.end)
        try:
            nonce = inner.take(OCTET_STRING).contents
            inner.finish()
        except RefusedError:
            nonce = None
        if not 1 <= len(value.contents if nonce is None else nonce) <= 128:
            raise malformed("nonce-length", value.start)
        if nonce is None:
            result.features.add("nonce-raw")
        else:
            result.nonce_octets = value.contents
    elif extension_id == ACCEPTABLE_RESPONSES:
        types = value.take(SEQUENCE)
        value.finish()
        accepted = []
        while types.next_tag is not None:
            accepted.append(types.take_oid())
        result.accepts_basic = ID_PKIX_OCSP_BASIC in accepted
    elif extension_id == PREFERRED_SIGNATURE_ALGORITHMS:
        result.preferred_signature_algorithms_der = value.contents


def parse_signature(explicit: Element, result: OCSPRequest) -> None:
    signature = explicit.take(SEQUENCE)
    explicit.finish()
    algorithm_identifier = signature.take(SEQUENCE)
    algorithm_identifier.take_oid()
    if algorithm_identifier.next_tag is not None:
        algorithm_identifier.take()
        algorithm_identifier.finish()
    bits = signature.take(BIT_STRING)
    unused = bits.contents[0] if bits.contents else 8
    value = int.from_bytes(bits.contents[1:], "big")
    if unused > 7 or (len(bits.contents) == 1 and unused != 0) or value % 2**unused != 0:
        raise malformed("bit-string-invalid", bits.start)
    if signature.next_tag == CONTEXT_0:
        certs = signature.take(CONTEXT_0)
        certificates = certs.take(SEQUENCE)
        certs.finish()
        count = 0
        while certificates.next_tag is not None:
            if count == 16:
                raise malformed("too-many-certificates", certificates.at)
            certificates.take(SEQUENCE)
            count += 1
    signature.finish()
    result.features.add("signature")
