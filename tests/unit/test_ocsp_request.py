"""fastpath.ocsp_request by the clauses it follows, and by the vectors of tests/vectors/requests."""

from __future__ import annotations

import itertools
import subprocess
import tracemalloc
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.x509 import ocsp

from fastpath.ocsp_request import (
    MAX_CERT_IDS,
    MAX_NONCE_OCTETS,
    MAX_REQUEST_OCTETS,
    MAX_SERIAL_OCTETS,
    CertID,
    MalformedRequest,
    OCSPRequest,
    Unsupported,
    parse_ocsp_request,
)
from responder.model import serial_from_octets, serial_to_octets
from tests.reference import request_builder as build
from tests.reference.der import tlv
from tests.reference.outcome import fast_outcome, reference_outcome
from tests.vectors.catalog import Vector, load_catalog
from tests.vectors.requests import make_vectors

VECTORS = load_catalog("requests")
GOOD = [vector for vector in VECTORS if vector.expect == "good"]
BIT = (False, True)


def by_id(vector: Vector) -> str:
    return vector.id


def vector(name: str) -> bytes:
    return next(item.data for item in VECTORS if item.id == f"ocsp.request.{name}")


def refusal(data: bytes, max_cert_ids: int = 16) -> str:
    """Return the code of the MalformedRequest that must come."""
    with pytest.raises(MalformedRequest) as caught:
        parse_ocsp_request(data, max_cert_ids)
    return caught.value.code


@pytest.mark.parametrize("case", VECTORS, ids=by_id)
def test_vector_has_the_outcome_of_its_catalogue(case: Vector) -> None:
    outcome = fast_outcome(case.data)
    expected = ("good",) if case.expect == "good" else tuple(case.expect.split(" "))
    actual = outcome[:2] if isinstance(outcome[0], str) else ("good",)
    assert actual == expected
    assert outcome == reference_outcome(case.data)


def test_vectors_are_what_their_source_writes() -> None:
    assert {vector.file: vector.data for vector in VECTORS} == {f"{row[0]}.der": row[4] for row in make_vectors.rows()}
    assert (make_vectors.HERE / "catalog.toml").read_text() == make_vectors.catalog()


# OpenSSL parses what we step over: GeneralNames, and the certificates of a signature.
SKIPPED_BY_US = (
    "requestor-name-choice-0",
    "requestor-name-choice-4",
    "requestor-name-choice-5",
    "signature-certificates",
)


@pytest.mark.parametrize("case", [case for case in GOOD if not case.id.endswith(SKIPPED_BY_US)], ids=by_id)
def test_openssl_reads_the_good_vectors_alike(case: Vector, tmp_path: Path) -> None:
    """Another implementation agrees that what we call well-formed is, and on every serial."""
    file = tmp_path / "request.der"
    file.write_bytes(case.data)
    printed = subprocess.run(
        ["openssl", "ocsp", "-reqin", file, "-req_text"], capture_output=True, text=True, check=False
    ).stdout
    serials = [line.split(":")[1].strip() for line in printed.splitlines() if "Serial Number:" in line]
    expected = [serial_from_octets(cert_id.serial_octets) for cert_id in parse_ocsp_request(case.data).cert_ids]
    assert [int(serial, 16) for serial in serials] == expected


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize(("version", "name", "extensions", "signature", "single"), list(itertools.product(*[BIT] * 5)))
def test_every_shape_that_conforms_is_taken(
    version: bool, name: bool, extensions: bool, signature: bool, single: bool
) -> None:
    """REQ-01: version, requestorName, requestExtensions, signature, singleRequestExtensions: there or not, each."""
    data = build.request(
        [build.single(build.cert_id(99), [build.service_locator()] if single else [])],
        version=build.VERSION_V1 if version else b"",
        requestor_name=build.directory_name() if name else b"",
        extensions=[build.nonce(b"n" * 16)] if extensions else [],
        optional_signature=build.signature() if signature else b"",
    )
    request = parse_ocsp_request(data)
    assert [cert_id.serial_octets for cert_id in request.cert_ids] == [b"\x63"]
    assert request.has_requestor_name is name
    assert request.has_signature is signature
    assert request.nonce_octets == (tlv(4, b"n" * 16) if extensions else None)
    assert request.accepts_basic is True
    assert request.preferred_signature_algorithms_der is None


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
def test_version_is_v1_absent_or_written_out() -> None:
    """REQ-02: absent and explicit v1 mean the same; there is no other version."""
    assert fast_outcome(vector("shape-version")) == fast_outcome(vector("shape-plain"))
    for other in (b"\x01", b"\xff", b"\x7f", b"\x00\xff", b"\x01\x00"):
        assert refusal(build.request(version=tlv(0xA0, tlv(2, other)))) == "version-not-v1"


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize("data", [b"\x30\x04\x30\x02\x30\x00", build.request([]), build.request([], build.VERSION_V1)])
def test_empty_request_list_is_malformed(data: bytes) -> None:
    """REQ-03: a request that asks nothing."""
    assert refusal(data) == "request-list-empty"


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
def test_cert_ids_keep_order_and_duplicates_up_to_the_cap() -> None:
    """REQ-04: every CertID up to the cap is given, none above."""
    serials = [3, 1, 2, 1, *range(100, 112)]
    data = build.request([build.single(build.cert_id(serial)) for serial in serials])
    request = parse_ocsp_request(data, len(serials))
    assert [serial_from_octets(cert_id.serial_octets) for cert_id in request.cert_ids] == serials
    assert refusal(data, len(serials) - 1) == "too-many-cert-ids"


def test_cap_itself_is_bounded() -> None:
    data = build.request([build.single(build.cert_id(serial)) for serial in range(MAX_CERT_IDS)])
    assert len(parse_ocsp_request(data, 10**12).cert_ids) == MAX_CERT_IDS
    above = build.request([build.single(build.cert_id(serial)) for serial in range(MAX_CERT_IDS + 1)])
    assert refusal(above, 10**12) == "too-many-cert-ids"
    for lowest in (1, 0, -1):
        assert len(parse_ocsp_request(build.request(), lowest).cert_ids) == 1
        assert refusal(data, lowest) == "too-many-cert-ids"


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize("hash_name", build.HASH_OIDS)
def test_cert_id_is_given_field_by_field(hash_name: str) -> None:
    """REQ-06: the hash algorithm is the requester's choice; both hashes are given."""
    der = build.cert_id(0xABCDEF, hash_name)
    (cert_id,) = parse_ocsp_request(build.request([build.single(der)])).cert_ids
    sizes = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
    assert cert_id.hash_name == hash_name
    assert cert_id.issuer_name_hash in der
    assert cert_id.issuer_key_hash in der
    assert cert_id.issuer_name_hash != cert_id.issuer_key_hash
    assert {len(cert_id.issuer_name_hash), len(cert_id.issuer_key_hash)} == {sizes[hash_name]}
    assert cert_id.serial_octets == b"\x00\xab\xcd\xef"
    assert cert_id.der == der


def test_unknown_hash_algorithm_is_well_formed_and_has_no_name() -> None:
    """REQ-06: SHA-224 names no issuer that we could recognise; to say so is not the parser's business."""
    der = build.cert_id(hash_algorithm=build.algorithm("2.16.840.1.101.3.4.2.4", build.NULL), name_hash=bytes(28))
    (cert_id,) = parse_ocsp_request(build.request([build.single(der)])).cert_ids
    assert cert_id.hash_name is None


@pytest.mark.clause("RFC 5754", "2", "MUST")
@pytest.mark.parametrize("hash_name", build.HASH_OIDS)
def test_hash_parameters_absent_and_null_are_the_same(hash_name: str) -> None:
    """REQ-08: only the CertID's own octets tell the two apart."""
    parsed = [
        parse_ocsp_request(build.request([build.single(build.cert_id(7, hash_name, parameters))])).cert_ids[0]
        for parameters in (build.NULL, b"")
    ]
    values = [(c.hash_name, c.issuer_name_hash, c.issuer_key_hash, c.serial_octets) for c in parsed]
    assert values[0] == values[1]
    assert parsed[0].der != parsed[1].der
    assert refusal(vector("hash-parameters-other")) == "algorithm-parameters"


@pytest.mark.clause("RFC 5280", "4.1.2.2", "MUST")
@pytest.mark.parametrize("serial", [0, 1, 127, 128, -1, -128, -129, 2**64, 2**159 - 1, 2**159, 2**160 - 1, -(2**160)])
def test_serials_keep_their_octets(serial: int) -> None:
    """REQ-09: 20 octets and the 00 before a high bit; zero and negative are serials too."""
    (cert_id,) = parse_ocsp_request(build.request([build.single(build.cert_id(serial))])).cert_ids
    assert cert_id.serial_octets == serial_to_octets(serial)
    assert len(cert_id.serial_octets) <= MAX_SERIAL_OCTETS == 21


@pytest.mark.clause("RFC 5280", "4.1.2.2", "MUST")
def test_serials_beyond_the_limit_or_not_minimal_are_malformed() -> None:
    """REQ-09: clean errors, whatever the size."""
    assert refusal(build.request([build.single(build.cert_id(2**168))])) == "serial-too-long"
    assert refusal(vector("serial-64-kib")) == "serial-too-long"
    assert refusal(vector("serial-not-minimal")) == "integer-invalid"
    assert refusal(vector("serial-not-minimal-negative")) == "integer-invalid"
    assert refusal(vector("serial-empty")) == "integer-invalid"


@pytest.mark.clause("RFC 6960", "4.1.2", "MUST")
def test_unknown_extension_is_ignored_unless_critical() -> None:
    """REQ-10: in requestExtensions and singleRequestExtensions alike."""
    assert fast_outcome(vector("extension-private")) == fast_outcome(vector("shape-plain"))
    for name in ("critical-in-request-extensions", "critical-in-single-extensions", "critical-with-nonce"):
        with pytest.raises(Unsupported) as caught:
            parse_ocsp_request(vector(name))
        assert caught.value.code == "critical-extension"


def test_unsupported_names_the_extension() -> None:
    critical = build.extension(build.PRIVATE, b"", build.CRITICAL)
    data = build.request(extensions=[build.nonce(b"n"), critical])
    with pytest.raises(Unsupported) as caught:
        parse_ocsp_request(data)
    assert caught.value.offset == data.index(critical)


@pytest.mark.clause("RFC 6960", "4.1.2", "MUST")
def test_malformed_comes_before_unsupported() -> None:
    """REQ-10, REQ-12: that an extension is unknown is said of well-formed requests only."""
    assert refusal(vector("extension-critical-unknown-then-malformed")) == "trailing-data"


@pytest.mark.clause("RFC 6960", "4.1.2", "MUST")
def test_known_extensions_may_be_critical() -> None:
    """REQ-10: nonce, acceptableResponses, serviceLocator, preferredSignatureAlgorithms."""
    request = parse_ocsp_request(vector("extensions-known-critical"))
    assert request.nonce_octets == tlv(4, bytes(16))
    assert request.accepts_basic
    assert request.preferred_signature_algorithms_der is not None


@pytest.mark.clause("RFC 9919", "3.1.2", "MUST")
@pytest.mark.parametrize("choice", range(9))
def test_every_requestor_name_is_as_none(choice: int) -> None:
    """REQ-11: the name of an unsigned request changes nothing."""
    request = parse_ocsp_request(vector(f"requestor-name-choice-{choice}"))
    plain = parse_ocsp_request(vector("shape-plain"))
    assert request.has_requestor_name
    assert request.cert_ids[0].der == plain.cert_ids[0].der


@pytest.mark.clause("RFC 9919", "3.1.2", "MAY")
def test_certificates_of_a_signature_are_not_parsed() -> None:
    """SEC-14, REQ-11: they are stepped over; what they hold is nobody's business here."""
    request = parse_ocsp_request(vector("signature-certificates"))
    assert request.has_signature
    assert refusal(vector("signature-certificates-beyond-end")) == "truncated"
    assert refusal(vector("signature-certificates-seventeen")) == "too-many-certificates"


@pytest.mark.clause("X.690", "10.1", "MUST")
@pytest.mark.parametrize("name", [row[0] for row in make_vectors.malformed()])
def test_what_is_not_der_is_malformed(name: str) -> None:
    """REQ-12: always MalformedRequest, with a place within the octets."""
    data = vector(name)
    with pytest.raises(MalformedRequest) as caught:
        parse_ocsp_request(data)
    assert 0 <= caught.value.offset <= len(data)
    assert str(caught.value) == f"OCSPRequest: {caught.value.code} at octet {caught.value.offset}"


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize("length", [1, 15, 16, 31, 32, 33, 64, 127, 128])
def test_nonce_of_every_lawful_length_is_given_as_it_stands(length: int) -> None:
    """NON-01, NON-03: the extnValue's contents, still wrapped, so that they can be repeated byte for byte."""
    octets = bytes(range(length))
    assert parse_ocsp_request(build.request(extensions=[build.nonce(octets)])).nonce_octets == tlv(4, octets)


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize("length", [0, 129, 1000, 60_000])
def test_nonce_of_other_lengths_is_malformed(length: int) -> None:
    """NON-02: none at all, or more than 128 octets; also of nonces without the inner OCTET STRING."""
    assert MAX_NONCE_OCTETS == 128
    assert refusal(build.request(extensions=[build.nonce(bytes(length))])) == "nonce-length"
    raw = build.extension(build.OCSP + ".2", b"\x55" * length)
    assert refusal(build.request(extensions=[raw])) == "nonce-length"


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize(
    "value",
    [b"\x55" * 16, b"\x04\x0f" + b"\x55" * 16, b"\x04\x11" + b"\x55" * 16, b"\x04\x81\x10" + b"\x55" * 16, b"\x04"],
)
def test_raw_nonce_is_no_nonce_to_honour(value: bytes) -> None:
    """NON-03: clients of RFC 2560 sent the octets without the OCTET STRING; they get the answer without a nonce."""
    request = parse_ocsp_request(build.request(extensions=[build.extension(build.OCSP + ".2", value)]))
    assert request.nonce_octets is None


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize("octets", [b"", b"n" * 16, b"n" * 500])
def test_nonce_in_single_request_extensions_is_ignored(octets: bytes) -> None:
    """NON-04: the nonce's place is requestExtensions."""
    request = parse_ocsp_request(build.request([build.single(build.cert_id(), [build.nonce(octets)])]))
    assert request.nonce_octets is None


@pytest.mark.clause("RFC 5280", "4.2", "MUST")
def test_extension_twice_in_one_list_is_malformed() -> None:
    """Which of two nonces would be the one? The same extension in another list is another matter."""
    assert refusal(vector("extension-twice")) == "duplicate-extension"
    assert refusal(vector("extension-twice-single")) == "duplicate-extension"
    unknown = build.extension(build.PRIVATE, b"")
    singles = [build.single(build.cert_id(serial), [unknown]) for serial in (1, 2)]
    assert len(parse_ocsp_request(build.request(singles, extensions=[unknown])).cert_ids) == 2


@pytest.mark.clause("RFC 6960", "4.4.3", "MUST")
def test_acceptable_responses_decide_accepts_basic() -> None:
    """EXT-02: NSS always sends the list; it is no reason to sign live."""
    other = build.BASIC[:-1] + b"\x63"
    for types, accepts in (([build.BASIC], True), ([other, build.BASIC], True), ([other], False), ([], False)):
        request = parse_ocsp_request(build.request(extensions=[build.acceptable_responses(*types)]))
        assert request.accepts_basic is accepts
        assert request.nonce_octets is None


@pytest.mark.clause("RFC 6960", "4.4.6", "MAY")
def test_service_locator_is_ignored() -> None:
    """EXT-05: with a locator, without, or with rubbish: nothing of it is given, so nothing can be fetched."""
    plain = fast_outcome(vector("shape-plain"))
    for locator in (build.service_locator(), build.extension(build.OCSP + ".7", b"\x30\x00\xff")):
        assert fast_outcome(build.request([build.single(build.cert_id(), [locator])])) == plain
        assert fast_outcome(build.request(extensions=[locator])) == plain


@pytest.mark.clause("RFC 6960", "4.4.7.1", "SHOULD")
def test_preferred_signature_algorithms_are_given_raw() -> None:
    """EXT-06: the octets, unread."""
    value = b"\x30\x00 whatever"
    request = parse_ocsp_request(build.request(extensions=[build.extension(build.OCSP + ".8", value)]))
    assert request.preferred_signature_algorithms_der == value
    single = build.single(build.cert_id(), [build.preferred_signature_algorithms()])
    assert parse_ocsp_request(build.request([single])).preferred_signature_algorithms_der is None


def test_every_limit_is_a_refusal_one_above() -> None:
    """SEC-02: body, requestList, extensions, certificates."""
    overhead = len(build.request(extensions=[build.extension(build.PRIVATE, bytes(900_000))])) - 900_000
    at_limit, above = (
        build.request(extensions=[build.extension(build.PRIVATE, bytes(MAX_REQUEST_OCTETS - overhead + more))])
        for more in (0, 1)
    )
    assert len(at_limit) == MAX_REQUEST_OCTETS
    assert len(parse_ocsp_request(at_limit).cert_ids) == 1
    assert refusal(above) == "request-too-large"
    sixteen = [build.extension(f"{build.PRIVATE}.{n}", b"") for n in range(16)]
    assert parse_ocsp_request(build.request([build.single(build.cert_id(), sixteen)], extensions=sixteen))
    assert refusal(vector("extensions-seventeen")) == "too-many-extensions"
    assert parse_ocsp_request(build.request(optional_signature=build.signature([tlv(0x30)] * 16))).has_signature


@pytest.mark.parametrize(
    "name", ["bomb-nested", "bomb-indefinite", "bomb-oid", "serial-64-kib", "nonce-60000", "length-near-2-64"]
)
def test_bombs_allocate_nothing(name: str) -> None:
    """SEC-03: depth, huge arcs, giant INTEGERs and absurd lengths cost one look at their header."""
    data = vector(name)
    refusal(data)
    tracemalloc.start()
    try:
        refusal(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_192


@pytest.mark.parametrize("case", GOOD, ids=by_id)
def test_cut_at_every_offset_is_malformed(case: Vector) -> None:
    """REQ-12: whatever is missing at the end or at the start, and whatever follows."""
    for size in range(len(case.data)):
        assert refusal(case.data[:size]) == "truncated"
    for start in range(1, len(case.data)):
        assert fast_outcome(case.data[start:]) == reference_outcome(case.data[start:])
    for octet in range(256):
        assert refusal(case.data + bytes([octet])) == "trailing-data"


@pytest.mark.parametrize(
    ("file", "outcome"),
    [
        ("req-sha1.der", None),
        ("req-multi-sha1.der", None),
        ("req-invalid-hash-alg.der", None),
        ("req-ext-nonce.der", None),
        ("req-ext-unknown-oid.der", None),
        ("req-acceptable-responses.der", None),
        ("ocsp-army.valid-req.der", None),
        ("ocsp-army.revoked-req.der", None),
        ("ocsp-army.inapplicable-req.der", None),
        ("req-duplicate-ext.der", "duplicate-extension"),
        ("req-invalid-version.der", "version-not-v1"),
    ],
)
def test_vectors_of_cryptography(file: str, outcome: str | None) -> None:
    """REQ-12: requests that others made, some of them as clients sent them."""
    with cryptography_vectors.open_vector_file(f"x509/ocsp/{file}", "rb") as stream:
        data = stream.read()
    if outcome is None:
        assert parse_ocsp_request(data).cert_ids
    else:
        assert refusal(data) == outcome


def test_cryptography_reads_what_openssl_clients_send() -> None:
    data = vector("nonce-16")
    theirs, ours = ocsp.load_der_ocsp_request(data), parse_ocsp_request(data)
    assert theirs.serial_number == serial_from_octets(ours.cert_ids[0].serial_octets)
    assert theirs.issuer_name_hash == ours.cert_ids[0].issuer_name_hash


def test_values_outlive_the_octets_they_came_from() -> None:
    """No pointer into the request is kept."""
    data = bytearray(build.request(extensions=[build.nonce(b"n" * 16)]))
    request = parse_ocsp_request(bytes(data))
    data[:] = bytes(len(data))
    assert request.nonce_octets == tlv(4, b"n" * 16)
    assert request.cert_ids[0].der == build.cert_id()


@pytest.mark.parametrize("wrong", [None, "text", bytearray(b"\x30\x00"), memoryview(b"\x30\x00"), 5])
def test_only_bytes_are_taken(wrong: object) -> None:
    """A caller's mistake is a TypeError, no opinion about a request."""
    with pytest.raises(TypeError):
        parse_ocsp_request(wrong)  # type: ignore[arg-type]


def test_values_are_made_by_the_parser_alone_and_stay() -> None:
    for value_type in (CertID, OCSPRequest):
        with pytest.raises(TypeError):
            value_type()
    request = parse_ocsp_request(build.request())
    with pytest.raises(AttributeError):
        request.accepts_basic = False  # type: ignore[misc]
    with pytest.raises(AttributeError):
        request.cert_ids[0].der = b""  # type: ignore[misc]
    assert repr(request.cert_ids[0]).startswith("CertID(hash_name='sha1', issuer_name_hash=")
