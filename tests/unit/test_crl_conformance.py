"""What no linter looks at, octet by octet, in the CRLs that Revocast makes.

Parsed by asn1crypto and compared with what tests/reference spells out. What clients and linters say is in
tests/clients/test_crl_clients.py.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from responder.crl.published import NO_NEXT_UPDATE
from tests.crl_oracles import read_strictly
from tests.crl_room import DELTA_URL, SHARDS, URL, CRLRoom, records_of, shard_url
from tests.pki import SIGNATURE_ALGORITHM_DER, make_ca, serial_octets
from tests.reference import crl as spelled
from tests.reference.der import tlv

AKI, NUMBER, DELTA, IDP = "2.5.29.35", "2.5.29.20", "2.5.29.27", "2.5.29.28"
FRESHEST, EXPIRED_CERTS, NEXT_PUBLISH = "2.5.29.46", "2.5.29.60", "1.3.6.1.4.1.311.21.4"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> CRLRoom:
    return CRLRoom.make(tmp_path_factory.mktemp("conformance"), "p256")


def extensions(crl_der: bytes) -> dict[str, tuple[bool, bytes]]:
    """Return criticality and DER of each extension."""
    found = {}
    for one in read_strictly(crl_der)["tbs_cert_list"]["crl_extensions"]:
        assert one["extn_id"].dotted not in found, "once each"
        found[one["extn_id"].dotted] = (bool(one["critical"].native), bytes(one["extn_value"].contents))
    return found


def entries(crl_der: bytes) -> list[Any]:
    """Return the entries as asn1crypto reads them; the list is absent where there are none."""
    revoked = read_strictly(crl_der)["tbs_cert_list"]["revoked_certificates"]
    found = list(revoked)
    assert bool(found) == bool(revoked.dump()), "never an empty SEQUENCE"
    return found


@pytest.mark.parametrize("key_type", ["rsa2048", "rsa2048pss", "p256", "p384"])
@pytest.mark.clause("RFC 5280", "5.1.1.2", "MUST")
@pytest.mark.clause("BR", "7.1.3.2", "MUST")
def test_version_algorithm_and_issuer(key_type: str, tmp_path: Path) -> None:
    """CRL-01, CRL-02, CRL-03, BR-11: version 2; one AlgorithmIdentifier twice, and the subject, octet by octet."""
    # A subject in strings of four kinds, which whoever encodes it again would change.
    kinds = x509.name._ASN1Type
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "NL", kinds.PrintableString),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Trust", kinds.T61String),
            x509.NameAttribute(NameOID.COMMON_NAME, "Example Odd CA", kinds.BMPString),
        ]
    )
    ca = make_ca(tmp_path, key_type, subject=subject)
    crl = read_strictly(CRLRoom(ca, tmp_path).issue("odd", 1, {}).der)
    tbs = crl["tbs_cert_list"]
    assert tbs["version"].native == "v2"
    expected = SIGNATURE_ALGORITHM_DER[key_type]
    assert tbs["signature"].dump() == crl["signature_algorithm"].dump() == expected
    assert tbs["issuer"].dump() == ca.subject_der
    ca.verify(crl["signature"].native, tbs.dump())


@pytest.mark.clause("RFC 5280", "5.2.1", "MUST")
@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_extensions_of_a_full_crl(room: CRLRoom) -> None:
    """CRL-06, CRL-07, IDP-01: keyIdentifier is the CA's subjectKeyIdentifier; a full CRL has a number and no more."""
    key_id = room.ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    found = extensions(room.issue("plain", 2**159 - 1, {5: room.text()}).der)
    assert found == {
        AKI: (False, spelled.key_identifier(key_id)),
        NUMBER: (False, spelled.integer(2**159 - 1)),
    }
    assert len(spelled.integer(2**159 - 1)) == 2 + 20


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
@pytest.mark.clause("RFC 5280", "5.2.6", "MUST NOT")
def test_extensions_of_base_and_delta(room: CRLRoom) -> None:
    """DLT-01, DLT-07, DLT-08: a critical deltaCRLIndicator in the delta, freshestCRL with a URL alone in the base."""
    base = extensions(room.issue("x-base", 20, {}, freshest_url=DELTA_URL).der)
    delta = extensions(room.issue("x-delta", 21, {}, base_number=20).der)
    assert base.keys() == {AKI, NUMBER, FRESHEST}
    assert base[FRESHEST] == (False, tlv(0x30, tlv(0x30, tlv(0xA0, spelled.full_name(DELTA_URL)))))
    assert delta.keys() == {AKI, NUMBER, DELTA}
    assert delta[DELTA] == (True, spelled.integer(20))
    assert delta[NUMBER] == (False, spelled.integer(21))
    assert delta[AKI] == base[AKI]


@pytest.mark.clause("RFC 5280", "5.2.5", "MUST")
@pytest.mark.clause("BR", "7.2.2.1", "MUST")
@pytest.mark.clause("Mozilla", "6.1.2", "MUST")
def test_scope(room: CRLRoom) -> None:
    """IDP-01, IDP-02, IDP-03, IDP-04, DLT-02: critical, the URL of the certificates alone, the flag of the scope alone."""
    for scope, flags in (("all", ()), ("users", (1,)), ("cas", (2,))):
        full = extensions(room.issue("scope", 5, {}, url=URL, scope=scope).der)
        assert full[IDP] == (True, spelled.distribution_point(URL, flags=flags))
        delta = extensions(room.issue("scope-delta", 6, {}, base_number=5, url=URL, scope=scope).der)
        assert delta[IDP] == full[IDP], "of the same scope, and with the base's URL"


@pytest.mark.clause("BR", "7.2.2.1", "MUST")
def test_a_certificate_names_its_shard(room: CRLRoom) -> None:
    """IDP-02: the URL in a certificate's cRLDistributionPoints is in its shard's CRL, octet by octet."""
    for serial in (0x4000_0000_0000_0001, 0x4000_0000_0000_0002, 0xF000_0000_0000_0003):
        shard = serial % SHARDS
        leaf = room.leaf(f"names-{serial:x}", shard_url(shard), serial)
        (place,) = leaf.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        (name,) = place.full_name or ()
        crl = room.issue(f"names-{shard}", 5, {serial: room.text()}, url=shard_url(shard), shard=shard, shards=SHARDS)
        assert extensions(crl.der)[IDP] == (True, spelled.distribution_point(name.value))
        assert [one["user_certificate"].native for one in entries(crl.der)] == [serial]


@pytest.mark.clause("RFC 5280", "5.1.2.4", "MUST")
@pytest.mark.clause("RFC 5280", "5.1.2.5", "MUST")
@pytest.mark.clause("EN 319 411-1", "CSS-6.3.9-06", "SHALL")
def test_times(room: CRLRoom) -> None:
    """CRL-04, ETS-02: UTCTime through 2049, GeneralizedTime from 2050 on, and the last CRL's nextUpdate 99991231235959Z."""
    end_of_2049 = 2_524_607_999
    for this_update, next_update, expected in (
        (end_of_2049 - 60, end_of_2049, ("491231235859Z", "491231235959Z")),
        (end_of_2049 - 60, end_of_2049 + 1, ("491231235859Z", "20500101000000Z")),
        (end_of_2049 + 1, end_of_2049 + 86_400, ("20500101000000Z", "20500101235959Z")),
        (1_795_000_000, NO_NEXT_UPDATE, ("261118110640Z", "99991231235959Z")),
    ):
        issued = room.issue("times", 5, {}, this_update=this_update, next_update=next_update)
        tbs = read_strictly(issued.der)["tbs_cert_list"]
        assert (tbs["this_update"].dump(), tbs["next_update"].dump()) == tuple(map(spelled.time, expected))


@pytest.mark.clause("EN 319 411-2", "CSS-6.3.10-02", "SHALL")
@pytest.mark.clause("Microsoft", "3.2.3", "SHOULD")
def test_expired_kept_and_next_publication(room: CRLRoom) -> None:
    """ETS-07, DST-06: expiredCertsOnCRL is a GeneralizedTime, Next CRL Publish a Time; neither is critical."""
    issued = room.issue("more", 5, {}, expired_certs_since=1_700_000_000, next_publish=1_795_000_000)
    found = extensions(issued.der)
    assert found[EXPIRED_CERTS] == (False, tlv(0x18, b"20231114221320Z"))
    assert found[NEXT_PUBLISH] == (False, tlv(0x17, b"261118110640Z"))


@pytest.mark.clause("RFC 5280", "5.3.1", "SHOULD")
@pytest.mark.clause("RFC 5280", "5.3.2", "MUST")
@pytest.mark.clause("RFC 5280", "5.1.2.6", "MUST")
def test_entries(room: CRLRoom) -> None:
    """CRL-05, ENT-01, ENT-03, ENT-04, ENT-06: each entry octet by octet; no reason 0, no revocation that lies ahead."""
    now = 1_795_000_000  # 2026-11-18T11:06:40Z
    end = "exp=2049-12-31T23:59:59Z"
    statuses = {
        0x7F: f"revoked 2026-11-01T10:00:00Z unspecified {end}",
        0x80: f"revoked 2026-11-01T10:00:00Z {end}",
        0xF0 << 144: f"revoked 2026-11-02T10:00:00Z keyCompromise {end} invalid=2024-01-02T03:04:05Z",
        3: f"revoked 2026-11-18T11:06:40Z certificateHold {end}",
        4: f"revoked 2026-11-18T11:06:41Z superseded {end}",  # a second ahead: not yet
    }
    invalidity = spelled.extension("2.5.29.24", tlv(0x18, b"20240102030405Z"))
    expected = {
        spelled.entry(0x7F, "261101100000Z"),
        spelled.entry(0x80, "261101100000Z"),
        spelled.entry(0xF0 << 144, "261102100000Z", spelled.reason(1), invalidity),
        spelled.entry(3, "261118110640Z", spelled.reason(6)),
    }
    crl = room.issue("entries", 5, statuses, this_update=now)
    found = entries(crl.der)
    assert {one.dump() for one in found} == expected
    assert len(found) == 4
    assert bytes.fromhex("0a0100") not in crl.der
    assert room.built.soonest_ahead == now + 1
    assert entries(room.issue("none", 5, {4: statuses[4]}, this_update=now).der) == []


@pytest.mark.clause("RFC 5280", "5.3.1", "MUST NOT")
def test_removal_is_for_deltas(room: CRLRoom) -> None:
    """DLT-05: removeFromCRL stands in a delta alone; a full CRL of what is not revoked is refused."""
    released = {5: "good exp=2049-12-31T23:59:59Z"}
    (one,) = entries(room.issue("remove", 6, released, base_number=5).der)
    assert one["crl_entry_extensions"].dump() == tlv(0x30, spelled.reason(8))
    with pytest.raises(ValueError, match="not revoked"):
        room.issue("remove-full", 6, released)


@pytest.mark.clause("BR", "7.2", "MUST")
@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_shards_are_the_full_list(room: CRLRoom) -> None:
    """IDP-07: of 100,000 random serials each is in one shard, ever the same, and all shards together are the full list."""
    rng = random.Random(7)
    text = room.text("superseded")
    serials = {rng.getrandbits(rng.choice([7, 8, 63, 64, 127, 159])) + 1 for _ in range(100_000)}
    shards = 16

    def issue(shard: int, number: int, records: list[bytes]) -> list[int]:
        issued = room.issue("big", number, records, url=URL, shard=shard, shards=shards)
        return [one.serial_number for one in x509.load_der_x509_crl(issued.der)]

    records = records_of(dict.fromkeys(serials, text))
    listed = [issue(shard, 5, records) for shard in range(shards)]
    counts = Counter(serial for shard in listed for serial in shard)
    assert counts.keys() == serials
    assert set(counts.values()) == {1}
    # A year and other certificates later each is where it was.
    later = set(rng.sample(sorted(serials), 500)) | {rng.getrandbits(159) for _ in range(500)}
    records = records_of(dict.fromkeys(later, text))
    for shard, before in enumerate(listed):
        assert set(issue(shard, 800, records)) & serials == set(before) & later


@pytest.mark.clause("RFC 5280", "5.1.2.6", "MUST")
def test_a_serial_is_there_once(room: CRLRoom) -> None:
    """ENT-05, ENT-06: serials that are alike but for a leading zero octet are one; each stands there as in its certificate."""
    crl = room.issue("once", 5, dict.fromkeys((1, 0x80, 0x8000, 0xFF, 0x100), room.text()))
    found = [one["user_certificate"].contents for one in entries(crl.der)]
    assert sorted(found) == sorted(map(serial_octets, (1, 0x80, 0x8000, 0xFF, 0x100)))
