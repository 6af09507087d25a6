"""Clients and linters believe the CRLs that Revocast makes, and draw the right conclusions from them.

Full, delta and sharded CRLs, by RSA and ECDSA keys, made once. OpenSSL alone combines a base with its delta; NSS takes
neither deltas nor shards, since it knows neither critical extension (RFC 5280 §5.2: then it must not use them).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from responder.cli.crl import crl_app
from responder.crl.reader import CRLFile
from tests import crl_oracles as oracles
from tests.crl_oracles import EXPIRED, OTHER_SCOPE, REVOKED, read_strictly
from tests.crl_room import DELTA_URL, SHARDS, URL, CRLRoom, Issued, shard_url
from tests.pki import DAY_S, Leaf, make_ca

KEY_TYPES = ("rsa2048", "p256")
HOLD = "certificateHold"
KEPT = {"freshest_url": DELTA_URL}  # a full CRL says where its deltas are


@dataclass(frozen=True)
class Crls:
    """One CA's certificates and CRLs, by name."""

    room: CRLRoom
    leaves: dict[str, Leaf]
    issued: dict[str, Issued]

    def openssl(self, leaf: str, *crls: str, after: int = 0, extended: bool = True, deltas: bool = True) -> int:
        """Ask OpenSSL."""
        return oracles.openssl_verify(
            self.room.ca.certificate_path,
            self.leaves[leaf].certificate_path,
            [self.issued[name].pem for name in crls],
            self.room.now + after,
            extended=extended,
            deltas=deltas,
        )


def make(directory: Path, key_type: str) -> Crls:
    """Make one CA's certificates and CRLs."""
    room = CRLRoom.make(directory, key_type)
    leaves = {name: room.leaf(name) for name in ("good", "held", "revoked", "other")}
    for shard in range(SHARDS):
        leaves[f"shard{shard}"] = room.leaf(f"shard{shard}", shard_url(shard), 0x4000_0000_0000_0000 + shard)
    good, held, revoked, other = (leaves[name].serial_number for name in ("good", "held", "revoked", "other"))
    at_first = {held: room.text(HOLD), other: room.text("superseded")}
    released = "good exp=2049-12-31T23:59:59Z"
    changed = {held: released, revoked: room.text("keyCompromise")}
    now_all = {revoked: room.text("keyCompromise"), other: room.text("superseded")}
    some = {
        leaf.serial_number: room.text("keyCompromise") for name, leaf in leaves.items() if name in ("shard1", "shard2")
    }
    issued = {
        "empty": room.issue("empty", 4, {}),
        "too-old": room.issue("too-old", 4, {}, **KEPT),
        "base": room.issue("base", 5, at_first, **KEPT),
        "delta": room.issue("delta", 6, changed, base_number=5),
        "full": room.issue("full", 6, now_all, **KEPT),
        "late-delta": room.issue("late-delta", 6, changed, base_number=5, next_update=room.now + 3 * DAY_S),
        "other-scope-delta": room.issue("other-scope-delta", 7, {good: room.text()}, base_number=5, url=URL),
        "users": room.issue("users", 8, now_all, url=URL, scope="users"),
        "cas": room.issue("cas", 8, {}, url=URL, scope="cas"),
    }
    for shard in range(SHARDS):
        mine = {serial: text for serial, text in some.items() if serial % SHARDS == shard}
        url = shard_url(shard)
        issued[f"shard{shard}"] = room.issue(
            f"shard{shard}", 5, mine, url=url, freshest_url=url.replace(".crl", "-delta.crl")
        )
        delta = {leaves[f"shard{shard}"].serial_number: room.text("superseded")} if shard == 3 else {}
        issued[f"shard{shard}-delta"] = room.issue(f"shard{shard}-delta", 6, delta, base_number=5, url=url)
    return Crls(room, leaves, issued)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Crls]:
    """The CRLs of an RSA and of an ECDSA CA."""
    return {key_type: make(tmp_path_factory.mktemp(key_type), key_type) for key_type in KEY_TYPES}


@pytest.fixture(params=KEY_TYPES)
def crls(request: pytest.FixtureRequest, both: dict[str, Crls]) -> Crls:
    """Each CA in turn."""
    return both[request.param]


# --- linters ------------------------------------------------------------------------------------------------------


def test_pkilint_finds_nothing(crls: Crls) -> None:
    """pkilint has nothing to say of full, delta and sharded CRLs, by PKIX and by BR."""
    for name, issued in crls.issued.items():
        holds = name in ("base", "delta", "late-delta")  # a hold or its release: BR §4.9.13 forbids them
        assert oracles.pkilint(issued.der, "CRL", "PKIX") == [], name
        assert oracles.pkilint(issued.der, "ARL", "PKIX") == [], name
        found = oracles.pkilint(issued.der, "CRL", "BR")
        assert [line.split()[1] for line in found] == ["cabf.crl_prohibited_reason_code"] * holds, name


def test_our_own_lint_finds_nothing(crls: Crls) -> None:
    """`revocast crl show` verifies each CRL's signature and finds nothing wrong but holds in the web PKI."""
    for name, issued in crls.issued.items():
        holds = name in ("base", "delta", "late-delta")
        certificates = "cas" if name == "cas" else "users"
        for profile in ("private", "webpki", "etsi"):
            options = [
                "--issuer",
                str(crls.room.ca.certificate_path),
                "--profile",
                profile,
                "--certificates",
                certificates,
            ]
            said = CliRunner().invoke(crl_app, ["show", str(issued.path), *options]).output
            assert ("no problems found" in said) == (profile != "webpki" or not holds), (name, said)


# --- OpenSSL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "names", "expected"),
    [
        ("good", ["base", "delta"], 0),
        ("held", ["base"], REVOKED),
        ("held", ["base", "delta"], 0),  # released: removeFromCRL
        ("held", ["full"], 0),
        ("revoked", ["base"], 0),
        ("revoked", ["base", "delta"], REVOKED),
        ("revoked", ["full", "delta"], REVOKED),
        ("other", ["base", "delta"], REVOKED),  # in the base alone
        ("revoked", ["too-old", "delta"], 0),  # base.number < BaseCRLNumber: the delta is not for it
        ("good", ["base", "other-scope-delta"], 0),
        ("good", ["users"], 0),
        ("revoked", ["users"], REVOKED),
        ("good", ["cas"], OTHER_SCOPE),
        ("shard0", ["shard0"], 0),
        ("shard1", ["shard1"], REVOKED),
        ("shard2", ["shard2", "shard2-delta"], REVOKED),
        ("shard3", ["shard3"], 0),
        ("shard3", ["shard3", "shard3-delta"], REVOKED),
        ("shard1", ["shard0"], OTHER_SCOPE),  # another shard's CRL says nothing of it
        ("shard3", ["shard3", "shard0-delta"], 0),  # nor is another shard's delta for its base
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else str(value),
)
@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_openssl_combines(crls: Crls, leaf: str, names: list[str], expected: int) -> None:
    """DLT-02, DLT-04, IDP-02: OpenSSL combines base and delta of one scope, and finds a certificate's own shard."""
    assert crls.openssl(leaf, *names) == expected


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_openssl_and_time(crls: Crls) -> None:
    """A CRL past its nextUpdate proves nothing unless a delta in date goes with it; a base alone does not tell all."""
    assert crls.openssl("good", "base", after=2 * DAY_S) == EXPIRED
    assert crls.openssl("good", "base", "delta", after=2 * DAY_S) == EXPIRED
    assert crls.openssl("good", "base", "late-delta", after=2 * DAY_S) == 0
    assert crls.openssl("revoked", "base", "late-delta", after=2 * DAY_S) == REVOKED
    assert crls.openssl("revoked", "base", "delta", deltas=False) == 0
    assert crls.openssl("revoked", "full", deltas=False, extended=False) == REVOKED


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_openssl_believes_an_indirect_crl(key_type: str, tmp_path: Path) -> None:
    """IDP-04, IDP-06: a CRL of another issuer is about the certificates that name it, and those of their CA alone."""
    room = CRLRoom.make(tmp_path, key_type)
    signer = make_ca(tmp_path / "signer", key_type, name="Example CRL Issuer", label="crl-issuer", issuer=room.ca)
    office = CRLRoom(signer, tmp_path / "signer")
    name = signer.certificate.subject
    good, revoked, direct = (
        room.leaf("good", crl_issuer=name), room.leaf("revoked", crl_issuer=name), room.leaf("direct")
    )  # fmt: skip
    statuses = {serial: room.text("keyCompromise") for serial in (5, revoked.serial_number, direct.serial_number)}
    crl = office.issue("indirect", 3, statuses, url=URL, indirect_of=room.ca)
    # The same serials under the CRL issuer's own name: of other certificates.
    own = office.issue("own", 3, statuses, url=URL)
    assert oracles.pkilint(crl.der, "CRL", "PKIX") == []

    def ask(leaf: Leaf, given: Issued) -> int:
        ca = room.ca.certificate_path
        return oracles.openssl_verify(
            ca, leaf.certificate_path, [given.pem], room.now, untrusted=signer.certificate_path
        )

    assert ask(good, crl) == 0
    assert ask(revoked, crl) == REVOKED
    assert ask(direct, crl) != 0, "it does not name this CRL's issuer: no CRL is there for it"
    assert ask(direct, crl) != REVOKED
    assert ask(revoked, own) != REVOKED
    with CRLFile.open(crl.path) as file:
        entries = [one for batch in file.entries() for one in batch]
    assert {one.certificate_issuer for one in entries} == {room.ca.subject_der}
    (first, *others) = read_strictly(crl.der)["tbs_cert_list"]["revoked_certificates"]
    assert [one["extn_id"].native for one in first["crl_entry_extensions"]] == ["crl_reason", "certificate_issuer"]
    assert [one["critical"].native for one in first["crl_entry_extensions"]] == [False, True]
    assert [len(one["crl_entry_extensions"]) for one in others] == [1, 1], "it holds for those that follow"


def test_openssl_verifies_and_prints(crls: Crls) -> None:
    """`openssl crl` verifies each CRL's signature, and reads the extensions that it knows."""
    ca = crls.room.ca.certificate_path
    said = {name: oracles.openssl_reads(ca, issued.path) for name, issued in crls.issued.items()}
    assert "No Revoked Certificates" in said["empty"]
    assert "X509v3 Delta CRL Indicator: critical" in said["delta"]
    assert "Remove From CRL" in said["delta"]
    assert "Certificate Hold" in said["base"]
    assert "X509v3 Freshest CRL" in said["base"]
    assert "X509v3 Issuing Distribution Point: critical" in said["shard1"]
    assert f"URI:{shard_url(1)}" in said["shard1"]
    assert "Only User Certificates" in said["users"]
    assert "Only CA Certificates" in said["cas"]


# --- GnuTLS -------------------------------------------------------------------------------------------------------


def test_gnutls(crls: Crls) -> None:
    """certtool verifies every CRL, and finds what is revoked; another CA's key does not verify."""
    ca = crls.room.ca.certificate_path
    for name, issued in crls.issued.items():
        assert oracles.certtool_verifies(ca, issued.pem), name
    assert not oracles.certtool_accepts(ca, crls.leaves["revoked"].certificate_path, crls.issued["full"].pem)
    assert oracles.certtool_accepts(ca, crls.leaves["good"].certificate_path, crls.issued["full"].pem)
    assert not oracles.certtool_accepts(ca, crls.leaves["shard1"].certificate_path, crls.issued["shard1"].pem)


def test_another_key_does_not_verify(both: dict[str, Crls], tmp_path: Path) -> None:
    """The oracles can say no: a CRL does not verify with another CA's key."""
    rsa, ecdsa = both["rsa2048"], both["p256"]
    assert not oracles.certtool_verifies(rsa.room.ca.certificate_path, ecdsa.issued["full"].pem)
    with pytest.raises(AssertionError):
        oracles.openssl_reads(rsa.room.ca.certificate_path, ecdsa.issued["full"].path)
    assert rsa.openssl("good", "full") == 0
    stranger = [ecdsa.issued["full"].pem]
    room, leaf = rsa.room, rsa.leaves["good"]
    said = oracles.openssl_verify(room.ca.certificate_path, leaf.certificate_path, stranger, room.now)
    assert said == oracles.NO_CRL


# --- NSS ----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "5.2", "MUST NOT")
def test_nss(crls: Crls, tmp_path: Path) -> None:
    """NSS takes full CRLs and finds what is revoked; deltas and shards it refuses for extensions that are critical."""
    nss = oracles.NSS(tmp_path / "nss", crls.room.ca.certificate_path)
    unknown = "SEC_ERROR_CRL_UNKNOWN_CRITICAL_EXTENSION"
    for name in ("delta", "shard1", "users"):
        assert unknown in nss.import_crl(crls.issued[name].path), name
    assert nss.import_crl(crls.issued["full"].path) == ""
    assert nss.check("good", crls.leaves["good"].certificate_path) == "certutil: certificate is valid"
    assert "has been revoked" in nss.check("revoked", crls.leaves["revoked"].certificate_path)


# --- Java ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jdk(both: dict[str, Crls], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the JDK says of every case, by ``key type/case``."""
    plan: list[list[object]] = []
    for key_type, crls in both.items():
        ca, now = crls.room.ca.certificate_path, crls.room.now

        def validate(case: str, leaf: str, *names: str, after: int = 0) -> None:
            given = [crls.issued[name].path for name in names]  # noqa: B023 - called in this round only
            certificate = crls.leaves[leaf].certificate_path  # noqa: B023
            plan.append(["validate", f"{key_type}/{case}", ca, certificate, now + after, *given])  # noqa: B023

        validate("good", "good", "full")
        validate("revoked", "revoked", "full")
        validate("held", "held", "base")
        validate("expired", "good", "full", after=2 * DAY_S)
        validate("shard", "shard0", "shard0")
        validate("shard-revoked", "shard1", "shard1")
        validate("other-shard", "shard1", "shard0")
        validate("users", "good", "users")
        validate("cas", "good", "cas")
        for name, issued in crls.issued.items():
            leaf = crls.leaves["held" if name == "delta" else "revoked"].certificate_path
            plan.append(["read", f"{key_type}/read-{name}", ca, leaf, issued.path])
    return oracles.java(plan, tmp_path_factory.mktemp("java"))


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_java(jdk: dict[str, str], both: dict[str, Crls], key_type: str) -> None:
    """The JDK's path validation believes full CRLs, shards and scopes, and none that is late or of another shard."""
    found = {case.split("/")[1]: said for case, said in jdk.items() if case.startswith(f"{key_type}/")}
    for case in ("good", "shard", "users"):
        assert found[case] == "GOOD", case
    assert found["revoked"].startswith("REVOKED KEY_COMPROMISE ")
    assert found["held"].startswith("REVOKED CERTIFICATE_HOLD ")
    assert found["shard-revoked"].startswith("REVOKED KEY_COMPROMISE ")
    for case in ("expired", "other-shard", "cas"):
        assert found[case] == "FAILED UNDETERMINED_REVOCATION_STATUS", case
    # X509CRL.verify of each, and what it reads.
    for name in both[key_type].issued:
        assert found[f"read-{name}"].startswith("VERIFIED "), found[f"read-{name}"]
    assert "critical=[2.5.29.27] entry=REMOVE_FROM_CRL" in found["read-delta"]
    assert "entries=2 critical=[] entry=KEY_COMPROMISE" in found["read-full"]
    assert "entries=0 critical=[] entry=none" in found["read-empty"]
    assert "critical=[2.5.29.28]" in found["read-shard1"]
