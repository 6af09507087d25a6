"""CRLs as a source: what each entry becomes, what a CRL must be to be believed, and what an answer may say afterwards."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from loaders.base import Discovering
from loaders.registry import open_loader
from responder.errors import ConfigError, SourceUnavailable
from tests.crl_made import HOUR_S, NOW, make_crl, scope
from tests.crl_source_room import AT, AT_TEXT, CRLSourceRoom, issuer_of
from tests.pki import PKI, make_ca, make_signer, name_of, utc
from tests.redis_fixture import RedisServer, start_redis
from tests.slapd_fixture import READER, READER_PASSWORD, Slapd
from tests.web_folder import WebFolder

HOLD = "certificate_hold"
REMOVED = "remove_from_crl"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = start_redis()
    yield server
    server.stop()


Rooms = Callable[..., CRLSourceRoom]


@pytest.fixture
def make_room(tmp_path: Path, server: RedisServer) -> Rooms:
    server.client().flushall()

    def make(source: str = 'path = "corp.crl"', **more: str) -> CRLSourceRoom:
        return CRLSourceRoom(tmp_path, server, source, **more)

    return make


@pytest.fixture
def room(make_room: Rooms) -> CRLSourceRoom:
    return make_room()


def read_once(room: CRLSourceRoom) -> Any:
    return room.runner().run()


def refusal(room: CRLSourceRoom) -> str:
    """Return the one line in which the source is refused; nothing is brought in."""
    with pytest.raises(SourceUnavailable) as caught:
        read_once(room)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert room.as_of() is None
    return str(caught.value)


# --- entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "5.3.1", "MAY")
def test_every_reason_date_and_serial_comes_through(room: CRLSourceRoom) -> None:
    """ENT-01, ENT-03, ENT-06: as they stand in the entry; unspecified is left out, a negative serial is one like others."""
    names = {
        "unspecified": "",
        "key_compromise": " keyCompromise",
        "ca_compromise": " cACompromise",
        "affiliation_changed": " affiliationChanged",
        "superseded": " superseded",
        "cessation_of_operation": " cessationOfOperation",
        HOLD: " certificateHold",
        "privilege_withdrawn": " privilegeWithdrawn",
        "aa_compromise": " aACompromise",
    }
    entries: list[Any] = [(0x80 + at, AT, name) for at, name in enumerate(names)]
    entries += [((1 << 159) - 1, AT), (5, AT, None, [x509.InvalidityDate(utc(AT - 86_400))])]
    room.publish(entries)
    report = read_once(room)
    assert report.settled
    assert report.is_clean
    assert room.statuses() == {
        **{f"00{0x80 + at:02x}": f"revoked {AT_TEXT}{text}" for at, text in enumerate(names.values())},
        "7f" + "ff" * 19: f"revoked {AT_TEXT}",
        "05": f"revoked {AT_TEXT} invalid=2026-11-05T21:20:00Z",
    }


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_it_is_known_as_of_its_this_update_and_until_its_next(room: CRLSourceRoom) -> None:
    """TIM-01: as_of is thisUpdate, whenever it is read, and the store says until when it holds; one without entries too."""
    room.publish(this_update=NOW - 7 * HOUR_S, next_update=NOW + HOUR_S)
    read_once(room)
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until, info.lists_issued) == (NOW - 7 * HOUR_S, NOW + HOUR_S, False)
    assert room.store.find_status(room.issuer.id, b"\x05") is None  # known, and on no list: not lost


def test_one_that_has_ended_is_read_and_says_so(room: CRLSourceRoom) -> None:
    room.publish([(5, AT)], this_update=NOW - 30 * HOUR_S, next_update=NOW - 6 * HOUR_S)
    assert read_once(room).settled
    assert room.statuses() == {"05": f"revoked {AT_TEXT}"}
    assert room.store.ca_info(room.issuer.id).source_until == NOW - 6 * HOUR_S  # type: ignore[union-attr]


def test_armored_ones_are_read(room: CRLSourceRoom) -> None:
    crl = x509.load_der_x509_crl(room.publish([(5, AT)]))
    pem = crl.public_bytes(serialization.Encoding.PEM)
    for octets in (pem, base64.encodebytes(crl.public_bytes(serialization.Encoding.DER))):
        room.server.client().flushall()
        room.put("corp.crl", octets)
        read_once(room)
        assert room.statuses() == {"05": f"revoked {AT_TEXT}"}


def test_an_entry_that_vanishes_stays_revoked(room: CRLSourceRoom) -> None:
    """It may have expired, or been released: only removeFromCRL says which (ENT-05 aside)."""
    room.publish([(5, AT, HOLD), (6, AT)])
    read_once(room)
    room.publish(number=2)
    report = read_once(room)
    assert report.settled
    assert report.done.kept_revoked == 2
    assert room.statuses() == {"05": f"revoked {AT_TEXT} certificateHold", "06": f"revoked {AT_TEXT}"}


def test_the_odd_entry_is_reported(room: CRLSourceRoom) -> None:
    """removeFromCRL in a full CRL says nothing; a date before 1970 cannot be answered, but the certificate is revoked."""
    room.publish([(5, AT, REMOVED), (6, -86_400, "superseded"), (7, AT)])
    report = read_once(room)
    assert room.statuses() == {"06": "revoked 2026-11-18T11:06:40Z superseded", "07": f"revoked {AT_TEXT}"}
    assert [re.sub(r"^.*corp.crl:", "", str(error)) for error in report.errors] == [
        "serial 05: removeFromCRL in a full CRL, which says nothing (RFC 5280 §5.3.1)",
        "serial 06: revoked at 1969-12-31T00:00:00Z, before 1970, which no OCSP response can say",
    ]


# --- deltas ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def delta_room(make_room: Rooms) -> CRLSourceRoom:
    return make_room('path = "corp.crl", delta = "delta.crl"')


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_delta_is_applied(delta_room: CRLSourceRoom) -> None:
    """DLT-04, DLT-05: new ones are revoked, a hold is released at once and explicitly, as_of is the delta's thisUpdate."""
    room = delta_room
    room.publish([(1, AT, HOLD), (2, AT, HOLD), (3, AT), (4, AT, HOLD)], number=5, this_update=NOW - HOUR_S)
    room.publish(name="delta.crl", number=5, base=5, this_update=NOW - HOUR_S)
    runner = room.runner()
    runner.run()
    assert room.as_of() == NOW - HOUR_S
    delta = [(1, AT, REMOVED), (2, AT, "key_compromise"), (6, AT), (3, AT, REMOVED)]
    room.publish(delta, name="delta.crl", number=7, base=5, this_update=NOW - 60, next_update=NOW + HOUR_S)
    report = runner.run()
    assert report.settled
    assert report.is_clean
    assert room.statuses() == {
        "01": "good",
        "02": f"revoked {AT_TEXT} keyCompromise",
        "03": f"revoked {AT_TEXT}",  # removed since it has expired: revoked for good all the same
        "04": f"revoked {AT_TEXT} certificateHold",
        "06": f"revoked {AT_TEXT}",
    }
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until) == (NOW - 60, NOW + HOUR_S)
    room.publish([(2, AT, "key_compromise"), (3, AT)], number=8, this_update=NOW - 30)
    runner.run()
    assert room.as_of() == NOW - 30  # the full CRL is newer: the delta is not applied to it
    assert room.statuses()["01"] == "good"


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"number": None, "base": 5}, "it is a delta CRL without cRLNumber"),
        ({"number": 9, "base": 8}, "it builds on full CRL 8, and 5 is the one at hand"),
        ({"number": 3, "base": 4}, "its BaseCRLNumber 4 is above its cRLNumber 3"),
        ({"number": 6}, "it is no delta CRL"),
        ({"number": 6, "base": 5, "this_update": NOW - 2 * HOUR_S}, "it is dated before the full CRL"),
        ({"number": 6, "base": 5, "idp": scope(only_contains_user_certs=True)}, "its issuingDistributionPoint is not"),
        ({"number": 6, "base": 5, "this_update": NOW + HOUR_S}, "lies ahead"),
    ],
)
@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_delta_that_does_not_fit_is_left_alone(
    delta_room: CRLSourceRoom, terms: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """DLT-02, DLT-04, DLT-08 (CVE-2026-28388): the full CRL holds, as of its own date, and the alarm says why."""
    room = delta_room
    room.publish([(1, AT, HOLD)], number=5, this_update=NOW - HOUR_S)
    room.publish([(1, AT, REMOVED), (2, AT)], name="delta.crl", **terms)
    assert read_once(room).settled
    assert room.statuses() == {"01": f"revoked {AT_TEXT} certificateHold"}
    assert room.as_of() == NOW - HOUR_S
    assert expected in capsys.readouterr().out


# --- whose it is, and of when ----------------------------------------------------------------------------------------


def foreign(room: CRLSourceRoom) -> PKI:
    return make_ca(room.directory / "foreign", name="Example CRL Issuer R9", label="foreign")


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"this_update": NOW + 301}, "its thisUpdate 2026-11-18T11:11:41Z lies ahead"),
        ({"number": 2, "base": 1}, "it is a delta CRL (deltaCRLIndicator), and a full one belongs here"),
        ({"issuer": name_of("Corp")}, "its issuer"),
        (
            {"more": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
            "its critical extension 1.2.3.4 is not known here (RFC 5280 §5.2)",
        ),
        ({"idp": scope(only_contains_ca_certs=True)}, "it is a list of CA certificates alone"),
        ({"idp": scope(only_contains_user_certs=True)}, "it is a list of user certificates alone"),
        ({"idp": scope(only_contains_attribute_certs=True)}, "it is a list of attribute certificates alone"),
        (
            {"idp": scope("http://crl.example.com/1.crl")},
            "it is the list of one distribution point (http://crl.example.com/1.crl)",
        ),
        (
            {"idp": scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))},
            "it is a list for some reasons alone, without aACompromise, affiliationChanged, cACompromise",
        ),
    ],
)
@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_what_is_not_the_cas_list_of_all_is_refused(room: CRLSourceRoom, terms: dict[str, Any], expected: str) -> None:
    """IDP-03 to IDP-05: what is not on a list of some certificates may well be revoked."""
    room.publish([(5, AT)], **terms)
    assert expected in refusal(room)


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_a_forged_one_is_refused(room: CRLSourceRoom) -> None:
    """Other keys' signatures, changed octets, and files that are not one CRL and nothing else (CRL-08)."""
    other = foreign(room)
    crl = room.publish([(5, AT)])
    for forged, expected in (
        (make_crl(room.ca, [(5, AT)], signer=other, issuer=room.ca.certificate.subject), "its authorityKeyIdentifier"),
        (make_crl(other, [(5, AT)]), "its issuer"),
        (crl.replace(b"\x02\x01\x05", b"\x02\x01\x06", 1), "its signature is not that of"),
        (crl[:-1], "cut off"),
        (crl + b"\0", "1 octets behind the CRL"),
        (crl[:40], "cut off"),
        (b"\x30\x84\xff\xff\xff\xff" + crl, "cut off; it says 4294967295 octets"),
        (b"\x30\x80" + crl + b"\0\0", "indefinite length"),
        (b"<html>404</html>", "neither DER nor PEM"),
        (b"", "empty: no CRL"),
        (b"-----BEGIN X509 CRL-----\nMII", "its base64 is cut off"),
    ):
        room.put("corp.crl", forged)
        assert expected in refusal(room)


def test_a_serial_of_64_kib_is_refused_in_one_line(room: CRLSourceRoom) -> None:
    """And costs no more than its octets."""
    serial = (1 << (8 * 65_536)) - 1
    entry = b"\x30\x83\x01\x00\x14\x02\x83\x01\x00\x01\x00" + serial.to_bytes(65_536, "big") + b"\x17\x0d260102030405Z"
    crl = room.publish([(5, AT)])
    parsed = x509.load_der_x509_crl(crl)
    tbs = parsed.tbs_certlist_bytes
    head = tbs[4 if tbs[1] == 0x82 else 3 :]
    at = head.index(b"\x30", head.index(b"\x17\x0d261119") + 15)
    body = head[:at] + b"\x30\x83" + len(entry).to_bytes(3, "big") + entry + head[at + 2 + head[at + 1] :]
    forged = b"\x30\x83" + len(body).to_bytes(3, "big") + body
    signature = room.ca.sign(forged)
    outer = forged + room.ca.signature_algorithm_der + b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    room.put("corp.crl", b"\x30\x83" + len(outer).to_bytes(3, "big") + outer)
    assert "entry 1: " in refusal(room)


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_an_older_one_replaces_nothing(room: CRLSourceRoom, capsys: pytest.CaptureFixture[str]) -> None:
    """A replayed CRL would have revocations forgotten that are not stored yet, and the date step back."""
    old = room.publish([(5, AT)], number=7, this_update=NOW - 2 * HOUR_S)
    loader, _ = open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)
    loader.peek()
    room.publish([(5, AT), (6, AT)], number=8, this_update=NOW - HOUR_S)
    newest = loader.peek()
    room.put("corp.crl", old)
    assert loader.peek() == loader.peek() == newest
    assert capsys.readouterr().out.count("its cRLNumber 7 is below 8, which was read before") == 1
    assert loader.snapshot().as_of == NOW - HOUR_S
    (room.directory / "corp.crl").unlink()
    assert loader.peek() == newest  # what is at hand holds until its own nextUpdate
    room.publish([(9, AT)], number=9, this_update=NOW - 60)
    assert loader.peek() != newest


def test_the_certificate_must_be_allowed_to_sign_crls(make_room: Rooms) -> None:
    """CRL-10, RFC 5280 §4.2.1.3: one line when it is configured, not when the first CRL comes."""
    room = make_room('path = "corp.crl", signer = "ocsp.pem"')
    make_signer(room.ca)
    with pytest.raises(ConfigError, match=r"ocsp.pem: its keyUsage does not assert cRLSign"):
        room.runner()


# --- partitions ------------------------------------------------------------------------------------------------------


def test_partitions_are_complete_only_together(make_room: Rooms) -> None:
    """IDP-07: as of the oldest, until the first ends; with one missing nothing is said at all."""
    room = make_room('paths = ["0.crl", "1.crl"]')
    first = {"idp": scope("http://crl.example.com/0.crl"), "this_update": NOW - HOUR_S}
    room.publish([(2, AT)], name="0.crl", **first)
    assert "1.crl: cannot be read" in refusal(room)
    room.publish([(1, AT)], name="1.crl", idp=scope("http://crl.example.com/1.crl"), next_update=NOW + HOUR_S)
    runner = room.runner()
    runner.run()
    assert room.statuses() == {"01": f"revoked {AT_TEXT}", "02": f"revoked {AT_TEXT}"}
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until) == (NOW - HOUR_S, NOW + HOUR_S)
    room.put("1.crl", b"broken")
    room.publish([(2, AT), (4, AT)], name="0.crl", number=2, idp=first["idp"], this_update=NOW - 60)
    runner.run()
    assert "04" in room.statuses()
    assert room.as_of() == NOW - 60


def test_lists_of_kinds_and_reasons_add_up(make_room: Rooms) -> None:
    """Users' and CAs' certificates, or all reasons in two lists; and ``scope`` where there is but one kind."""
    room = make_room('paths = ["0.crl", "1.crl"]')
    some = frozenset({x509.ReasonFlags.key_compromise, x509.ReasonFlags.ca_compromise})
    others = frozenset(x509.ReasonFlags) - some - {x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl}
    for one, two in (
        ({"only_contains_user_certs": True}, {"only_contains_ca_certs": True}),
        ({"only_some_reasons": some}, {"only_some_reasons": others}),
    ):
        room.publish([(2, AT)], name="0.crl", idp=scope(**one))
        room.publish([(1, AT)], name="1.crl", idp=scope(**two))
        assert read_once(room).settled
    room.publish(name="1.crl", idp=scope(only_some_reasons=others - {x509.ReasonFlags.superseded}))
    with pytest.raises(SourceUnavailable, match="without superseded "):
        read_once(room)
    room.configure('path = "0.crl", scope = "users"')
    room.publish([(2, AT)], name="0.crl", idp=scope(only_contains_user_certs=True))
    assert read_once(room).settled


# --- indirect CRLs ---------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_of_an_indirect_crl_only_this_cas_entries_count(make_room: Rooms) -> None:
    """IDP-06: certificateIssuer holds for the entries behind it too; a Name is ours however its strings are typed."""
    room = make_room('path = "corp.crl", signer = "foreign/ca.pem"')
    other = foreign(room)
    ours = room.ca.certificate.subject
    retyped = x509.Name(
        [x509.NameAttribute(one.oid, str(one.value).upper()) for one in ours if one.oid != x509.NameOID.COUNTRY_NAME]
    )
    retyped = x509.Name([*ours.rdns[:1], *retyped.rdns])
    entries: list[Any] = [
        (1, AT),
        (2, AT, None, [issuer_of(ours)]),
        (3, AT, "superseded"),
        (4, AT, None, [issuer_of(other.certificate.subject)]),
        (5, AT),
        (6, AT, None, [issuer_of(retyped)]),
    ]
    room.put("corp.crl", make_crl(other, entries, idp=scope(indirect_crl=True)))
    read_once(room)
    assert room.statuses() == {
        "02": f"revoked {AT_TEXT}",
        "03": f"revoked {AT_TEXT} superseded",
        "06": f"revoked {AT_TEXT}",
    }
    loader, _ = open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)
    assert isinstance(loader, Discovering)
    assert [(one.certificate_der, one.rows) for one in loader.discover()] == [
        (None, 3),
        (room.ca.certificate_der, 2),
        (room.ca.certificate_der, 1),
    ]
    for terms, expected in (
        ({}, "and it is not an indirect CRL"),
        ({"idp": scope(only_contains_user_certs=True)}, "and it is not an indirect CRL"),
    ):
        room.put("corp.crl", make_crl(other, entries, **terms))
        with pytest.raises(SourceUnavailable, match=expected):
            read_once(room)


def test_an_entry_of_another_issuer_needs_an_indirect_crl(room: CRLSourceRoom) -> None:
    room.publish([(1, AT, None, [issuer_of(name_of("Other"))])])
    assert "names another issuer, but the CRL is not indirect" in refusal(room)


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", "unknown key; allowed are type, "),
        ('poll = "1m"', "one of path, url, paths and urls must be there (got none)"),
        ('path = "a", url = "http://a/b"', "one of path, url, paths and urls must be there (got path, url)"),
        ('url = "ftp://a/b"', "must be a path, or a URL that starts with"),
        ('url = "corp.crl"', "must be a URL"),
        ('url = "ldap:///CN=a?x"', "put a domain controller in"),
        ('paths = ["a", "b"], delta = "c"', "deltas, a list, goes with paths"),
        ('paths = ["a", "b"], deltas = ["c"]', "deltas must have one place for each"),
        ('url = "ldap://a/b", bind_dn = "cn=x"', "bind_dn and one of password_file and password_env go together"),
        ('path = "a", password_env = "X"', "bind_dn and one of password_file and password_env go together"),
        ("paths = []", "should have at least 1 item"),
    ],
)
def test_options_that_cannot_be(make_room: Rooms, source: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_room(source).runner()
    assert expected in str(caught.value)


@pytest.mark.parametrize("unassigned", ["unknown", "revoked"])
def test_a_list_of_the_revoked_calls_nobody_unknown(make_room: Rooms, unassigned: str) -> None:
    """LOADERS: a source that does not list the issued must never make the answer "unknown"."""
    room = make_room(ocsp=f', unassigned = "{unassigned}"')
    with pytest.raises(ConfigError, match=f"ocsp.unassigned: must not be '{unassigned}' with this source"):
        room.runner()


def test_a_url_is_asked_once_a_minute_or_when_it_allows(make_room: Rooms, web_folder: WebFolder) -> None:
    """Whatever the follower's pace; sooner after a failure, later where the server's max-age says so."""
    room = make_room(f'url = "{web_folder.url}/corp.crl"')
    loader, _ = open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)
    asked = web_folder.said.total

    def peek_for(seconds: int) -> int:
        before = asked()
        for _ in range(seconds):
            room.pass_time(1)
            with contextlib.suppress(SourceUnavailable):
                loader.peek()
        return asked() - before

    assert peek_for(30) == 3
    web_folder.files["/corp.crl"] = make_crl(room.ca, [(5, AT)])
    assert peek_for(10) == 1
    assert peek_for(120) == 2
    web_folder.headers["/corp.crl"] = {"Cache-Control": "max-age=600"}
    assert peek_for(60) == 1
    assert peek_for(600) == 1
    assert web_folder.said["/corp.crl", 200] == 1
    runner = room.runner()
    runner.run()
    assert room.statuses() == {"05": f"revoked {AT_TEXT}"}


def test_a_directory_as_a_source(make_room: Rooms, slapd: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full and delta, by an account."""
    full = make_crl(make_ca(Path(slapd.directory)), [(5, AT, HOLD)])
    delta = make_crl(make_ca(Path(slapd.directory)), [(5, AT, REMOVED), (6, AT)], number=2, base=1)
    url = slapd.put_crl("Corp CA 1", full, delta, public=False)
    monkeypatch.setenv("LDAP_PASSWORD", READER_PASSWORD)
    room = make_room(
        f'url = "{url}", delta = "{url}?deltaRevocationList;binary", bind_dn = "{READER}", password_env = "LDAP_PASSWORD"'
    )
    read_once(room)
    assert room.statuses() == {"05": "good", "06": f"revoked {AT_TEXT}"}
