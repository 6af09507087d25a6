"""What is wrong with a CRL: each defect is found and named by its clause, and nothing is said of what is right."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fastpath.crl_decode import EntryReader
from responder.clock import parse_utc
from responder.crl.head import read_head
from responder.crl.lint import Problem, Profile, lint_head
from responder.crl.lint_entries import EntryLint
from responder.crl.parts import NoCRL, cut
from tests.reference.crl import (
    AKI,
    ISSUER,
    NUMBER,
    RawCRL,
    distribution_point,
    entry,
    extension,
    full_name,
    integer,
    key_identifier,
    reason,
)
from tests.reference.der import tlv

NOW = parse_utc("2026-11-26T12:00:00Z")
URL = "http://crl.example-trust.com/1.crl"
IDP, DELTA, FRESHEST = "2.5.29.28", "2.5.29.27", "2.5.29.46"
GOOD = RawCRL(
    entries=[entry(5), entry(0x80F1, "261120100000Z", reason(1)), entry(2**159 - 1, "261125100000Z", reason(4))]
)
SHARD = GOOD.and_extension(extension(IDP, distribution_point(URL), critical=True))
DELTA_CRL = GOOD.and_extension(extension(DELTA, integer(5), critical=True))
RSA_WITHOUT_NULL = bytes.fromhex("300b06092a864886f70d01010b")


def lint(crl: RawCRL, profile: Profile = "private", certificates: str = "users", now: float = NOW) -> list[Problem]:
    der = crl.der
    head = read_head(cut(der))
    revoked = head.parts.revoked
    contents = b"" if revoked is None else der[revoked.contents : revoked.end]
    problems = list(lint_head(head, profile, certificates, now, len(der)))
    with EntryLint(head, profile, certificates) as entries:
        for batch in EntryReader([contents] if contents else [], len(contents)):
            entries.see(batch)
        return [*problems, *entries.problems()]


def said(problems: Iterable[Problem]) -> str:
    return "\n".join(f"{one.level}: {one.text} ({one.clause})" for one in problems)


@pytest.mark.parametrize("profile", ["private", "webpki", "etsi"])
@pytest.mark.parametrize(
    "crl",
    [
        GOOD,
        GOOD.but(entries=()),
        SHARD,
        GOOD.and_extension(extension(FRESHEST, tlv(0x30, tlv(0x30, tlv(0xA0, full_name(URL)))))),
        DELTA_CRL,
        GOOD.and_extension(extension("1.3.6.1.4.1.311.21.4", tlv(0x17, b"261127100000Z"))),
        GOOD.and_extension(extension("2.5.29.60", tlv(0x18, b"20200101000000Z"))),
        GOOD.and_extension(extension("1.2.3.4", tlv(0x05))),
    ],
    ids=["full", "empty", "shard", "freshest", "delta", "next-publish", "expired-kept", "unknown-extension"],
)
def test_nothing_is_wrong(crl: RawCRL, profile: Profile) -> None:
    """Of CRLs as they should be nothing is said, whatever the profile."""
    assert said(lint(crl, profile)) == ""


@pytest.mark.parametrize(
    ("crl", "expected"),
    [
        (GOOD.but(behind=b"\n"), "1 octets follow the CertificateList (RFC 5280 §5.1; X.690 §8.1)"),
        (GOOD.but(version=b"", extensions=(), entries=()), "version must be v2(1), and is absent, so version 1"),
        (GOOD.but(version=integer(2)), "version must be v2(1), and is 2"),
        (GOOD.but(signature=bytes.fromhex("300a06082a8648ce3d040303")), "is not tbsCertList.signature"),
        (GOOD.but(signature=RSA_WITHOUT_NULL, signature_algorithm=RSA_WITHOUT_NULL), "must be NULL, and are absent"),
        (GOOD.but(issuer=tlv(0x30)), "issuer is an empty name (RFC 5280 §5.1.2.3)"),
        (GOOD.but(entries=(), empty_sequence=True), "revokedCertificates is an empty SEQUENCE"),
        (GOOD.but(this_update="20261126100000Z"), "thisUpdate must be a UTCTime through 2049"),
        (GOOD.but(next_update="20261203100000Z"), "nextUpdate must be a UTCTime through 2049"),
        (GOOD.but(this_update="261126120001Z"), "thisUpdate 2026-11-26T12:00:01Z lies ahead"),
        (GOOD.but(next_update=""), "nextUpdate is absent (RFC 5280 §5.1.2.5)"),
        (GOOD.but(next_update="261126100000Z"), "nextUpdate is not after thisUpdate"),
        (GOOD.but(extensions=[NUMBER]), "authorityKeyIdentifier is absent"),
        (
            GOOD.but(extensions=[NUMBER, extension("2.5.29.35", key_identifier(), critical=True)]),
            "authorityKeyIdentifier must not be critical (RFC 5280 §5.2.1)",
        ),
        (
            GOOD.but(extensions=[NUMBER, extension("2.5.29.35", tlv(0x30))]),
            "authorityKeyIdentifier has no keyIdentifier",
        ),
        (GOOD.but(extensions=[AKI]), "cRLNumber is absent (RFC 5280 §5.2.3)"),
        (
            GOOD.but(extensions=[AKI, extension("2.5.29.20", integer(7), critical=True)]),
            "cRLNumber must not be critical",
        ),
        (GOOD.but(extensions=[AKI, extension("2.5.29.20", integer(2**159))]), "cRLNumber must be 0 or more"),
        (GOOD.but(extensions=[AKI, extension("2.5.29.20", integer(-1))]), "cRLNumber must be 0 or more"),
        (GOOD.but(extensions=[AKI, extension("2.5.29.20", tlv(0x04, b"1"))]), "cRLNumber cannot be read"),
        (GOOD.and_extension(NUMBER), "cRLNumber is there 2 times (RFC 5280 §4.2)"),
        (GOOD.and_extension(extension("1.2.3.4", tlv(0x05), critical=True)), "extension 1.2.3.4 is critical"),
        (GOOD.and_extension(extension(DELTA, integer(5))), "deltaCRLIndicator must be critical (RFC 5280 §5.2.4)"),
        (
            GOOD.and_extension(extension(DELTA, integer(7), critical=True)),
            "BaseCRLNumber 7 must be less than cRLNumber 7",
        ),
        (
            GOOD.but(extensions=[AKI, extension(DELTA, integer(5), critical=True)]),
            "cRLNumber is absent; verifiers have crashed on such deltas (CVE-2026-28388)",
        ),
        (
            DELTA_CRL.and_extension(extension(FRESHEST, tlv(0x30, tlv(0x30, tlv(0xA0, full_name(URL)))))),
            "freshestCRL must not be in a delta CRL (RFC 5280 §5.2.6)",
        ),
        (
            GOOD.and_extension(
                extension(FRESHEST, tlv(0x30, tlv(0x30, tlv(0xA0, full_name(URL)), tlv(0x81, b"\x06\x40"))))
            ),
            "freshestCRL must have neither reasons nor cRLIssuer (RFC 5280 §5.2.6)",
        ),
        (GOOD.and_extension(extension(IDP, distribution_point(URL))), "issuingDistributionPoint must be critical"),
        (GOOD.and_extension(extension(IDP, tlv(0x30), critical=True)), "issuingDistributionPoint is an empty SEQUENCE"),
        (
            GOOD.and_extension(extension(IDP, distribution_point(URL, flags=(1, 2)), critical=True)),
            "onlyContainsUserCerts and onlyContainsCACerts exclude each other",
        ),
        (
            GOOD.and_extension(extension(IDP, distribution_point(URL, flags=(5,)), critical=True)),
            "onlyContainsAttributeCerts must be FALSE",
        ),
        (
            GOOD.but(entries=[entry(5), entry(6), entry(5)]),
            "a serial number is there more than once: 1 entry, serial 05",
        ),
        (
            GOOD.but(entries=[entry(5, "261126100001Z"), entry(6), entry(7, "270101000000Z")]),
            "revocationDate is after thisUpdate: 2 entries, serial 05, 07 (RFC 5280 §5.1.2.6)",
        ),
        (
            GOOD.but(entries=[entry(5, "261120100000Z", reason(8))]),
            "removeFromCRL is for delta CRLs: 1 entry, serial 05",
        ),
        (
            GOOD.but(entries=[entry(5, "261120100000Z", extension("1.2.3.4", tlv(0x05), critical=True))]),
            "an extension is critical and not known to clients: they must not use the CRL: 1 entry, serial 05",
        ),
        (
            GOOD.but(
                entries=[entry(5, "261120100000Z", extension("2.5.29.29", tlv(0x30, tlv(0xA4, ISSUER)), critical=True))]
            ),
            "certificateIssuer is for indirect CRLs, and indirectCRL is not set: 1 entry, serial 05 (RFC 5280 §5.3.3)",
        ),
        (
            GOOD.and_extension(extension(IDP, distribution_point(URL, more=tlv(0x83, b"\x06\x40")), critical=True)),
            "a reasonCode is required where onlySomeReasons is set: 1 entry, serial 05 (RFC 5280 §5.2.5)",
        ),
        (
            GOOD.and_extension(extension(IDP, distribution_point(URL, more=tlv(0x83, b"\x06\x40")), critical=True)),
            "reasonCode superseded is none of onlySomeReasons: 1 entry",
        ),
    ],
)
@pytest.mark.parametrize("profile", ["private", "webpki"])
def test_each_defect_is_found(crl: RawCRL, expected: str, profile: Profile) -> None:
    """What RFC 5280 forbids is an error that says where, and by which clause, also what pkilint does not see."""
    found = lint(crl, profile)
    assert f"error: {expected}" in said(found) or expected in said(found)
    assert any(one.level == "error" and expected.split(" (")[0] in one.text for one in found)


TEN_DAYS, TOO_LONG = "261206100000Z", "261206100001Z"


@pytest.mark.parametrize(
    ("crl", "certificates", "expected"),
    [
        (GOOD.but(next_update=TEN_DAYS), "users", None),
        (
            GOOD.but(next_update=TOO_LONG),
            "users",
            "nextUpdate is 10.00001 days after thisUpdate, and may be 10 days (BR §7.2",
        ),
        (GOOD.but(entries=[], next_update="271126100000Z"), "cas", None),
        (GOOD.but(entries=[], next_update="271126100001Z"), "cas", "and may be 12 months"),
        (
            GOOD.but(entries=[entry(5, "261120100000Z", reason(6))]),
            "users",
            "reasonCode certificateHold is not allowed",
        ),
        (GOOD.but(entries=[entry(5, "261120100000Z", reason(2))]), "users", "reasonCode cACompromise is not allowed"),
        (GOOD.but(entries=[entry(5, "261120100000Z", reason(2))]), "cas", None),
        (GOOD.but(entries=[entry(5, "261120100000Z", reason(0))]), "cas", "reasonCode unspecified is not allowed"),
        (
            GOOD.but(extensions=[NUMBER, extension("2.5.29.35", tlv(0x30, tlv(0x80, bytes(20)), tlv(0x82, b"\x05")))]),
            "users",
            "authorityKeyIdentifier must have keyIdentifier alone",
        ),
        (GOOD.but(entries=[entry(5)]), "cas", "a CA certificate's entry must have a reasonCode: 1 entry, serial 05"),
        (
            GOOD.and_extension(extension(IDP, distribution_point(URL, flags=(4,)), critical=True)),
            "users",
            "indirectCRL must be FALSE",
        ),
        (
            GOOD.and_extension(extension(IDP, distribution_point(flags=(1,)), critical=True)),
            "users",
            "must name one or more URLs",
        ),
        (
            GOOD.and_extension(extension(IDP, distribution_point("https://a.example.com/1.crl"), critical=True)),
            "users",
            "CRLs are fetched by http://",
        ),
        (
            GOOD.but(signature=RSA_WITHOUT_NULL, signature_algorithm=RSA_WITHOUT_NULL),
            "users",
            "is not allowed (BR §7.1.3.2)",
        ),
        (
            GOOD.but(signature=bytes.fromhex("300506032b6570"), signature_algorithm=bytes.fromhex("300506032b6570")),
            "users",
            "AlgorithmIdentifier 300506032b6570 is not allowed",
        ),
    ],
)
def test_the_web_pki_asks_for_more(crl: RawCRL, certificates: str, expected: str | None) -> None:
    """BR and root programmes: what they forbid besides is found in profile webpki, to the second, and only there."""
    found = said(lint(crl, "webpki", certificates))
    if expected is None:
        assert found == ""
    else:
        assert expected in found
        assert expected not in said(lint(crl, "private", certificates))


def test_what_is_past_is_a_warning() -> None:
    """A CRL that ran out may be as it should be: of old ones no error is made."""
    (problem,) = lint(GOOD, now=parse_utc("2026-12-03T10:00:00Z"))
    assert (problem.level, problem.text) == ("warning", "nextUpdate 2026-12-03T10:00:00Z is past")


def test_serials_of_an_indirect_crl_are_of_their_issuers() -> None:
    """In an indirect CRL the same serial of two CAs is two certificates; twice of one CA is an error."""

    def of(name: bytes) -> bytes:
        issuer = tlv(0x30, tlv(0x31, tlv(0x30, tlv(0x06, b"\x55\x04\x03"), tlv(0x0C, name))))
        return extension("2.5.29.29", tlv(0x30, tlv(0xA4, issuer)), critical=True)

    date = "261120100000Z"
    both = [entry(5), entry(5, date, of(b"A")), entry(6), entry(5, date, of(b"B"))]
    crl = GOOD.but(entries=both).and_extension(extension(IDP, distribution_point(URL, flags=(4,)), critical=True))
    assert said(lint(crl)) == ""
    assert "more than once: 1 entry, serial 06" in said(lint(crl.but(entries=[*both, entry(6, date, of(b"A"))])))


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"\x30", "it ends at offset 1"),
        (b"\x30\x80\x00\x00", "the length at offset 1 is indefinite"),
        (GOOD.der[:-1], "is cut off: the element at offset 0"),
        (b"\x04" + GOOD.der[1:], "tag 0x04 at offset 0"),
        (tlv(0x30, tlv(0x30)), "do not come first"),
        (GOOD.but(extensions=[tlv(0x30, b"\x01")]).der, "crlExtensions that cannot be read"),
        (GOOD.but(extensions=[tlv(0x30)]).der, "crlExtensions that cannot be read"),
        (GOOD.but(issuer=tlv(0x30, bytes(1 << 20))).der, "no CRL needs that"),
    ],
)
def test_what_is_no_crl(octets: bytes, expected: str) -> None:
    """Octets that cannot be cut into the parts of a CRL are refused in a line that says where."""
    with pytest.raises(NoCRL, match=expected):
        cut(octets)


def test_any_cut_and_any_octet() -> None:
    """Whatever octet is changed, and wherever it is cut off: the parts are found, or it is said in a line what is wrong."""
    der = SHARD.der
    for at in range(len(der)):
        for octets in (der[:at], der[:at] + bytes([der[at] ^ 0xFF]) + der[at + 1 :]):
            said = ""
            try:
                list(lint_head(read_head(cut(octets)), "webpki", "users", NOW, len(octets)))
            except ValueError as error:
                said = str(error)
            assert "\n" not in said
