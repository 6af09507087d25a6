"""CRLs as files: built, read back by our reader and by cryptography, signatures of every kind of key."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fastpath.crl_compare import compare_entries
from fastpath.crl_entries import Terms
from responder.crl.builder import CRLHead, build_crl
from responder.crl.extensions import CRLExtensions, authority_key_identifier_of
from responder.crl.independent import independent_parse
from responder.crl.reader import CRLFile
from responder.errors import CRLError, InvariantBroken, SignerUnavailable
from responder.signing.algorithms import scheme_of
from responder.signing.softkey import SoftKeySigner
from tests.crl_records import NOW, Seen, chunks_of, load, seen_by_cryptography
from tests.pki import KEY_TYPES, PKI, SIGNATURE_ALGORITHM_DER, make_ca

DAY_S = 86_400
REVOKED = "revoked 2026-11-01T00:00:00Z"
STATUSES = {
    bytes.fromhex(serial): text
    for serial, text in {
        "01": "revoked 2026-11-01T00:00:00Z",
        "7f": "revoked 2026-11-01T00:00:01Z unspecified exp=2027-01-01T00:00:00Z",
        "0080": "revoked 2026-11-02T00:00:00Z keyCompromise exp=2027-01-01T00:00:00Z invalid=2025-01-01T00:00:00Z",
        "00ff00112233445566778899aabbccddeeff0102": "revoked 2026-11-03T00:00:00Z certificateHold by=operator",
    }.items()
}


def head_of(ca: PKI, number: int = 7, **extensions: Any) -> CRLHead:
    """Return the head of a week's full CRL."""
    key_identifier = authority_key_identifier_of(ca.certificate)
    return CRLHead(ca.subject_der, NOW, NOW + 7 * DAY_S, CRLExtensions(key_identifier, number, **extensions).to_der())


def build(target: Path, ca: PKI, statuses: dict[bytes, str], terms: Terms | None = None, **extensions: Any) -> Any:
    """Build a CRL with the CA's own key."""
    signer = SoftKeySigner(ca.key, "pss" if ca.key_type.endswith("pss") else None)
    head = head_of(ca, **extensions)
    return build_crl(target, head, lambda: iter(chunks_of(statuses)), terms or Terms(NOW), signer)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.mark.clause("RFC 5280", "5.1.1.2", "MUST")
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_kind_of_key_signs_a_crl(tmp_path: Path, key_type: str) -> None:
    """CRL-02: outer and inner AlgorithmIdentifier are the same exact bytes, and the signature verifies."""
    ca = make_ca(tmp_path, key_type)
    target = tmp_path / "full.crl"
    built = build(target, ca, STATUSES)
    data = target.read_bytes()
    assert (built.size, built.sha256, built.entries) == (len(data), hashlib.sha256(data).hexdigest(), 4)
    crl = load(target)
    assert data.count(SIGNATURE_ALGORITHM_DER[key_type]) >= 2
    ca.verify(crl.signature, crl.tbs_certlist_bytes)
    assert sorted(seen_by_cryptography(crl)) == [
        Seen(1, 1793491200, None, None),
        Seen(127, 1793491201, None, None),
        Seen(128, 1793577600, "keyCompromise", 1735689600),
        Seen(0xFF00112233445566778899AABBCCDDEEFF0102, 1793664000, "certificateHold", None),
    ]
    with CRLFile.open(target) as file:
        assert file.faults == []
        assert file.is_signed_by(ca.certificate.public_key())
        other = key_type if not key_type.startswith("rsa") else "rsa2048"  # making large keys takes seconds
        assert not file.is_signed_by(make_ca(tmp_path, other, label="other").certificate.public_key())
        assert compare_entries(file.entry_reader(), chunks_of(STATUSES), Terms(NOW)) == 4
        assert (file.issuer, file.number, file.this_update) == (ca.subject_der, 7, NOW)
        assert file.authority_key_identifier == authority_key_identifier_of(ca.certificate)
    assert independent_parse(target).entries == 4


@pytest.mark.clause("RFC 5280", "5.1.2.6", "MUST")
def test_empty_list_is_absent(tmp_path: Path, ca: PKI) -> None:
    """CRL-05: without revoked certificates there is no revokedCertificates, not an empty one."""
    target = tmp_path / "empty.crl"
    assert build(target, ca, {}).entries == 0
    with CRLFile.open(target) as file:
        assert list(file.entries()) == []
        assert file.faults == []
    assert b"\x30\x00" not in load(target).tbs_certlist_bytes


@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_indirect_crl_names_the_certificates_issuer_once(tmp_path: Path, ca: PKI) -> None:
    """IDP-06: the first entry names the issuer, critically, and it holds for those behind it."""
    other = make_ca(tmp_path, name="Example Other CA").subject_der
    terms = Terms(NOW, certificate_issuer=other)
    target = tmp_path / "indirect.crl"
    build(target, ca, STATUSES, terms, indirect=True)
    with CRLFile.open(target) as file:
        assert file.is_indirect
        entries = [entry for batch in file.entries() for entry in batch]
        assert [entry.certificate_issuer for entry in entries] == [other] * 4
        assert compare_entries(file.entry_reader(), chunks_of(STATUSES), terms) == 4
        with pytest.raises(ValueError, match="another certificateIssuer"):
            compare_entries(file.entry_reader(), chunks_of(STATUSES), Terms(NOW))
    assert target.read_bytes().count(bytes.fromhex("0603551d1d0101ff")) == 1


def test_every_extension_reads_back(tmp_path: Path, ca: PKI) -> None:
    shard, delta = "http://crl.example-trust.com/crl/r1/4.crl", "http://crl.example-trust.com/crl/r1/4-delta.crl"
    target = tmp_path / "all.crl"
    build(
        target,
        ca,
        STATUSES,
        number=(1 << 159) - 1,
        distribution_points=[shard],
        only_users=True,
        freshest=[delta],
        expired_certs_since=0,
        next_publish=NOW + DAY_S,
    )
    with CRLFile.open(target) as file:
        assert file.faults == []
        assert file.number == (1 << 159) - 1
        assert file.freshest == (delta,)
        point = file.issuing_distribution_point
        assert point is not None
        assert [name.value for name in point.full_name or ()] == [shard]
        assert point.only_contains_user_certs
        assert {oid for oid, extension in file.extensions.items() if extension.critical} == {"2.5.29.28"}
        assert file.extensions["2.5.29.60"].value == b"\x18\x0f19700101000000Z"
    build(target, ca, STATUSES, Terms(NOW, delta=True), base_number=3)
    with CRLFile.open(target) as file:
        assert (file.number, file.base_number, file.faults) == (7, 3, [])
        assert file.extensions["2.5.29.27"].critical


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"number": 1 << 159}, "cRLNumber"),
        ({"number": -1}, "cRLNumber"),
        ({"base_number": 7}, "BaseCRLNumber"),
        ({"base_number": 3, "freshest": ["http://a.example/d.crl"]}, "freshestCRL"),
        ({"only_users": True, "only_cas": True}, "CAs only"),
    ],
)
def test_extensions_that_no_crl_may_have_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvariantBroken, match=message):
        CRLExtensions(bytes(20), **{"number": 7, **wrong}).to_der()


@pytest.mark.clause("X.690", "8.1.3", "MUST")
@pytest.mark.parametrize("key_type", ["p256", "ed25519"])
def test_a_crl_of_every_size_begins_with_its_lengths(tmp_path: Path, key_type: str) -> None:
    """CRL-08: whether headers take two octets or six, and whether three of them take the same."""
    ca = make_ca(tmp_path, key_type)
    signer, target = SoftKeySigner(ca.key), tmp_path / "full.crl"
    (few,), (many,) = chunks_of({b"\x01": REVOKED}), chunks_of({b"\x01" + bytes(62) + b"\x01": REVOKED})
    # 20 octets an entry; the last of many is 16 MB, from where headers are as long as there is room for.
    counts = [*range(14), *range(3_260, 3_279), 1_000, (1 << 24) // 83 + 2]
    for count in counts:
        chunk = many if count > 100_000 else few
        built = build_crl(target, head_of(ca), lambda n=count, one=chunk: iter([one] * n), Terms(NOW), signer)
        data = target.read_bytes()
        assert (built.size, built.sha256, built.entries) == (len(data), hashlib.sha256(data).hexdigest(), count)
        ca.verify((crl := load(target)).signature, crl.tbs_certlist_bytes)
        assert independent_parse(target).entries == count
    assert len(data) > 1 << 24


def test_nothing_is_left_of_a_crl_that_cannot_be_built(tmp_path: Path, ca: PKI) -> None:
    class Unwilling(SoftKeySigner):
        def sign_digest(self, digest: bytes) -> bytes:
            raise SignerUnavailable("the token is gone")

    target = tmp_path / "crl" / "full.crl"
    target.parent.mkdir()
    with pytest.raises(SignerUnavailable):
        build_crl(target, head_of(ca), lambda: iter(chunks_of(STATUSES)), Terms(NOW), Unwilling(ca.key))
    with pytest.raises(ValueError, match="serial 05: b'good' is not revoked"):
        build(target, ca, {b"\x05": "good"})
    with pytest.raises(InvariantBroken, match="as of"):
        build(target, ca, STATUSES, Terms(NOW + 1))
    assert list(target.parent.iterdir()) == []


def test_octets_behind_a_crl_and_a_cut_one_are_refused(tmp_path: Path, ca: PKI) -> None:
    target = tmp_path / "full.crl"
    build(target, ca, STATUSES)
    data = target.read_bytes()
    for wrong in (data + b"\x00", data[:-1]):
        target.write_bytes(wrong)
        for read in (CRLFile.open, independent_parse):
            with pytest.raises(CRLError, match=r"full\.crl: .*(behind|cut off)"):
                read(target)


def test_digest_of_a_message_is_signed_as_the_message(tmp_path: Path) -> None:
    for key_type in KEY_TYPES:
        ca = make_ca(tmp_path, key_type)
        padding: Any = "pss" if key_type.endswith("pss") else None
        signer = SoftKeySigner(ca.key, padding)
        assert signer.digest_name == scheme_of(ca.certificate.public_key(), padding).hash_name
        if signer.digest_name:
            ca.verify(signer.sign_digest(hashlib.new(signer.digest_name, b"message").digest()), b"message")
        else:
            with pytest.raises(InvariantBroken, match="whole messages"):
                signer.sign_digest(bytes(32))
        signer.close()
        with pytest.raises((SignerUnavailable, InvariantBroken)):
            signer.sign_digest(bytes(32))
