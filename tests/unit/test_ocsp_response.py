"""The OCSP response codec: the bytes that were signed are the bytes that are served, and every clause about them."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.ocsp_response import (
    EXTENDED_REVOKE_DER,
    AnswerHeader,
    ResponseTemplate,
    assemble,
    encode_cert_id,
    encode_response_extension_nonce,
    encode_single_response,
    error_response,
    is_dual,
    pack_answer,
    unpack_answer,
)
from tests.ocsp_oracles import (
    ask_openssl,
    check_signature,
    lint,
    read_with_asn1crypto,
    read_with_cryptography,
)
from tests.pki import DAY_S, KEY_TYPES, PKI, SIGNATURE_ALGORITHM_DER, key_of, serial_octets, sign
from tests.reference import ocsp_response as reference

GOOD, REVOKED, UNKNOWN = 0, 1, 2
NO_REASON = -1
REASONS = (1, 2, 3, 4, 5, 6, 9, 10)  # those of CRLReason that RevokedInfo may show
STATUSES = ((GOOD, NO_REASON), (UNKNOWN, NO_REASON), *((REVOKED, reason) for reason in (NO_REASON, *REASONS)))
HASH_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
THIS_UPDATE = int(datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC).timestamp())
REVOKED_AT = int(datetime(2026, 10, 2, 3, 4, 5, tzinfo=UTC).timestamp())
SIGNER_ID = "0123456789abcdef"
CERT = reference.sequence(reference.tlv(0x04, bytes(496)))  # any SEQUENCE: the codec does not look into certificates
KEY_HASH = bytes(range(20))

GetPKI = Callable[..., PKI]


def template_of(ca: PKI) -> ResponseTemplate:
    """Make the template of whoever signs the CA's answers."""
    signer = ca.answer_signer
    return ResponseTemplate(signer.key_hash, signer.signature_algorithm_der, ca.answer_certs_der)


def plain_template(certs_der: tuple[bytes, ...] = (CERT,)) -> ResponseTemplate:
    """Make a template of nobody in particular."""
    return ResponseTemplate(KEY_HASH, SIGNATURE_ALGORITHM_DER["p256"], certs_der)


def cert_id_of(ca: PKI, serial_number: int, hash_name: str = "sha1") -> bytes:
    """Encode the CertID of a serial of the CA."""
    return encode_cert_id(
        hash_name,
        ca.issuer_name_hash(hash_name),
        ca.issuer_key_hash(hash_name),
        serial_octets(serial_number),
    )


def any_cert_id(hash_name: str = "sha1", serial: bytes = b"\x01") -> bytes:
    """Encode a CertID of nobody in particular."""
    size = HASH_SIZES[hash_name]
    return encode_cert_id(hash_name, bytes(size), bytes(size), serial)


def serial_of_size(size: int) -> bytes:
    """Return contents octets of an INTEGER of that size; the 21st octet is the 00 before a high bit."""
    return b"\x00" + b"\xfe" * (size - 1) if size == 21 else b"\x7f" + b"\xfe" * (size - 1)


def signed_answer(
    ca: PKI,
    serial_number: int,
    hash_name: str = "sha1",
    cert_status: int = GOOD,
    reason: int = NO_REASON,
    archive_cutoff: int = -1,
    this_update: int | None = None,
    *,
    dual: bool = False,
) -> bytes:
    """Sign an answer as the presigner does, store it, and serve it; checks that both are the same bytes."""
    now = int(datetime.now(UTC).timestamp())
    this_update = now - 60 if this_update is None else this_update
    template = template_of(ca)
    cert_ids = [cert_id_of(ca, serial_number, name) for name in (("sha1", "sha256") if dual else (hash_name,))]
    header = AnswerHeader(this_update, this_update + 4 * DAY_S, now, SIGNER_ID, archive_cutoff)
    tbs = template.tbs_response_data(
        [
            encode_single_response(
                cert_id_der,
                cert_status,
                REVOKED_AT,
                reason,
                header.this_update,
                header.next_update,
                archive_cutoff,
            )
            for cert_id_der in cert_ids
        ],
        header.produced_at,
    )
    signature = ca.answer_signer.sign(tbs)
    packed = pack_answer(7, cert_status, REVOKED_AT, reason, archive_cutoff >= 0, signature, dual)
    stored_header = AnswerHeader.from_bytes(header.to_bytes())
    stored_template = ResponseTemplate.from_bytes(template.to_bytes())
    served = assemble(stored_template, stored_header, cert_ids[0], packed, *cert_ids[1:])
    assert served == template.response(tbs, signature)
    return served


# --- the central proof ---


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_assembled_bytes_are_the_signed_bytes_for_every_shape(key_type: str) -> None:
    """Packed, stored and put together again, an answer is byte for byte what was signed, and what the ASN.1 says."""
    signature = sign(key_of(key_type, "ocsp"), key_type, b"of the right size")
    algorithm = SIGNATURE_ALGORITHM_DER[key_type]
    archive_cutoff = THIS_UPDATE - 30 * DAY_S
    for certs_der in ((CERT,), (), (CERT, CERT)):
        template = ResponseTemplate(KEY_HASH, algorithm, certs_der)
        stored_template = ResponseTemplate.from_bytes(template.to_bytes())
        header = AnswerHeader(THIS_UPDATE, THIS_UPDATE + 4 * DAY_S, THIS_UPDATE + 5, SIGNER_ID, archive_cutoff)
        stored_header = AnswerHeader.from_bytes(header.to_bytes())
        terms = (header.this_update, header.next_update)
        for (cert_status, reason), hash_names, size, has_cutoff in product(
            STATUSES, (*((name,) for name in HASH_SIZES), ("sha1", "sha256")), range(1, 22), (False, True)
        ):
            arguments = (cert_status, REVOKED_AT, reason, *terms, archive_cutoff if has_cutoff else -1)
            cert_ids = [any_cert_id(hash_name, serial_of_size(size)) for hash_name in hash_names]
            singles = [encode_single_response(cert_id_der, *arguments) for cert_id_der in cert_ids]
            tbs = template.tbs_response_data(singles, header.produced_at)
            signed = template.response(tbs, signature)
            dual = len(hash_names) == 2
            packed = pack_answer(size % 16, cert_status, REVOKED_AT, reason, has_cutoff, signature, dual)
            assert (unpack_answer(packed).is_dual, is_dual(packed)) == (dual, dual)
            served = assemble(stored_template, stored_header, cert_ids[0], packed, *cert_ids[1:])
            assert served == signed
            expected_tbs = reference.response_data(
                KEY_HASH,
                header.produced_at,
                [reference.single_response(cert_id_der, *arguments) for cert_id_der in cert_ids],
            )
            assert tbs == expected_tbs
            assert signed == reference.ocsp_response(expected_tbs, algorithm, signature, certs_der)


@pytest.mark.parametrize("hash_names", [("sha1",), ("sha256",), ("sha1", "sha256")], ids="-".join)
def test_a_batch_is_what_is_built_one_by_one(hash_names: tuple[str, ...]) -> None:
    """The presigner's batches hold the very octets that single answers have."""
    template = ResponseTemplate(KEY_HASH, SIGNATURE_ALGORITHM_DER["p256"], (CERT,))
    terms = (THIS_UPDATE, THIS_UPDATE + 4 * DAY_S)
    cutoff = THIS_UPDATE - 30 * DAY_S
    issuers = [(name, b"n" * HASH_SIZES[name], b"k" * HASH_SIZES[name]) for name in hash_names]
    wanted = {
        serial_of_size(size): (status, REVOKED_AT, reason, has_cutoff, False, *terms)
        for size, ((status, reason), has_cutoff) in enumerate(product(STATUSES, (False, True)), 1)
    }
    serials = list(wanted)[::-1]
    expected = [
        template.tbs_response_data(
            [
                encode_single_response(
                    encode_cert_id(*issuer, serial), *wanted[serial][:3], *terms, cutoff if wanted[serial][3] else -1
                )
                for issuer in issuers
            ],
            THIS_UPDATE + 5,
        )
        for serial in serials
    ]
    assert template.stored_answers(issuers, serials, wanted, *terms, THIS_UPDATE + 5, cutoff) == expected
    with pytest.raises(KeyError):
        template.stored_answers(issuers, [b"\x7f\x7f"], wanted, *terms, THIS_UPDATE + 5, cutoff)


@pytest.mark.parametrize("delegated", [True, False], ids=["delegated", "ca-signed"])
@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
def test_every_oracle_believes_the_answers(key_type: str, delegated: bool, pki: GetPKI, tmp_path: Path) -> None:
    """RSP-10: The signature is over the DER of ResponseData exactly as transmitted, for every status and key type."""
    ca = pki(key_type, key_type if delegated else None)
    serial_number = 0x7F00_0000_0000_0001
    for n, (cert_status, reason) in enumerate(STATUSES):
        hash_name = list(HASH_SIZES)[n % 4]
        cutoff = REVOKED_AT if n % 3 == 0 else -1
        served = signed_answer(ca, serial_number, hash_name, cert_status, reason, cutoff)
        check_signature(served, ca)
        assert lint(served) == []
        response = read_with_cryptography(served)
        assert response.certificate_status.value == cert_status
        assert response.serial_number == serial_number
        assert response.hash_algorithm.name == hash_name
        if cert_status == REVOKED:
            assert response.revocation_time_utc == datetime.fromtimestamp(REVOKED_AT, UTC)
        shown = read_with_asn1crypto(served)["tbs_response_data"]["responses"][0]["cert_status"]
        assert shown.name == ("good", "revoked", "unknown")[cert_status]
        # OpenSSL before 3.5 knows no ML-DSA; the signature was verified above.
        if not key_type.startswith("mldsa") and n % 3 == 1:
            said = ask_openssl(served, ca, serial_number, tmp_path, hash_name)
            assert "Response verify OK" in said, said
            assert f"{serial_number:#x}: {shown.name}" in said, said
            assert "WARNING" not in said, said


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.clause("RFC 9919", "3.2.1", "MAY")
def test_every_oracle_believes_dual_answers(key_type: str, pki: GetPKI, tmp_path: Path) -> None:
    """RSP-08: One signature over a certificate's SHA-1 and SHA-256 CertID, in this order, both with the same words."""
    ca = pki(key_type, key_type)
    for n, (cert_status, reason) in enumerate(STATUSES):
        served = signed_answer(ca, 77, "sha1", cert_status, reason, REVOKED_AT if n % 3 == 0 else -1, dual=True)
        check_signature(served, ca)
        assert lint(served) == []
        first, second = read_with_cryptography(served).responses
        assert (first.hash_algorithm.name, second.hash_algorithm.name) == ("sha1", "sha256")
        for single in (first, second):
            name = single.hash_algorithm.name
            assert single.issuer_name_hash == ca.issuer_name_hash(name)
            assert single.issuer_key_hash == ca.issuer_key_hash(name)
            assert (single.serial_number, single.certificate_status.value) == (77, cert_status)
            assert (single.this_update_utc, single.next_update_utc) == (first.this_update_utc, first.next_update_utc)
            assert single.revocation_time_utc == first.revocation_time_utc
            assert single.revocation_reason == first.revocation_reason
        if not key_type.startswith("mldsa") and n < 3:
            for hash_name in ("sha1", "sha256"):
                said = ask_openssl(served, ca, 77, tmp_path, hash_name)
                assert "Response verify OK" in said, said
                assert f"0x4d: {('good', 'revoked', 'unknown')[cert_status]}" in said, said


def test_an_answer_needs_as_many_cert_ids_as_were_signed() -> None:
    """A dual answer is never served with one CertID alone, nor another one with two."""
    header = AnswerHeader(THIS_UPDATE, THIS_UPDATE + DAY_S, THIS_UPDATE, SIGNER_ID)
    one, two = any_cert_id("sha1"), any_cert_id("sha256")
    for dual, second in ((True, None), (False, two), (True, b""), (True, two + b"\x00")):
        packed = pack_answer(0, GOOD, 0, NO_REASON, False, b"s", dual)
        with pytest.raises(ValueError, match="CertID"):
            assemble(plain_template(), header, one, packed, second)


def test_openssl_sees_when_the_wrong_parts_are_joined(pki: GetPKI, tmp_path: Path) -> None:
    """An answer of one serial joined to another's CertID, header or template does not verify: the oracle is awake."""
    ca = pki("p256", "p256")
    template = template_of(ca)
    now = int(datetime.now(UTC).timestamp())
    header = AnswerHeader(now - 60, now + DAY_S, now, SIGNER_ID)
    cert_id_der = cert_id_of(ca, 5)
    single = encode_single_response(cert_id_der, GOOD, 0, NO_REASON, header.this_update, header.next_update)
    packed = pack_answer(
        0,
        GOOD,
        0,
        NO_REASON,
        False,
        ca.answer_signer.sign(template.tbs_response_data([single], header.produced_at)),
    )
    right = assemble(template, header, cert_id_der, packed)
    assert "Response verify OK" in ask_openssl(right, ca, 5, tmp_path)
    later = AnswerHeader(now - 59, now + DAY_S, now, SIGNER_ID)
    for wrong in (
        assemble(template, header, cert_id_of(ca, 6), packed),
        assemble(template, later, cert_id_der, packed),
        assemble(template_of(pki("p384", "p384")), header, cert_id_der, packed),
    ):
        assert "Response verify OK" not in ask_openssl(wrong, ca, 5, tmp_path)


# --- RFC 6960 §4.2.1 and the profile, clause by clause ---


@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
def test_response_type_is_basic_and_der(pki: GetPKI) -> None:
    """RSP-01: responseType is id-pkix-ocsp-basic and its value the DER of BasicOCSPResponse."""
    served = signed_answer(pki(), 1)
    response = asn1_ocsp.OCSPResponse.load(served, strict=True)
    assert response["response_bytes"]["response_type"].dotted == "1.3.6.1.5.5.7.48.1.1"
    assert response.dump(force=True) == served
    assert read_with_asn1crypto(served).dump(force=True) in served


@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
def test_error_responses_are_five_octets() -> None:
    """RSP-02: An error status has no responseBytes; status 4 is not used, and successful is no error."""
    assert {status: error_response(status).hex() for status in (1, 2, 3, 5, 6)} == {
        1: "30030a0101",
        2: "30030a0102",
        3: "30030a0103",
        5: "30030a0105",
        6: "30030a0106",
    }
    for status in (1, 2, 3, 5, 6):
        response = ocsp.load_der_ocsp_response(error_response(status))
        assert response.response_status.value == status
        assert lint(error_response(status)) == []
    for status in (-1, 0, 4, 7, 256, 2**31 - 1):
        with pytest.raises(ValueError, match="must be 1, 2, 3, 5 or 6"):
            error_response(status)


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
def test_version_v1_is_left_out(pki: GetPKI) -> None:
    """RSP-03: ResponseData's version is v1, which DER leaves out: the first field is the ResponderID."""
    tbs = read_with_asn1crypto(signed_answer(pki(), 1))["tbs_response_data"]
    assert tbs["version"].native == "v1"
    assert tbs.contents[0] == 0xA2


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
@pytest.mark.clause("RFC 9919", "3.2.2", "MUST")
def test_responder_id_is_by_key(key_type: str, pki: GetPKI) -> None:
    """RSP-04, RSP-05: ResponderID is byKey, the SHA-1 of the key that signed, whatever the CertID's hash."""
    ca = pki(key_type, key_type)
    for hash_name in HASH_SIZES:
        served = signed_answer(ca, 1, hash_name)
        assert b"\xa2\x16\x04\x14" + ca.signer.key_hash in served
        response = read_with_cryptography(served)
        assert response.responder_name is None
        assert response.responder_key_hash == ca.signer.key_hash


@pytest.mark.clause("RFC 6960", "4.2.1", "SHOULD")
def test_certs_is_absent_where_the_ca_signs(pki: GetPKI) -> None:
    """RSP-06: Without certificates the field certs is absent, not an empty SEQUENCE."""
    ca = pki("p256", None)
    served = signed_answer(ca, 1)
    assert read_with_cryptography(served).certificates == []
    basic = read_with_asn1crypto(served)
    assert basic["certs"].native is None
    assert basic.contents.endswith(basic["signature"].dump())


@pytest.mark.clause("RFC 9919", "3.2.2", "MUST")
def test_certs_holds_the_delegated_signer_alone(pki: GetPKI) -> None:
    """RSP-07: Where a delegate signs, its certificate is in certs; nothing else is."""
    ca = pki("rsa2048", "p256")
    assert read_with_cryptography(signed_answer(ca, 1)).certificates == [ca.signer.certificate]


@pytest.mark.clause("RFC 9919", "3.2.1", "SHOULD")
def test_one_single_response_or_two_of_one_certificate(pki: GetPKI, tmp_path: Path) -> None:
    """RSP-08: An answer holds one SingleResponse; one with the SHA-1 and SHA-256 CertIDs of a certificate is readable."""
    ca = pki()
    assert len(list(read_with_cryptography(signed_answer(ca, 9)).responses)) == 1
    now = int(datetime.now(UTC).timestamp())
    singles = [
        encode_single_response(cert_id_of(ca, 9, hash_name), GOOD, 0, NO_REASON, now - 60, now + DAY_S)
        for hash_name in ("sha1", "sha256")
    ]
    template = template_of(ca)
    tbs = template.tbs_response_data(singles, now)
    both = template.response(tbs, ca.answer_signer.sign(tbs))
    check_signature(both, ca)
    assert lint(both) == []
    for hash_name in ("sha1", "sha256"):
        said = ask_openssl(both, ca, 9, tmp_path, hash_name)
        assert "Response verify OK" in said, said
        assert "0x9: good" in said, said


@pytest.mark.clause("RFC 9919", "3.2.1", "SHOULD NOT")
def test_response_extensions_are_absent_unless_given(pki: GetPKI) -> None:
    """RSP-09: Without a nonce there are no responseExtensions, not even an empty SEQUENCE."""
    served = signed_answer(pki(), 1)
    basic = read_with_asn1crypto(served)
    tbs = basic["tbs_response_data"]
    assert tbs["response_extensions"].native is None
    assert tbs.contents.endswith(tbs["responses"].dump())
    assert len(read_with_cryptography(served).extensions) == 0


@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
@pytest.mark.parametrize(
    ("cert_status", "reason", "octets"),
    [
        (GOOD, NO_REASON, "8000"),
        (UNKNOWN, NO_REASON, "8200"),
        (REVOKED, NO_REASON, "a111180f32303236313030323033303430355a"),
        *((REVOKED, reason, f"a116180f32303236313030323033303430355aa0030a01{reason:02x}") for reason in REASONS),
    ],
)
def test_cert_status_octets(cert_status: int, reason: int, octets: str) -> None:
    """RSP-11: good and unknown are IMPLICIT NULL; the reason is an EXPLICIT ENUMERATED in an IMPLICIT RevokedInfo."""
    cert_id_der = any_cert_id()
    single = encode_single_response(cert_id_der, cert_status, REVOKED_AT, reason, THIS_UPDATE, THIS_UPDATE + DAY_S)
    times = "180f32303236313132303130303030305a" + "a011" + "180f32303236313132313130303030305a"
    assert single[2:].hex() == cert_id_der.hex() + octets + times


@pytest.mark.clause("RFC 5280", "5.3.1", "SHOULD")
@pytest.mark.parametrize("reason", [-2, 0, 7, 8, 11, 255, 256])
def test_reasons_that_are_never_shown(reason: int) -> None:
    """Unspecified is left out by giving no reason; 7 is unused, removeFromCRL is for deltas: all are refused."""
    with pytest.raises(ValueError, match="reason is"):
        encode_single_response(any_cert_id(), REVOKED, REVOKED_AT, reason, THIS_UPDATE, THIS_UPDATE)
    with pytest.raises(ValueError, match="reason is"):
        pack_answer(0, REVOKED, REVOKED_AT, reason, False, b"s")


@pytest.mark.clause("RFC 6960", "4.4.8", "MUST")
@pytest.mark.clause("RFC 6960", "2.2", "MUST")
def test_extended_revoke_octets(pki: GetPKI, tmp_path: Path) -> None:
    """STS-03, EXT-08: A serial that nobody issued is on hold since 1970, and the response says extended-revoke."""
    ca = pki()
    now = int(datetime.now(UTC).timestamp())
    single = encode_single_response(cert_id_of(ca, 77), REVOKED, 0, 6, now - 60, now + DAY_S)
    template = template_of(ca)
    tbs = template.tbs_response_data([single], now, [EXTENDED_REVOKE_DER])
    served = template.response(tbs, ca.answer_signer.sign(tbs))
    assert bytes.fromhex("a116180f31393730303130313030303030305aa0030a0106") in served
    # Not critical, value NULL, in responseExtensions and not in singleExtensions.
    assert bytes.fromhex("300f06092b060105050730010904020500") == EXTENDED_REVOKE_DER
    assert tbs.endswith(b"\xa1\x13\x30\x11" + EXTENDED_REVOKE_DER)
    read = read_with_asn1crypto(served)["tbs_response_data"]
    assert [e["extn_id"].dotted for e in read["response_extensions"]] == ["1.3.6.1.5.5.7.48.1.9"]
    assert read["responses"][0]["single_extensions"].native is None
    check_signature(served, ca)
    assert lint(served) == []
    assert "0x4D: revoked" in ask_openssl(served, ca, 77, tmp_path).replace("0x4d", "0x4D")


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize("size", [1, 15, 16, 32, 33, 127, 128])
def test_nonce_is_repeated_byte_for_byte(size: int, pki: GetPKI) -> None:
    """NON-03: The response's extnValue is the request's, the DER of an OCTET STRING; it is not wrapped again."""
    nonce_octets = reference.tlv(0x04, random.Random(size).randbytes(size))
    encoded = encode_response_extension_nonce(nonce_octets)
    assert encoded == reference.extension("1.3.6.1.5.5.7.48.1.2", nonce_octets)
    ca = pki()
    template = template_of(ca)
    single = encode_single_response(cert_id_of(ca, 1), GOOD, 0, NO_REASON, THIS_UPDATE, THIS_UPDATE + DAY_S)
    tbs = template.tbs_response_data([single], THIS_UPDATE, [encoded])
    served = template.response(tbs, ca.answer_signer.sign(tbs))
    shown = read_with_asn1crypto(served)["tbs_response_data"]["response_extensions"][0]
    assert shown["critical"].native is False
    assert shown["extn_value"].contents == nonce_octets
    check_signature(served, ca)
    assert lint(served) == []


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
@pytest.mark.parametrize(
    "nonce_octets",
    [
        b"",
        b"\x04\x00",
        reference.tlv(0x04, bytes(129)),
        bytes(32),
        b"\x04\x02\x01",
        b"\x04\x01\x01\x00",
        b"\x24\x03\x04\x01\x01",
    ],
)
def test_nonces_that_are_never_signed(nonce_octets: bytes) -> None:
    """NON-02: What is not an OCTET STRING of 1 to 128 octets never gets into signed bytes."""
    with pytest.raises(ValueError, match="1 to 128 octets"):
        encode_response_extension_nonce(nonce_octets)


@pytest.mark.clause("RFC 6960", "4.4.4", "MUST")
def test_archive_cutoff_is_a_single_extension(pki: GetPKI) -> None:
    """EXT-03: archiveCutoff is a singleExtension, not critical, its value a GeneralizedTime."""
    ca = pki()
    cutoff = THIS_UPDATE - 30 * DAY_S
    served = signed_answer(ca, 3, cert_status=GOOD, archive_cutoff=cutoff)
    tbs = read_with_asn1crypto(served)["tbs_response_data"]
    assert tbs["response_extensions"].native is None
    (shown,) = tbs["responses"][0]["single_extensions"]
    assert shown["extn_id"].dotted == "1.3.6.1.5.5.7.48.1.6"
    assert shown["critical"].native is False
    assert shown["extn_value"].contents == b"\x18\x0f20261021100000Z"
    assert lint(served) == []
    # The packed answer says whether it was signed with the extension: both kinds stand under one header.
    assert signed_answer(ca, 3, archive_cutoff=-1) != served


@pytest.mark.clause("RFC 6962", "3.3", "MAY")
@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(
            reference.sequence(
                reference.oid("1.2.3.4"), reference.tlv(0x01, b"\xff"), reference.tlv(0x04, b"\x05\x00")
            ),
            id="critical",
        ),
        pytest.param(
            reference.sequence(
                reference.oid("1.2.3.4"), reference.tlv(0x01, b"\x00"), reference.tlv(0x04, b"\x05\x00")
            ),
            id="critical-false-written-out",
        ),
        pytest.param(reference.sequence(reference.oid("1.2.3.4")), id="no-value"),
        pytest.param(
            reference.sequence(reference.oid("1.2.3.4"), reference.tlv(0x04, b""), reference.tlv(0x04, b"")),
            id="two-values",
        ),
        pytest.param(EXTENDED_REVOKE_DER + b"\x00", id="trailing-octet"),
        pytest.param(reference.tlv(0x31, EXTENDED_REVOKE_DER[2:]), id="not-a-sequence"),
    ],
)
def test_no_critical_or_malformed_extension_is_ever_emitted(extension: bytes) -> None:
    """EXT-09: Critical extensions make JDK fail, so the codec refuses to build a response with one."""
    single = encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, THIS_UPDATE, THIS_UPDATE)
    with pytest.raises(ValueError, match="extensions must be"):
        plain_template().tbs_response_data([single], THIS_UPDATE, [extension])


@pytest.mark.clause("RFC 9919", "3.2.4", "MUST")
def test_next_update_is_always_there() -> None:
    """TIM-02: Every answer has nextUpdate, and not before thisUpdate: the codec has no way to leave it out."""
    served = assemble(
        plain_template(()),
        AnswerHeader(THIS_UPDATE, THIS_UPDATE, THIS_UPDATE, SIGNER_ID),
        any_cert_id(),
        pack_answer(0, GOOD, 0, NO_REASON, False, b"s"),
    )
    assert read_with_cryptography(served).next_update_utc == datetime.fromtimestamp(THIS_UPDATE, UTC)
    with pytest.raises(ValueError, match="is before this_update"):
        AnswerHeader(THIS_UPDATE, THIS_UPDATE - 1, THIS_UPDATE, SIGNER_ID)
    with pytest.raises(ValueError, match="is before this_update"):
        encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, THIS_UPDATE, THIS_UPDATE - 1)


def times_of(single: bytes) -> tuple[bytes, bytes]:
    """Cut thisUpdate and nextUpdate out of a SingleResponse without extensions."""
    return single[-36:-19], single[-17:]


@pytest.mark.clause("RFC 9919", "3.2.4", "MUST")
def test_times_are_generalized_time_zulu_without_fraction() -> None:
    """TIM-03: All times are YYYYMMDDHHMMSSZ, right on both sides of every day, month, leap day and century to 9999."""
    moments = {0, 1, LAST_SECOND - 1, LAST_SECOND}
    for year in (*range(1970, 2105), 2199, 2200, 2399, 2400, 2401, 2800, 3000, 4000, 9996, 9999):
        for month in range(1, 13):
            first = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
            moments |= {first - 1, first} - {-1}
        if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
            leap_day = int(datetime(year, 2, 29, tzinfo=UTC).timestamp())
            moments |= {leap_day - 1, leap_day, leap_day + DAY_S - 1, leap_day + DAY_S}
    chance = random.Random(20260101)
    moments |= {chance.randrange(LAST_SECOND + 1) for _ in range(20_000)}
    cert_id_der = any_cert_id()
    for moment in moments:
        expected = reference.generalized_time(moment)
        assert len(expected) == 17
        single = encode_single_response(cert_id_der, GOOD, 0, NO_REASON, moment, LAST_SECOND)
        assert times_of(single) == (expected, reference.generalized_time(LAST_SECOND))


@pytest.mark.parametrize("outside", [-2, -(2**40), LAST_SECOND + 1, 2**40, 2**62])
def test_times_outside_1970_to_9999_are_refused(outside: int) -> None:
    """A time that GeneralizedTime or this program cannot spell is an error in every place that takes one."""
    for call in (
        lambda: encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, outside, LAST_SECOND),
        lambda: encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, THIS_UPDATE, outside),
        lambda: encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, 0, 0, outside),
        lambda: encode_single_response(any_cert_id(), REVOKED, outside, NO_REASON, 0, 0),
        lambda: AnswerHeader(outside, LAST_SECOND, 0, SIGNER_ID),
        lambda: AnswerHeader(0, outside, 0, SIGNER_ID),
        lambda: AnswerHeader(0, 0, outside, SIGNER_ID),
        lambda: AnswerHeader(0, 0, 0, SIGNER_ID, outside),
        lambda: plain_template().tbs_response_data([CERT], outside),
        lambda: pack_answer(0, REVOKED, outside, NO_REASON, False, b"s"),
    ):
        with pytest.raises(ValueError, match="within the years 1970 to 9999"):
            call()


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize("hash_name", HASH_SIZES)
def test_cert_id_octets(hash_name: str, pki: GetPKI) -> None:
    """REQ-05: CertID holds the hash of the issuer's Name and of its key's bits, as cryptography computes them."""
    ca = pki("rsa2048")
    leaf = ca.leaves[0]
    algorithm = {
        "sha1": hashes.SHA1(),
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }[hash_name]
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf.certificate, ca.certificate, algorithm).build()
    encoded = cert_id_of(ca, leaf.serial_number, hash_name)
    read = asn1_ocsp.CertId.load(encoded, strict=True)
    assert read["issuer_name_hash"].native == request.issuer_name_hash
    assert read["issuer_key_hash"].native == request.issuer_key_hash
    assert read["serial_number"].native == leaf.serial_number
    assert read["hash_algorithm"]["algorithm"].native == hash_name
    assert read["hash_algorithm"]["parameters"].dump() == b"\x05\x00"


@pytest.mark.clause("RFC 5280", "4.1.2.2", "MUST")
@pytest.mark.parametrize("serial_number", [0, 1, 127, 128, 255, 256, -1, -128, -129, 2**159 - 1, 2**160 - 1])
def test_serials_keep_their_octets(serial_number: int) -> None:
    """REQ-09: A serial is repeated as it stands, with the 00 before a high bit, whatever its sign and length."""
    octets = serial_octets(serial_number)
    encoded = any_cert_id(serial=octets)
    assert encoded == reference.cert_id("sha1", bytes(20), bytes(20), octets)
    assert asn1_ocsp.CertId.load(encoded, strict=True)["serial_number"].native == serial_number


@pytest.mark.parametrize("octets", [b"", b"\x00\x01", b"\x00\x7f", b"\xff\x80", b"\xff\xff"])
def test_serials_that_are_not_minimal_are_refused(octets: bytes) -> None:
    """X.690 §8.3.2: two spellings of one serial would be two keys of one certificate."""
    with pytest.raises(ValueError, match="minimal contents octets"):
        any_cert_id(serial=octets)


def test_cert_ids_that_cannot_be() -> None:
    """An unknown hash algorithm and a hash of the wrong length are refused."""
    with pytest.raises(ValueError, match="sha1, sha256, sha384, sha512"):
        encode_cert_id("md5", bytes(16), bytes(16), b"\x01")
    for sizes in ((19, 20), (20, 32), (32, 32)):
        with pytest.raises(ValueError, match="a sha1 hash has 20 octets"):
            encode_cert_id("sha1", bytes(sizes[0]), bytes(sizes[1]), b"\x01")


# --- packed answers, headers, templates: round trips and malformed input ---

times = st.integers(0, LAST_SECOND)
statuses = st.one_of(
    st.tuples(st.sampled_from((GOOD, UNKNOWN)), st.just(0), st.just(NO_REASON)),
    st.tuples(st.just(REVOKED), times, st.sampled_from((NO_REASON, *REASONS))),
)
ordered_times = st.tuples(times, times).map(sorted)
sequences = st.binary(max_size=300).map(reference.sequence)


@given(st.integers(0, 15), statuses, st.booleans(), st.binary(min_size=1, max_size=5000))
def test_packed_answers_round_trip(slot: int, status: tuple[int, int, int], has_cutoff: bool, signature: bytes) -> None:
    """What was packed is unpacked, in the documented layout."""
    cert_status, revoked_at, reason = status
    packed = pack_answer(slot, cert_status, revoked_at, reason, has_cutoff, signature)
    own = revoked_at.to_bytes(5, "big") + bytes([reason & 0xFF]) if cert_status == REVOKED else b""
    assert packed == bytes([slot | cert_status << 4 | has_cutoff << 6]) + own + signature
    answer = unpack_answer(packed)
    assert (answer.slot, answer.has_archive_cutoff, answer.signature) == (slot, has_cutoff, signature)
    assert (answer.cert_status, answer.revoked_at, answer.reason) == status


@given(ordered_times, times, st.binary(min_size=8, max_size=8), st.one_of(st.just(-1), times))
def test_headers_round_trip(update: list[int], produced_at: int, signer: bytes, cutoff: int) -> None:
    """What a header was made of is read back from its bytes."""
    header = AnswerHeader(update[0], update[1], produced_at, signer.hex(), cutoff)
    read = AnswerHeader.from_bytes(header.to_bytes())
    for one in (header, read):
        assert (one.this_update, one.next_update) == tuple(update)
        assert (one.produced_at, one.signer_id, one.archive_cutoff) == (produced_at, signer.hex(), cutoff)
    assert read.to_bytes() == header.to_bytes()


@given(st.binary(min_size=20, max_size=20), sequences, st.lists(sequences, max_size=15))
def test_templates_round_trip(key_hash: bytes, algorithm: bytes, certs: list[bytes]) -> None:
    """What a template was made of is read back from its bytes."""
    template = ResponseTemplate(key_hash, algorithm, certs)
    read = ResponseTemplate.from_bytes(template.to_bytes())
    for one in (template, read):
        assert one.responder_key_hash == key_hash
        assert one.signature_algorithm_der == algorithm
        assert one.certs_der == tuple(certs)
    assert read.to_bytes() == template.to_bytes()


@given(
    st.binary(min_size=20, max_size=20),
    sequences,
    st.lists(sequences, max_size=3),
    st.sampled_from(sorted(HASH_SIZES)),
    st.integers(-(2**175), 2**175),
    statuses,
    ordered_times,
    times,
    st.one_of(st.just(-1), times),
    st.binary(min_size=1, max_size=700),
    st.booleans(),
)
@settings(max_examples=200)
def test_assembling_is_encoding(
    key_hash: bytes,
    algorithm: bytes,
    certs: list[bytes],
    hash_name: str,
    serial_number: int,
    status: tuple[int, int, int],
    update: list[int],
    produced_at: int,
    cutoff: int,
    signature: bytes,
    dual: bool,
) -> None:
    """For any values at all, assemble gives the bytes of the obvious encoder: all length forms are met."""
    names = ("sha1", "sha256") if dual else (hash_name,)
    digests = {name: bytes(range(HASH_SIZES[name])) for name in names}
    serial = serial_octets(serial_number)
    cert_ids = [encode_cert_id(name, digest, digest[::-1], serial) for name, digest in digests.items()]
    served = assemble(
        ResponseTemplate(key_hash, algorithm, certs),
        AnswerHeader(update[0], update[1], produced_at, SIGNER_ID, cutoff),
        cert_ids[0],
        pack_answer(0, *status, cutoff >= 0, signature, dual),
        *cert_ids[1:],
    )
    singles = [
        reference.single_response(reference.cert_id(name, digest, digest[::-1], serial), *status, *update, cutoff)
        for name, digest in digests.items()
    ]
    tbs = reference.response_data(key_hash, produced_at, singles)
    assert served == reference.ocsp_response(tbs, algorithm, signature, certs)


@pytest.mark.parametrize("size", [0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000])
def test_lengths_take_the_fewest_octets(size: int) -> None:
    """X.690 §10.1: at each border of the length forms the codec writes what the obvious encoder writes."""
    certificate = reference.tlv(0x30, bytes(size))
    signature = bytes(min(size, 0xFFFF))
    single = encode_single_response(any_cert_id(), GOOD, 0, NO_REASON, 0, 1)
    template = plain_template((certificate,))
    tbs = template.tbs_response_data([single], 2)
    assert template.response(tbs, signature) == reference.ocsp_response(
        tbs, template.signature_algorithm_der, signature, [certificate]
    )


def mutants(octets: bytes, count: int, seed: int) -> list[bytes]:
    """Break bytes in every small way: cut at every offset, lengthened, and octets changed at random."""
    chance = random.Random(seed)
    broken = [octets[:size] for size in range(min(len(octets), 200))] + [octets + b"\x00", octets + octets]
    while len(broken) < count:
        changed = bytearray(octets)
        for _ in range(chance.randint(1, 3)):
            # The structure stands at the front: hit it more often than the signature and the certificates.
            place = chance.randrange(min(len(changed), chance.choice((8, 32, len(changed)))))
            changed[place] = chance.choice((0, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        broken.append(bytes(changed))
    return broken


def test_malformed_packed_answers_are_refused_or_mean_what_they_say() -> None:
    """Any bytes either are no packed answer, or pack again to the same bytes; assembling them never crashes."""
    template = plain_template()
    header = AnswerHeader(THIS_UPDATE, THIS_UPDATE + DAY_S, THIS_UPDATE, SIGNER_ID, 0)
    cert_ids = (any_cert_id(), any_cert_id("sha256"))
    refused = 0
    for seed, (cert_status, reason) in enumerate(STATUSES):
        packed = pack_answer(3, cert_status, REVOKED_AT, reason, True, bytes(71), seed % 2 == 0)
        for octets in mutants(packed, 1000, seed):
            try:
                answer = unpack_answer(octets)
            except ValueError:
                refused += 1
                with pytest.raises(ValueError, match="not a packed answer"):
                    assemble(template, header, cert_ids[0], octets)
                continue
            assert octets == pack_answer(
                answer.slot,
                answer.cert_status,
                answer.revoked_at,
                answer.reason,
                answer.has_archive_cutoff,
                answer.signature,
                answer.is_dual,
            )
            served = assemble(template, header, cert_ids[0], octets, cert_ids[1] if answer.is_dual else None)
            assert asn1_ocsp.OCSPResponse.load(served, strict=True).dump() == served
    assert refused > 500


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00", id="no-signature"),
        pytest.param(b"\x80", id="dual-no-signature"),
        pytest.param(b"\x30s", id="status-3"),
        pytest.param(b"\xb0s", id="dual-status-3"),
        pytest.param(b"\x10" + bytes(5) + b"\xff", id="revoked-no-signature"),
        pytest.param(b"\x10" + bytes(5), id="revoked-cut-short"),
        pytest.param(b"\x10" + bytes(5) + b"\x00s", id="reason-unspecified"),
        pytest.param(b"\x10" + bytes(5) + b"\x07s", id="reason-7"),
        pytest.param(b"\x10" + bytes(5) + b"\x0bs", id="reason-11"),
        pytest.param(b"\x10" + b"\xff" * 5 + b"\xffs", id="after-9999"),
    ],
)
def test_packed_answers_that_cannot_be(packed: bytes) -> None:
    """The store's bytes are not trusted: each rule of the format is checked on the way out."""
    with pytest.raises(ValueError, match="not a packed answer"):
        unpack_answer(packed)


def test_malformed_headers_are_refused_or_mean_what_they_say() -> None:
    """Truncation, trailing octets, other versions and impossible values are ValueErrors; the rest reads back."""
    for seed, cutoff in enumerate((-1, 0, THIS_UPDATE)):
        octets = AnswerHeader(THIS_UPDATE, THIS_UPDATE + DAY_S, THIS_UPDATE, SIGNER_ID, cutoff).to_bytes()
        for broken in mutants(octets, 1500, seed):
            try:
                header = AnswerHeader.from_bytes(broken)
            except ValueError:
                continue
            assert header.to_bytes() == broken
        for size in range(len(octets)):
            with pytest.raises(ValueError, match="answer header"):
                AnswerHeader.from_bytes(octets[:size])
        with pytest.raises(ValueError, match="octets, not"):
            AnswerHeader.from_bytes(octets + b"\x00")
        for version in (0, 2, 255):
            with pytest.raises(ValueError, match="version"):
                AnswerHeader.from_bytes(bytes([version]) + octets[1:])


def test_malformed_templates_are_refused_or_mean_what_they_say() -> None:
    """Truncation at every octet, trailing octets, other versions and DER that is none are ValueErrors."""
    for seed, certs in enumerate(((), (CERT,), (CERT, reference.sequence()))):
        octets = plain_template(certs).to_bytes()
        for broken in mutants(octets, 2000, seed):
            try:
                template = ResponseTemplate.from_bytes(broken)
            except ValueError:
                continue
            assert template.to_bytes() == broken
        for size in range(len(octets)):
            with pytest.raises(ValueError, match=r"template|SEQUENCE"):
                ResponseTemplate.from_bytes(octets[:size])
        with pytest.raises(ValueError, match="trailing octets"):
            ResponseTemplate.from_bytes(octets + b"\x00")
        for version in (0, 2, 255):
            with pytest.raises(ValueError, match="version"):
                ResponseTemplate.from_bytes(bytes([version]) + octets[1:])


def test_templates_and_responses_that_cannot_be() -> None:
    """A wrong key hash, DER that is no SEQUENCE, no SingleResponse, no signature: refused where they come in."""
    algorithm = SIGNATURE_ALGORITHM_DER["p256"]
    for size in (0, 19, 21, 32):
        with pytest.raises(ValueError, match="20 octets"):
            ResponseTemplate(bytes(size), algorithm, [])
    for der in (b"", b"\x30", b"\x31\x00", b"\x30\x00\x00", b"\x30\x81\x00", b"\x30\x80\x00\x00"):
        for call in (
            lambda der=der: ResponseTemplate(KEY_HASH, der, []),
            lambda der=der: ResponseTemplate(KEY_HASH, algorithm, [der]),
            lambda der=der: plain_template().tbs_response_data([der], 0),
            lambda der=der: plain_template().response(der, b"s"),
            lambda der=der: encode_single_response(der, GOOD, 0, NO_REASON, 0, 0),
        ):
            with pytest.raises(ValueError, match="must be the DER of one SEQUENCE"):
                call()
        with pytest.raises(ValueError, match="must be the DER of one CertID"):
            assemble(plain_template(), AnswerHeader(0, 0, 0, SIGNER_ID), der, b"\x00s")
    with pytest.raises(ValueError, match="at most 15"):
        ResponseTemplate(KEY_HASH, algorithm, [CERT] * 16)
    with pytest.raises(ValueError, match="larger than 65535"):
        ResponseTemplate(KEY_HASH, reference.sequence(bytes(0xFFFF)), [])
    with pytest.raises(ValueError, match="at least one certificate"):
        plain_template().tbs_response_data([], 0)
    with pytest.raises(ValueError, match="signature is empty"):
        plain_template().response(CERT, b"")
    with pytest.raises(ValueError, match="signature is empty"):
        pack_answer(0, GOOD, 0, NO_REASON, False, b"")
    for slot in (-1, 16):
        with pytest.raises(ValueError, match="must be 0 to 15"):
            pack_answer(slot, GOOD, 0, NO_REASON, False, b"s")
    for cert_status in (-1, 3):
        with pytest.raises(ValueError, match="cert_status is"):
            pack_answer(0, cert_status, 0, NO_REASON, False, b"s")
        with pytest.raises(ValueError, match="cert_status is"):
            encode_single_response(any_cert_id(), cert_status, 0, NO_REASON, 0, 0)
    for signer_id in ("", "0" * 15, "0" * 17, "G" * 16, "ABCDEF0123456789", "é" * 16):
        with pytest.raises(ValueError, match="16 lower-case hex digits"):
            AnswerHeader(0, 0, 0, signer_id)


def test_an_answer_with_archive_cutoff_needs_a_header_with_one() -> None:
    """EXT-03's value stands in the header: without it the signed bytes cannot be made, and nothing else is served."""
    packed = pack_answer(0, GOOD, 0, NO_REASON, True, b"s")
    with pytest.raises(ValueError, match="archiveCutoff"):
        assemble(plain_template(), AnswerHeader(0, 0, 0, SIGNER_ID), any_cert_id(), packed)


def test_values_of_the_wrong_type_are_type_errors() -> None:
    """None, text and memory that is not bytes never reach the C code; no object exists half made."""
    header = AnswerHeader(0, 0, 0, SIGNER_ID)
    for wrong in (None, "30", bytearray(b"\x30\x00"), memoryview(b"\x30\x00"), 5):
        for call in (
            lambda wrong=wrong: unpack_answer(wrong),
            lambda wrong=wrong: assemble(plain_template(), header, wrong, b"\x00s"),
            lambda wrong=wrong: assemble(plain_template(), header, any_cert_id(), wrong),
            lambda wrong=wrong: assemble(wrong, header, any_cert_id(), b"\x00s"),
            lambda wrong=wrong: assemble(plain_template(), wrong, any_cert_id(), b"\x00s"),
            lambda wrong=wrong: ResponseTemplate.from_bytes(wrong),
            lambda wrong=wrong: AnswerHeader.from_bytes(wrong),
            lambda wrong=wrong: ResponseTemplate(KEY_HASH, CERT, [wrong]),
            lambda wrong=wrong: plain_template().tbs_response_data([wrong], 0),
            lambda wrong=wrong: plain_template().tbs_response_data([CERT], 0, [wrong]),
            lambda wrong=wrong: encode_response_extension_nonce(wrong),
        ):
            with pytest.raises(TypeError):
                call()
    for kind in (ResponseTemplate, AnswerHeader):
        with pytest.raises(TypeError):
            kind.__new__(kind)
        with pytest.raises(TypeError):
            kind()
    with pytest.raises(AttributeError):
        header.next_update = LAST_SECOND
