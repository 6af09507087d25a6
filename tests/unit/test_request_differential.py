"""The request parser against three others on 100 000 mutated requests.

The slow parser of tests/reference must agree in everything: values, error, code, offset. ``cryptography`` and
``asn1crypto`` (strict) must agree on whether a request is taken and on what it asks, or the difference falls in a class
of the tables below, each with its reason. A class that no longer occurs fails the test too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cryptography_vectors
from asn1crypto import ocsp as asn1crypto_ocsp
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.ocsp_request import parse_ocsp_request
from responder.model import serial_from_octets, serial_to_octets
from tests.reference import ocsp_request as reference
from tests.reference import request_builder as build
from tests.reference.der import tlv
from tests.reference.mutate import mutate_octets, mutate_tree
from tests.reference.outcome import fast_outcome, reference_outcome, values_of

SEED = 6960
MUTATIONS = 100_000

# What one parser makes of the first CertID and the nonce: hash_name, both hashes, serial, nonce as extnValue contents.
Asked = tuple[str | None, bytes, bytes, int, bytes | None]

# Our refusals, by code, that cryptography takes.
CRYPTOGRAPHY_TAKES = {
    "algorithm-parameters": "it carries parameters of algorithms that it does not know along",
    "critical-extension": "it hands extensions to its caller, critical or not",
    "duplicate-extension": "it looks for duplicates in requestExtensions only",
    "extensions-empty": "it knows no SIZE (1..MAX)",
    "hash-too-long": "it has no limit",
    "nonce-length": "it knows no RFC 9654, and takes the extnValue for the nonce where it holds no OCTET STRING",
    "serial-too-long": "it has no limit",
    "within signature": "it never looks into optionalSignature",
}
# Requests that we take and cryptography refuses: what they hold, and a part of what it says.
CRYPTOGRAPHY_REFUSES = {
    "version-explicit": ("EncodedDefault", "X.690 §11.5 to the letter; old clients write version v1 out"),
    "critical-explicit-false": ("EncodedDefault", "X.690 §11.5 to the letter"),
    "several-cert-ids": ("more than one request", "it does one at a time"),
    "requestor-name": ("ParseError", "it parses the GeneralName, of which we check the tag"),
    "hash-algorithm-other": ("ParseError", "it knows parameters of algorithms that are no digests"),
}
# Our refusals, by code, that asn1crypto takes: it reads BER, and what nobody asks for it never reads at all.
ASN1CRYPTO_TAKES = {
    "algorithm-parameters": "it carries parameters along",
    "bit-string-invalid": "lazy: it never looks into optionalSignature unless asked",
    "critical-extension": "it hands extensions to its caller, critical or not",
    "duplicate-extension": "it looks for no duplicates",
    "extensions-empty": "it knows no SIZE (1..MAX)",
    "hash-too-long": "it has no limit",
    "high-tag-number": "lazy: signature and names are not read",
    "indefinite-length": "BER",
    "integer-invalid": "BER",
    "boolean-invalid": "BER: any octet but zero is TRUE",
    "length-not-minimal": "BER",
    "length-too-large": "BER: a small length may be written in many octets",
    "nonce-length": "it knows no RFC 9654",
    "object-identifier-invalid": "BER: padded arcs",
    "requestor-name-not-general-name": "lazy: the name is not read",
    "serial-too-long": "it has no limit",
    "too-many-certificates": "it has no limit",
    "too-many-cert-ids": "it has no limit",
    "trailing-data": "strict means the outermost element only",
    "truncated": "lazy: what is cut is not read",
    "unexpected-tag": "lazy: the wrong element is not read",
    "version-not-v1": "it has no opinion on the number",
}
ASN1CRYPTO_REFUSES = {
    "nonce-raw": ("ParsableOctetString", "it expects an OCTET STRING within extnValue; clients of RFC 2560 sent none"),
}


def cryptography_vector_requests() -> list[bytes]:
    """Return every request among the vectors of cryptography."""
    folder = Path(cryptography_vectors.__file__).parent / "x509" / "ocsp"
    return [path.read_bytes() for path in sorted(folder.glob("*req*.der"))]


def asked_of_cryptography(data: bytes) -> Asked:
    request = ocsp.load_der_ocsp_request(data)
    nonce = None
    for extension in request.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = tlv(4, extension.value.nonce)
    try:
        hash_name: str | None = request.hash_algorithm.name
    except UnsupportedAlgorithm:
        hash_name = None
    if hash_name not in build.HASH_OIDS:  # it names a few more, such as sha224
        hash_name = None
    return hash_name, request.issuer_name_hash, request.issuer_key_hash, request.serial_number, nonce


def asked_of_asn1crypto(data: bytes) -> Asked:
    tbs_request = asn1crypto_ocsp.OCSPRequest.load(data, strict=True)["tbs_request"]
    _ = tbs_request["version"].native
    nonce = None
    for extension in tbs_request["request_extensions"]:
        _ = extension["critical"].native
        if extension["extn_id"].dotted == build.OCSP + ".2":
            nonce = extension["extn_value"].contents
    cert_ids = [
        (
            cert_id["hash_algorithm"]["algorithm"].native,
            cert_id["issuer_name_hash"].native,
            cert_id["issuer_key_hash"].native,
            cert_id["serial_number"].native,
        )
        for cert_id in (request["req_cert"] for request in tbs_request["request_list"])
    ]
    if not cert_ids:
        raise ValueError("no Request")  # it has no opinion on that; there is nothing to compare
    hash_name, name_hash, key_hash, serial = cert_ids[0]
    return (hash_name if hash_name in build.HASH_OIDS else None), name_hash, key_hash, serial, nonce


def asked_of_ours(data: bytes) -> Asked:
    request = parse_ocsp_request(data)
    first = request.cert_ids[0]
    return (
        first.hash_name,
        first.issuer_name_hash,
        first.issuer_key_hash,
        serial_from_octets(first.serial_octets),
        request.nonce_octets,
    )


def mutated_requests() -> list[bytes]:
    """Return as many mutated requests as MUTATIONS says: of octets, of the tree, and of the tree twice."""
    rng = random.Random(SEED)
    seeds = cryptography_vector_requests() * 20
    certificate = tlv(0x30, tlv(0x30, tlv(2, b"\1")), build.algorithm("1.2.840.10045.4.3.2"), tlv(3, b"\0\1"))
    seeds += [build.random_request(rng, [certificate]) for _ in range(len(seeds) * 3)]
    mutations = []
    while len(mutations) < MUTATIONS:
        data = rng.choice(seeds)
        for mutate in rng.choice([(mutate_octets,), (mutate_tree,), (mutate_tree, mutate_tree)]):
            data = mutate(rng, data)
        mutations.append(data)
    return mutations


class Comparison:
    """Counts the classes of difference between us and one other parser; the unlisted ones are kept."""

    def __init__(
        self, asked: Callable[[bytes], Asked], takes: dict[str, str], refuses: dict[str, tuple[str, str]]
    ) -> None:
        self.asked, self.takes, self.refuses = asked, takes, refuses
        self.agreed: Counter[bool] = Counter()
        self.seen: Counter[str] = Counter()
        self.unlisted: list[tuple[str, str]] = []

    def compare(self, data: bytes, refused: tuple[str, bool] | None, features: set[str]) -> None:
        """``refused`` is our code and whether it was within the signature; None where we took the request."""
        try:
            theirs, complaint = self.asked(data), ""
        except (ValueError, TypeError, NotImplementedError, x509.DuplicateExtension) as error:
            theirs, complaint = None, f"{type(error).__name__}: {error}"
        if refused is not None:
            if theirs is None:
                self.agreed[False] += 1
                return
            code, is_within_signature = refused
            class_of = "within signature" if is_within_signature and "within signature" in self.takes else code
            self.count(class_of, class_of in self.takes, data, f"taken, but {code}")
        elif theirs is None:
            classes = [name for name in sorted(features) if name in self.refuses and self.refuses[name][0] in complaint]
            self.count(classes[0] if classes else "", bool(classes), data, complaint)
        else:
            ours = asked_of_ours(data)
            # A raw nonce is nothing to us and a nonce to the others.
            size = 4 if "nonce-raw" in features else 5
            if ours[:size] == theirs[:size]:
                self.agreed[True] += 1
            else:
                self.unlisted.append((data.hex(), f"{ours} {theirs}"))

    def count(self, name: str, is_listed: bool, data: bytes, text: str) -> None:
        if is_listed:
            self.seen[name] += 1
        else:
            self.unlisted.append((data.hex(), text))


def test_mutated_requests_agree_with_three_other_parsers() -> None:
    """REQ-12: 100 000 mutations through the slow parser, cryptography and asn1crypto."""
    cryptography = Comparison(asked_of_cryptography, CRYPTOGRAPHY_TAKES, CRYPTOGRAPHY_REFUSES)
    asn1crypto = Comparison(asked_of_asn1crypto, ASN1CRYPTO_TAKES, ASN1CRYPTO_REFUSES)
    outcomes: Counter[str] = Counter()
    for data in mutated_requests():
        features: set[str] = set()
        refused = None
        try:
            request = reference.parse(data)
            expected = values_of(request)
            features = request.features
        except reference.RefusedError as error:
            expected = (error.kind, error.code, error.offset)
            refused = (error.code, error.is_within_signature)
        assert fast_outcome(data) == expected, data.hex()
        outcomes[refused[0] if refused else "good"] += 1
        cryptography.compare(data, refused, features)
        asn1crypto.compare(data, refused, features)
    assert cryptography.unlisted[:5] == []
    assert asn1crypto.unlisted[:5] == []
    assert set(cryptography.seen) == set(CRYPTOGRAPHY_TAKES) | set(CRYPTOGRAPHY_REFUSES)
    assert set(asn1crypto.seen) == set(ASN1CRYPTO_TAKES) | set(ASN1CRYPTO_REFUSES)
    # The mutations reach every rule, and leave enough requests whole for the values to be compared.
    assert outcomes["good"] > MUTATIONS // 10
    assert len(outcomes) > 22
    assert cryptography.agreed[True] > MUTATIONS // 20
    assert cryptography.agreed[False] > MUTATIONS // 20


SERIALS = st.integers(min_value=-(2**167), max_value=2**167 - 1)
HASHES = st.binary(max_size=64)
CERT_IDS = st.lists(
    st.tuples(SERIALS, st.sampled_from(sorted(build.HASH_OIDS)), st.sampled_from([build.NULL, b""]), HASHES, HASHES),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200, deadline=None)
@given(CERT_IDS, st.none() | st.binary(min_size=1, max_size=128), st.booleans(), st.booleans(), st.booleans())
def test_what_is_built_is_parsed(
    cert_ids: list[tuple[int, str, bytes, bytes, bytes]],
    nonce: bytes | None,
    has_version: bool,
    has_name: bool,
    has_signature: bool,
) -> None:
    """Encoding and parsing give every value back."""
    ders = [build.cert_id(serial, name, parameters, None, *hashes) for serial, name, parameters, *hashes in cert_ids]
    data = build.request(
        [build.single(der) for der in ders],
        version=build.VERSION_V1 if has_version else b"",
        requestor_name=build.directory_name() if has_name else b"",
        extensions=[] if nonce is None else [build.nonce(nonce)],
        optional_signature=build.signature() if has_signature else b"",
    )
    request = parse_ocsp_request(data)
    parsed = [(c.serial_octets, c.hash_name, c.issuer_name_hash, c.issuer_key_hash, c.der) for c in request.cert_ids]
    assert parsed == [
        (serial_to_octets(serial), name, name_hash, key_hash, der)
        for (serial, name, _, name_hash, key_hash), der in zip(cert_ids, ders, strict=True)
    ]
    assert request.nonce_octets == (None if nonce is None else tlv(4, nonce))
    assert (request.has_requestor_name, request.has_signature) == (has_name, has_signature)


@settings(max_examples=500, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 17))
def test_mutations_that_hypothesis_chooses_agree(rng: random.Random, times: int, max_cert_ids: int) -> None:
    """Like the big run, but shrunk to the smallest example where it fails; and with other caps."""
    data = build.random_request(rng)
    for _ in range(times):
        data = rng.choice([mutate_octets, mutate_tree])(rng, data)
    assert fast_outcome(data, max_cert_ids) == reference_outcome(data, max_cert_ids)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_octets_parse_or_are_refused(data: bytes) -> None:
    """Nothing but MalformedRequest and Unsupported ever comes."""
    assert fast_outcome(data) == reference_outcome(data)
