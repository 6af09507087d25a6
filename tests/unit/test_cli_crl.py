"""``revocast crl show``, ``diff`` and ``partitions``: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import cryptography_vectors
import pytest
from typer.testing import CliRunner, Result

from responder.cli.crl import crl_app
from responder.errors import OperatorError
from tests.crl_oracles import pem_of
from tests.crl_room import SHARDS, CRLRoom
from tests.loader_reading import SAMPLES, needs_samples
from tests.pki import make_ca
from tests.reference.crl import RawCRL, distribution_point, entry, extension, reason
from tests.web_folder import WebFolder

FULL = RawCRL(next_update="491203100000Z", entries=[entry(5), entry(0x80F1, "261120100000Z", reason(1)), entry(7)])


def run(*arguments: object) -> Result:
    """Run a command; an error that is the operator's is raised."""
    result = CliRunner().invoke(crl_app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(path: Path, crl: RawCRL) -> Path:
    path.write_bytes(crl.der)
    return path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> CRLRoom:
    """A CA with CRLs of its own."""
    return CRLRoom.make(tmp_path_factory.mktemp("room"), "p256")


# --- show ---------------------------------------------------------------------------------------------------------


def test_show_a_crl_of_ours(room: CRLRoom) -> None:
    """A CRL that we made is shown, its signature is verified, and nothing is wrong with it in any profile."""
    statuses = {5: room.text("keyCompromise"), 6: room.text("keyCompromise"), 7: room.text()}
    crl = room.issue("shown", 12, statuses, url="http://crl.example-trust.com/1.crl")
    for profile in ("private", "webpki", "etsi"):
        result = run("show", crl.path, "--issuer", room.ca.certificate_path, "--profile", profile)
        assert result.exit_code == 0, result.output
        assert "no problems found" in result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines() if " " in line)
    assert lines["cRLNumber"] == "12 (c in hex)"
    assert lines["entries"] == "3"
    assert lines["2"] == "keyCompromise"
    assert lines["1"] == "none given"
    assert lines["kind"] == "full CRL"
    assert lines["at"] == "http://crl.example-trust.com/1.crl"
    assert lines["signature"] == "sha256_ecdsa, verified"
    assert "issuingDistributionPoint (critical)" in lines["extensions"]


def test_show_as_json(room: CRLRoom) -> None:
    """The same as one object; with --entries each entry is an object on a line before it."""
    crl = room.issue("json", 13, {5: room.text("superseded"), 0x80F1: "good exp=2049-12-31T23:59:59Z"}, base_number=12)
    *entries, last = run("show", crl.path, "--json", "--entries").output.splitlines()
    found = [json.loads(line) for line in entries]
    assert {one["serial"]: one["reason"] for one in found} == {"05": "superseded", "0080f1": "removeFromCRL"}
    assert found[0].keys() == {"serial", "revocationDate", "reason"}
    summary = json.loads(last)
    assert (summary["kind"], summary["crlNumber"], summary["baseCRLNumber"]) == ("delta", 13, 12)
    assert summary["reasons"] == {"superseded": 1, "removeFromCRL": 1}
    assert summary["problems"] == []
    assert "signatureVerified" not in summary
    assert json.loads(run("show", crl.path, "--json").output) == summary


def test_show_says_what_is_wrong(room: CRLRoom, tmp_path: Path) -> None:
    """Problems are told with their clauses, and make exit code 1; a warning alone does not."""
    bad = write(
        tmp_path / "bad.crl",
        FULL.but(entries=[entry(5), entry(5)]).and_extension(
            extension("2.5.29.28", distribution_point("http://a.example.com/"))
        ),
    )
    result = run("show", bad)
    assert result.exit_code == 1
    assert "error: issuingDistributionPoint must be critical (RFC 5280 §5.2.5)" in result.output
    assert "error: a serial number is there more than once: 1 entry, serial 05 (RFC 5280 §5.1.2.6)" in result.output
    old = run(
        "show",
        write(tmp_path / "old.crl", FULL.but(this_update="201126100000Z", next_update="201203100000Z", entries=[])),
    )
    assert old.exit_code == 0
    assert "warning: nextUpdate 2020-12-03T10:00:00Z is past" in old.output
    # What an entry's reader says, of an entry and in between.
    odd = run("show", write(tmp_path / "odd.crl", FULL.but(entries=[entry(5), entry(6, "261120100000Z", reason(0))])))
    assert "error: a reasonCode says unspecified (RFC 5280 §5.3.1)" in odd.output
    broken = run(
        "show", write(tmp_path / "broken.crl", FULL.but(entries=[entry(5), entry(6, "261120100000Z", reason(7))]))
    )
    assert broken.exit_code == 1
    assert "error: entry 2 cannot be read: reason-invalid at octet 134 (RFC 5280 §5.3.1)" in broken.output


def test_show_verifies(room: CRLRoom, tmp_path: Path) -> None:
    """A CRL that another key signed, or that was changed, does not verify."""
    crl = room.issue("verified", 14, {5: room.text()})
    other = make_ca(tmp_path, "p256", name="Example Other CA", label="other")
    result = run("show", crl.path, "--issuer", other.certificate_path)
    assert result.exit_code == 1
    assert "DOES NOT VERIFY" in result.output
    for problem in (
        "the signature does not verify with the certificate's key (RFC 5280 §6.3.3 (g))",
        "issuer is not, octet by octet, the certificate's subject (RFC 5280 §5.1.2.3)",
        "keyIdentifier is not the certificate's subjectKeyIdentifier (RFC 5280 §5.2.1)",
    ):
        assert f"error: {problem}" in result.output
    octets = bytearray(crl.der)
    octets[-1] ^= 1
    changed = tmp_path / "changed.crl"
    changed.write_bytes(octets)
    assert run("show", changed, "--issuer", room.ca.certificate_path).exit_code == 1


def test_show_one_serial(tmp_path: Path) -> None:
    """--serial says what stands there of a serial, and by its exit code whether anything does."""
    crl = write(tmp_path / "full.crl", FULL)
    found = run("show", crl, "--serial", "80:f1")
    assert found.exit_code == 0
    assert found.output.split() == ["0080f1", "2026-11-20T10:00:00Z", "keyCompromise"]
    assert json.loads(run("show", crl, "--serial", "5", "--json").output)["serial"] == "05"
    assert run("show", crl, "--serial", "6").exit_code == 1


def test_show_pem(tmp_path: Path) -> None:
    """A CRL in PEM is shown as any, and it is said that clients fetch DER."""
    pem = tmp_path / "crl.pem"
    pem.write_text(pem_of(FULL.der))
    result = run("show", pem)
    assert result.exit_code == 1
    assert "error: the file is PEM or base64" in result.output
    assert "entries           3" in result.output


def test_show_a_url(web_folder: WebFolder) -> None:
    """A CRL is fetched from its URL."""
    web_folder.files["/corp.crl"] = FULL.der
    assert "entries           3" in run("show", f"{web_folder.url}/corp.crl").output


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (None, "no-such.crl: cannot be read: No such file or directory"),
        (b"", "is empty"),
        (FULL.der[:40], "is cut off"),
        (b"<html>", "is no CRL"),
    ],
)
def test_what_is_no_crl_is_an_error_of_a_line(octets: bytes | None, expected: str, tmp_path: Path) -> None:
    """What cannot be shown is the operator's error, in a line, without a traceback."""
    path = tmp_path / "no-such.crl"
    if octets is not None:
        path.write_bytes(octets)
    with pytest.raises(OperatorError) as raised:
        run("show", path)
    assert str(raised.value).startswith(str(path))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


# What is wrong with NIST's own: most of it on purpose.
PKITS = {
    "BadCRLSignatureCACRL.crl": "its signature is no BIT STRING of whole octets",
    "GoodCACRL.crl": "revocationDate is after thisUpdate: 1 entry, serial 0f",
    "NegativeSerialNumberCACRL.crl": "a serial number is zero or negative",
    "UnknownCRLEntryExtensionCACRL.crl": "an extension is critical and not known to clients",
    "UnknownCRLExtensionCACRL.crl": "extension 2.16.840.1.101.2.1.12.2 is critical",
    "onlyContainsAttributeCertsCACRL.crl": "onlyContainsAttributeCerts must be FALSE",
}


def test_show_the_crls_of_pkits() -> None:
    """Of NIST's CRLs those are said to be wrong that are."""
    folder = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data" / "crls"
    files = sorted(folder.glob("*.crl"))
    assert len(files) == 173
    for file in files:
        result = run("show", file)
        errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == (file.name in PKITS), (file.name, errors)
        assert all(PKITS[file.name] in error for error in errors), (file.name, errors)


@needs_samples
def test_show_crls_of_a_public_ca() -> None:
    """A public CA's CRLs, of users and of CAs, obey the BR; those of CAs not as if they were of users."""
    for file in sorted((SAMPLES / "crl").glob("*.crl")):
        kind = "cas" if "root" in file.name else "users"
        result = run("show", file, "--profile", "webpki", "--certificates", kind)
        assert result.exit_code == 0, result.output
    assert run("show", SAMPLES / "crl" / "amazon-rootca1.crl", "--profile", "webpki").exit_code == 1


# --- diff ---------------------------------------------------------------------------------------------------------


def test_diff(tmp_path: Path) -> None:
    """What came, went and changed is told, and makes exit code 1; numbers and dates do not."""
    before = write(tmp_path / "a.crl", FULL)
    after = write(tmp_path / "b.crl", FULL.but(entries=[entry(5), entry(7, "261120100000Z", reason(4)), entry(9)]))
    result = run("diff", before, after)
    assert result.exit_code == 1
    lines = [line.split() for line in result.output.splitlines()]
    assert ["+", "09", "2026-11-20T10:00:00Z"] in lines
    assert ["-", "0080f1", "2026-11-20T10:00:00Z", "keyCompromise"] in lines
    assert ["~", "07", "2026-11-20T10:00:00Z", "→", "07", "2026-11-20T10:00:00Z", "superseded"] in lines
    assert result.output.splitlines()[-1] == "1 added, 1 removed, 1 changed"
    *_, last = run("diff", before, after, "--json").output.splitlines()
    assert json.loads(last)["changed"] == 1
    assert len(run("diff", before, after, "--summary").output.splitlines()) == 3
    # In another order, at another time, it is the same.
    again = write(tmp_path / "c.crl", FULL.but(entries=tuple(reversed(FULL.entries)), this_update="261126110000Z"))
    assert run("diff", before, again).exit_code == 0
    scoped = write(
        tmp_path / "d.crl", FULL.and_extension(extension("2.5.29.28", distribution_point("http://a.b"), critical=True))
    )
    result = run("diff", before, scoped)
    assert result.exit_code == 1
    assert "the issuingDistributionPoints differ" in result.output


def test_diff_a_base_and_its_delta(room: CRLRoom) -> None:
    """DLT-03: a base with its delta is what the full CRL says; a delta of another base is refused."""
    hold, released = room.text("certificateHold"), "good exp=2049-12-31T23:59:59Z"
    base = room.issue("base", 20, {1: hold, 2: room.text()})
    delta = room.issue("delta", 21, {1: released, 3: room.text("superseded")}, base_number=20)
    full = room.issue("full", 21, {2: room.text(), 3: room.text("superseded")})
    assert run("diff", base.path, full.path, "--delta", delta.path).exit_code == 0
    result = run("diff", base.path, full.path)
    assert result.output.splitlines()[-1] == "1 added, 1 removed, 0 changed"
    with pytest.raises(OperatorError, match=r"cannot be combined with .*which has it all"):
        run("diff", full.path, full.path, "--delta", delta.path)


# --- partitions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(room: CRLRoom, web_folder: WebFolder) -> Path:
    """A configuration of a sharded CA whose CRLs a web server has."""
    config = room.directory / "sharded.toml"
    (room.directory / "index.txt").touch()
    config.write_text(f"""
[[ca]]
name = "corp"
certificate = "ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ key = "ca.key" }}
crl = {{ issue = true, key = "ca.key", shards = {SHARDS}, url = "{web_folder.url}/corp/{{shard}}.crl" }}
""")
    for shard in range(SHARDS):
        url = f"{web_folder.url}/corp/{shard}.crl"
        web_folder.files[f"/corp/{shard}.crl"] = room.issue(f"partition{shard}", 5, {}, url=url).der
    return config


def test_partitions(sharded: Path, web_folder: WebFolder) -> None:
    """RTP-02: CCADB's JSON array has the URL of each shard; --check finds one that does not name its own."""
    result = run("partitions", "-c", sharded, "--ca", "corp", "--check")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == [f"{web_folder.url}/corp/{shard}.crl" for shard in range(SHARDS)]
    web_folder.files["/corp/1.crl"] = web_folder.files["/corp/0.crl"]
    del web_folder.files["/corp/2.crl"]
    result = run("partitions", "-c", sharded, "--ca", "corp", "--check")
    assert result.exit_code == 1
    assert f"/corp/1.crl: its issuingDistributionPoint names {web_folder.url}/corp/0.crl" in result.stderr
    assert f"{web_folder.url}/corp/2.crl: HTTP status 404" in result.stderr
    with pytest.raises(OperatorError, match="--ca other: no such CA; there are corp"):
        run("partitions", "-c", sharded, "--ca", "other")
    sharded.write_text(sharded.read_text().replace(f"shards = {SHARDS}, ", "").replace("{shard}", "full"))
    with pytest.raises(OperatorError, match=r"has one full CRL .* disclose http"):
        run("partitions", "-c", sharded, "--ca", "corp")
