"""Writes the OCSPRequest vectors of this folder and their catalog.toml.

    python -m tests.vectors.requests.make_vectors [--force]

Nothing in them depends on the time or on chance, so a run changes nothing; without ``--force`` a file whose octets would
change stops it. A new defect gets a vector here, named after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.reference.der import tlv
from tests.reference.request_builder import (
    BASIC,
    CRITICAL,
    HASH_OIDS,
    NULL,
    OCSP,
    PRIVATE,
    VERSION_V1,
    acceptable_responses,
    algorithm,
    cert_id,
    directory_name,
    extension,
    nonce,
    preferred_signature_algorithms,
    request,
    service_locator,
    signature,
    single,
)

HERE = Path(__file__).parent
RFC6960 = "RFC 6960 §4.1.1"
MALFORMED = "MalformedRequest "
CERTIFICATE = tlv(0x30, tlv(0x30, tlv(2, b"\1")), b"\xff\xff not even DER")
HIGH_ARC_OID = b"\x2b" + b"\xff" * 61 + b"\x7f"

Row = tuple[str, str, str, str, bytes]  # name, clause, expect, note, octets


def good_shapes() -> Iterator[Row]:
    """REQ-01: each optional part of OCSPRequest there or not, and the same within Request."""
    for number in range(16):
        has_version, has_name, has_extensions, has_signature = (bool(number & bit) for bit in (8, 4, 2, 1))
        for has_single in (False, True):
            parts = [
                name
                for name, is_there in (
                    ("version", has_version),
                    ("name", has_name),
                    ("extensions", has_extensions),
                    ("signature", has_signature),
                    ("single", has_single),
                )
                if is_there
            ]
            octets = request(
                [single(cert_id(), [service_locator()] if has_single else [])],
                version=VERSION_V1 if has_version else b"",
                requestor_name=directory_name() if has_name else b"",
                extensions=[nonce(bytes(range(32)))] if has_extensions else [],
                optional_signature=signature() if has_signature else b"",
            )
            yield "shape-" + ("-".join(parts) or "plain"), RFC6960, "good", "One of the shapes that conform.", octets


def good_values() -> Iterator[Row]:
    for hash_name in HASH_OIDS:
        for parameters, spelled in ((NULL, "null"), (b"", "absent")):
            yield (
                f"hash-{hash_name}-parameters-{spelled}",
                "RFC 5754 §2",
                "good",
                "Parameters absent or NULL mean the same.",
                request([single(cert_id(4711, hash_name, parameters))]),
            )
    other = algorithm("2.16.840.1.101.3.4.2.8")
    yield (
        "hash-other",
        RFC6960,
        "good",
        "SHA3-256: no issuer of ours, but well-formed.",
        request([single(cert_id(hash_algorithm=other))]),
    )
    for name, serial, note in (
        ("one-octet", b"\x01", "The shortest."),
        ("twenty-octets-high-bit", b"\0" + b"\xff" * 20, "20 octets with the high bit set need a leading 00."),
        ("twenty-one-octets", b"\x01" + b"\xff" * 20, "As long as we take; no conforming CA issues it."),
        ("zero", b"\0", "Not conforming, but issued."),
        ("negative", b"\x80", "Minus 128."),
    ):
        yield f"serial-{name}", "RFC 5280 §4.1.2.2", "good", note, request([single(cert_id(serial))])
    for length in (1, 15, 16, 32, 33, 64, 128):
        yield (
            f"nonce-{length}",
            "RFC 9654 §2.1",
            "good",
            "A nonce that may be echoed.",
            request(extensions=[nonce(bytes(length))]),
        )
    yield (
        "nonce-raw",
        "RFC 9654 §2.1",
        "good",
        "RFC 2560 era: not an OCTET STRING, so no nonce to honour.",
        request(extensions=[extension(OCSP + ".2", b"\x55" * 16)]),
    )
    yield (
        "nonce-in-single-extensions",
        "RFC 9654 §2.1",
        "good",
        "Ignored there, whatever its length.",
        request([single(cert_id(), [nonce(b"")])]),
    )
    yield (
        "several-cert-ids",
        "RFC 6960 §4.2.2.3",
        "good",
        "Two certificates, one of them twice.",
        request([single(cert_id(1)), single(cert_id(2)), single(cert_id(1))]),
    )
    yield (
        "extension-private",
        "RFC 6960 §4.1.2",
        "good",
        "An unknown extension that is not critical is ignored.",
        request([single(cert_id(), [extension(PRIVATE, b"\xff")])], extensions=[extension(PRIVATE, b"")]),
    )
    yield (
        "extension-critical-false",
        "X.690 §11.5",
        "good",
        "A DEFAULT written out, tolerated like version v1.",
        request(extensions=[extension(PRIVATE, b"", tlv(1, b"\0"))]),
    )
    yield (
        "extensions-known-critical",
        "RFC 6960 §4.1.2",
        "good",
        "What we recognise may be critical.",
        request(
            [single(cert_id(), [service_locator(CRITICAL)])],
            extensions=[
                nonce(bytes(16), CRITICAL),
                acceptable_responses(BASIC, critical=CRITICAL),
                preferred_signature_algorithms(CRITICAL),
            ],
        ),
    )
    yield (
        "acceptable-responses-without-basic",
        "RFC 6960 §4.4.3",
        "good",
        "Well-formed; what it asks cannot be given.",
        request(extensions=[acceptable_responses(BASIC[:-1] + b"\x63")]),
    )
    yield (
        "extension-oid-huge-arc",
        "X.690 §8.19",
        "good",
        "An arc of 434 bits, which is never computed.",
        request(extensions=[tlv(0x30, tlv(6, HIGH_ARC_OID), tlv(4))]),
    )
    for number, tag in enumerate((0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)):
        yield (
            f"requestor-name-choice-{number}",
            "RFC 9919 §3.1.2",
            "good",
            "Each choice of GeneralName; contents are not looked at.",
            request(requestor_name=tlv(tag, b"\x05\x00")),
        )
    yield (
        "signature-certificates",
        RFC6960,
        "good",
        "Certificates are stepped over, not parsed.",
        request(optional_signature=signature([CERTIFICATE] * 3)),
    )
    yield (
        "cert-ids-sixteen",
        RFC6960,
        "good",
        "As many as the default allows.",
        request([single(cert_id(n)) for n in range(16)]),
    )


def replaced(old: bytes, new: bytes) -> bytes:
    """Return the plain request with some octets replaced and no length put right."""
    octets = request()
    assert octets.count(old) == 1
    return octets.replace(old, new)


def malformed() -> Iterator[tuple[str, str, str, str, bytes]]:
    plain = request()
    x690_lengths = "X.690 §10.1"
    explicit_version = b"\xa0\x03\x02\x01"
    yield "empty", RFC6960, "truncated", "No octet at all.", b""
    yield "one-octet", RFC6960, "truncated", "A tag without a length.", b"\x30"
    yield "cut", RFC6960, "truncated", "The last octet is missing.", plain[:-1]
    yield "trailing-octet", RFC6960, "trailing-data", "One octet after the request.", plain + b"\0"
    yield "length-indefinite", x690_lengths, "indefinite-length", "BER, not DER.", b"\x30\x80" + plain[2:] + b"\0\0"
    yield (
        "length-not-minimal",
        x690_lengths,
        "length-not-minimal",
        "81 before a length below 128.",
        b"\x30\x81" + plain[1:],
    )
    yield (
        "length-leading-zero",
        x690_lengths,
        "length-not-minimal",
        "82 00 before a length of one octet.",
        b"\x30\x82\0" + plain[1:],
    )
    yield (
        "length-near-2-64",
        x690_lengths,
        "length-too-large",
        "A length that would wrap a pointer.",
        b"\x30\x88" + b"\xff" * 8,
    )
    yield "length-4-gib", x690_lengths, "truncated", "A length that fits 32 bits.", b"\x30\x84\xff\xff\xff\xff"
    yield "length-127-octets", x690_lengths, "length-too-large", "FF is reserved.", b"\x30\xff" + b"\x01" * 127
    long = request(extensions=[extension(PRIVATE, bytes(300))])
    assert long[1] == 0x82
    yield (
        "length-leading-zero-long",
        x690_lengths,
        "length-not-minimal",
        "83 00 before a length of two octets.",
        b"\x30\x83\0" + long[2:],
    )
    for name, octets in (
        ("tbs-request", tlv(0x30, tlv(0x30, tlv(0x30, single(cert_id())), tlv(0xA3, NULL)))),
        ("request", request([tlv(0x30, cert_id(), NULL)])),
        ("cert-id", request([single(tlv(0x30, cert_id()[2:], NULL))])),
        ("extension", request(extensions=[tlv(0x30, tlv(6, BASIC), tlv(4), NULL)])),
        ("signature", request(optional_signature=tlv(0xA0, tlv(0x30, algorithm("1.2.3"), tlv(3, b"\0"), NULL)))),
    ):
        yield f"trailing-in-{name}", RFC6960, "trailing-data", "One element more than the type has.", octets
    yield "tag-set", RFC6960, "unexpected-tag", "A SET in place of the SEQUENCE.", b"\x31" + plain[1:]
    yield "tag-high", RFC6960, "high-tag-number", "A tag number above 30.", b"\x3f" + plain[1:]
    yield "tag-primitive-sequence", RFC6960, "unexpected-tag", "A primitive SEQUENCE.", b"\x10" + plain[1:]
    yield "empty-sequence", RFC6960, "truncated", "No tbsRequest.", tlv(0x30)
    yield "request-list-absent", RFC6960, "truncated", "No requestList.", tlv(0x30, tlv(0x30))
    yield "request-list-empty", RFC6960, "request-list-empty", "It asks nothing.", request([])
    yield "request-empty", RFC6960, "truncated", "A Request without CertID.", request([tlv(0x30)])
    for name, version, code in (
        ("one", b"\x01", "version-not-v1"),
        ("minus-one", b"\xff", "version-not-v1"),
        ("two-octets", b"\x01\x00", "version-not-v1"),
        ("not-minimal", b"\x00\x00", "integer-invalid"),
        ("empty", b"", "integer-invalid"),
    ):
        yield f"version-{name}", RFC6960, code, "There is v1(0) only.", request(version=tlv(0xA0, tlv(2, version)))
    yield (
        "version-implicit",
        RFC6960,
        "unexpected-tag",
        "[0] is EXPLICIT; the primitive one is no version.",
        request(version=b"\x80\x01\0"),
    )
    yield (
        "version-twice",
        RFC6960,
        "trailing-data",
        "Two versions in one [0].",
        request(version=tlv(0xA0, tlv(2, b"\0"), tlv(2, b"\0"))),
    )
    yield (
        "version-after-name",
        RFC6960,
        "unexpected-tag",
        "Fields out of order.",
        request(requestor_name=b"", version=tlv(0xA1, directory_name()) + explicit_version + b"\0"),
    )
    yield (
        "requestor-name-choice-9",
        "RFC 5280 §4.2.1.6",
        "requestor-name-not-general-name",
        "GeneralName ends at [8].",
        request(requestor_name=tlv(0x89, b"x")),
    )
    yield (
        "requestor-name-universal",
        "RFC 5280 §4.2.1.6",
        "requestor-name-not-general-name",
        "A Name without its [4].",
        request(requestor_name=tlv(0x30)),
    )
    yield (
        "requestor-name-two",
        RFC6960,
        "trailing-data",
        "Two names in one [1].",
        request(requestor_name=directory_name() + directory_name()),
    )
    yield (
        "hash-parameters-other",
        "RFC 5754 §2",
        "algorithm-parameters",
        "Neither absent nor NULL.",
        request([single(cert_id(parameters=tlv(2, b"\1")))]),
    )
    yield (
        "hash-parameters-null-not-empty",
        "X.690 §8.8",
        "algorithm-parameters",
        "NULL has no contents.",
        request([single(cert_id(parameters=tlv(5, b"\0")))]),
    )
    yield (
        "hash-parameters-twice",
        "RFC 5754 §2",
        "trailing-data",
        "Two NULLs.",
        request([single(cert_id(parameters=NULL + NULL))]),
    )
    for name, contents in (
        ("empty", b""),
        ("unfinished", b"\x2b\x8e"),
        ("padded", b"\x2b\x80\x01"),
        ("long", b"\x2b" * 64),
    ):
        yield (
            f"hash-oid-{name}",
            "X.690 §8.19",
            "object-identifier-invalid",
            "Not an OBJECT IDENTIFIER, or longer than any.",
            request([single(cert_id(hash_algorithm=tlv(0x30, tlv(6, contents))))]),
        )
    yield (
        "hash-65-octets",
        RFC6960,
        "hash-too-long",
        "Longer than SHA-512.",
        request([single(cert_id(name_hash=bytes(65)))]),
    )
    yield (
        "hash-bit-string",
        RFC6960,
        "unexpected-tag",
        "issuerNameHash is an OCTET STRING.",
        replaced(b"\x04\x14" + cert_id()[15:17], b"\x03\x14" + cert_id()[15:17]),
    )
    for name, serial, code in (
        ("empty", b"", "integer-invalid"),
        ("not-minimal", b"\x00\x01", "integer-invalid"),
        ("not-minimal-negative", b"\xff\x80", "integer-invalid"),
        ("twenty-two-octets", b"\x01" + bytes(21), "serial-too-long"),
        ("64-kib", b"\x01" * 65_536, "serial-too-long"),
    ):
        yield (
            f"serial-{name}",
            "RFC 5280 §4.1.2.2",
            code,
            "Not minimal, or above 21 octets.",
            request([single(cert_id(serial))]),
        )
    yield (
        "cert-ids-seventeen",
        "RFC 6960 §4.2.2.3",
        "too-many-cert-ids",
        "Above the default limit.",
        request([single(cert_id(n)) for n in range(17)]),
    )
    yield (
        "extensions-empty",
        "RFC 5280 §4.1",
        "extensions-empty",
        "Extensions is SIZE (1..MAX).",
        tlv(0x30, tlv(0x30, tlv(0x30, single(cert_id())), tlv(0xA2, tlv(0x30)))),
    )
    yield (
        "extensions-seventeen",
        "RFC 6960 §4.4",
        "too-many-extensions",
        "Above our limit.",
        request(extensions=[extension(f"{PRIVATE}.{n}", b"") for n in range(17)]),
    )
    yield (
        "extension-twice",
        "RFC 5280 §4.2",
        "duplicate-extension",
        "Two nonces.",
        request(extensions=[nonce(bytes(16)), nonce(bytes(range(16)))]),
    )
    yield (
        "extension-twice-single",
        "RFC 5280 §4.2",
        "duplicate-extension",
        "The same unknown one twice within a Request.",
        request([single(cert_id(), [extension(PRIVATE, b"")] * 2)]),
    )
    yield (
        "extension-critical-one",
        "X.690 §11.1",
        "boolean-invalid",
        "TRUE is FF.",
        request(extensions=[nonce(bytes(16), tlv(1, b"\x01"))]),
    )
    yield (
        "extension-value-absent",
        "RFC 5280 §4.1",
        "truncated",
        "No extnValue.",
        request(extensions=[tlv(0x30, tlv(6, BASIC))]),
    )
    yield (
        "extension-critical-unknown-then-malformed",
        "RFC 6960 §4.1.2",
        "trailing-data",
        "Malformed comes before unsupported.",
        request(extensions=[extension(PRIVATE, b"", CRITICAL)]) + b"\0",
    )
    for length in (0, 129, 1_000, 60_000):
        yield (
            f"nonce-{length}",
            "RFC 9654 §2.1",
            "nonce-length",
            "Responders MUST refuse it.",
            request(extensions=[nonce(bytes(length))]),
        )
    yield (
        "nonce-raw-0",
        "RFC 9654 §2.1",
        "nonce-length",
        "An empty extnValue.",
        request(extensions=[extension(OCSP + ".2", b"")]),
    )
    yield (
        "nonce-raw-129",
        "RFC 9654 §2.1",
        "nonce-length",
        "A raw nonce is held to the same limits.",
        request(extensions=[extension(OCSP + ".2", b"\x55" * 129)]),
    )
    yield (
        "acceptable-responses-not-a-sequence",
        "RFC 6960 §4.4.3",
        "unexpected-tag",
        "An OID alone.",
        request(extensions=[extension(OCSP + ".4", tlv(6, BASIC))]),
    )
    yield (
        "acceptable-responses-trailing",
        "RFC 6960 §4.4.3",
        "trailing-data",
        "More than the list.",
        request(extensions=[extension(OCSP + ".4", tlv(0x30) + b"\0")]),
    )
    yield (
        "signature-empty",
        RFC6960,
        "truncated",
        "[0] without Signature.",
        request(optional_signature=tlv(0xA0)),
    )
    yield (
        "signature-bits-unused-eight",
        "X.690 §8.6",
        "bit-string-invalid",
        "At most seven bits are unused.",
        request(optional_signature=tlv(0xA0, tlv(0x30, algorithm("1.2.3"), tlv(3, b"\x08\0")))),
    )
    yield (
        "signature-bits-unused-set",
        "X.690 §11.2",
        "bit-string-invalid",
        "Unused bits are zero.",
        request(optional_signature=tlv(0xA0, tlv(0x30, algorithm("1.2.3"), tlv(3, b"\x04\x0f")))),
    )
    yield (
        "signature-certificates-seventeen",
        RFC6960,
        "too-many-certificates",
        "Above our limit.",
        request(optional_signature=signature([CERTIFICATE] * 17)),
    )
    yield (
        "signature-certificates-beyond-end",
        RFC6960,
        "truncated",
        "A certificate longer than what holds it.",
        request(optional_signature=signature([b"\x30\x7f\0"])),
    )
    yield (
        "signature-twice",
        RFC6960,
        "trailing-data",
        "Two signatures.",
        request(optional_signature=signature() + signature()),
    )
    yield (
        "bomb-nested",
        "X.690 §8.1",
        "unexpected-tag",
        "Nesting is never followed further than the type goes.",
        nested(3_000),
    )
    yield "bomb-indefinite", x690_lengths, "indefinite-length", "Nesting that ends nowhere.", b"\x30\x80" * 4_000
    yield (
        "bomb-oid",
        "X.690 §8.19",
        "object-identifier-invalid",
        "An arc of 458 000 bits (CVE-2023-2650).",
        request(extensions=[tlv(0x30, tlv(6, b"\x2b" + b"\xff" * 65_000 + b"\x7f"), tlv(4))]),
    )


def nested(depth: int) -> bytes:
    octets = b""
    for _ in range(depth):
        octets = tlv(0x30, octets)
    return octets


def unsupported() -> Iterator[Row]:
    expect = "Unsupported critical-extension"
    clause = "RFC 6960 §4.1.2"
    critical = extension(PRIVATE, b"", CRITICAL)
    yield "critical-in-request-extensions", clause, expect, "Unknown and critical.", request(extensions=[critical])
    yield (
        "critical-in-single-extensions",
        clause,
        expect,
        "Unknown and critical.",
        request([single(cert_id(), [critical])]),
    )
    yield (
        "critical-with-nonce",
        clause,
        expect,
        "Beside one that we know.",
        request(extensions=[nonce(bytes(16)), critical]),
    )


def rows() -> list[Row]:
    """Return every vector."""
    return [
        *good_shapes(),
        *good_values(),
        *((name, clause, MALFORMED + code, note, octets) for name, clause, code, note, octets in malformed()),
        *unsupported(),
    ]


def catalog() -> str:
    """Return the text of catalog.toml."""
    lines = ["# Written by make_vectors.py; tests/vectors/catalog.py says what the keys mean."]
    for name, clause, expect, note, _ in rows():
        lines += [
            "",
            "[[vector]]",
            f'id = "ocsp.request.{name}"',
            f'file = "{name}.der"',
            f'clause = "{clause}"',
            f'expect = "{expect}"',
            f'note = "{note}"',
            'origin = "make_vectors.py"',
            'licence = "as the project"',
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write what is missing; with --force also what differs."""
    for name, _, _, _, octets in rows():
        path = HERE / f"{name}.der"
        if path.exists() and path.read_bytes() != octets and "--force" not in sys.argv:
            raise SystemExit(f"{path.name} would change; --force writes it")
        path.write_bytes(octets)
    (HERE / "catalog.toml").write_text(catalog())


if __name__ == "__main__":
    main()
