"""A CA's own CRLs in the depot: what is taken over, what never takes a good one's place, and what is said about it."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from responder.clock import ManualClock
from responder.config import load_config
from responder.crl.depot import Depot
from responder.crl.mirror import Mirror, open_mirrors, run_mirrors
from responder.crl.published import Published
from responder.crl.replica import Replica
from responder.errors import ConfigError, StoreUnavailable
from responder.issuers import Issuers
from responder.process import Stop
from tests.crl_made import HOUR_S, NOW, make_crl, scope
from tests.pki import PKI, make_ca, make_leaf, name_of
from tests.redis_fixture import RedisServer
from tests.web_folder import WebFolder, answering

AT = NOW - 1_000_000
YEAR_S = 365 * 86_400  # Redis lets go of what has ended, by its own clock


class MirrorRoom:
    """A CA with its web server, and the mirror of its CRLs."""

    def __init__(self, directory: Path, web: WebFolder, crl: str, redis: str = "") -> None:
        self.directory = directory
        self.web = web
        self.clock = ManualClock(NOW)
        self.ca: PKI = make_ca(directory)
        self.depot = Depot(directory / "state" / "crl")
        self.config_file = directory / "revocast.toml"
        (directory / "index.txt").touch()
        self.config_file.write_text(
            f'data_dir = "state"\n{redis}\n[[ca]]\nname = "corp"\ncertificate = "ca.pem"\n'
            f'source = {{ type = "openssl", path = "index.txt" }}\nocsp = {{ key = "ca.key" }}\ncrl = {{ {crl} }}\n'
        )
        self.mirror = self.open()

    def open(self) -> Mirror:
        """Return a fresh mirror, as after a restart."""
        config = load_config(self.config_file)
        (mirror,) = open_mirrors(config, str(self.config_file), self.issuers, self.clock)
        return mirror

    @property
    def issuers(self) -> Issuers:
        return Issuers.from_config(load_config(self.config_file), str(self.config_file))

    def offer(self, octets: bytes, path: str = "/corp.crl") -> bytes:
        self.web.files[path] = octets
        return octets

    def crl(self, number: int | None, entries: Any = (), path: str = "/corp.crl", **terms: Any) -> bytes:
        return self.offer(make_crl(self.ca, entries, number=number, **terms), path)

    def step(self, seconds: float = 61) -> float:
        """Let time pass, and the mirror look."""
        self.clock.advance(seconds)
        return self.mirror.step()

    def published(self, slot: str = "full") -> Published | None:
        return self.depot.get("corp", slot)

    def damage(self, octets: bytes) -> Path:
        """Change an octet of the published file, at its size; returns where it is."""
        published = self.published()
        assert published is not None
        path = self.depot.path(published)
        path.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
        return path

    def octets(self, slot: str = "full") -> bytes:
        found = self.depot.open("corp", slot)
        assert found is not None
        with os.fdopen(found[1], "rb") as file:
            return file.read()


Rooms = Callable[..., MirrorRoom]


@pytest.fixture
def make_room(tmp_path: Path, web_folder: WebFolder, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def make(crl: str = 'mirror = "URL/corp.crl", every = "1m"', redis: str = "") -> MirrorRoom:
        return MirrorRoom(tmp_path, web_folder, crl.replace("URL", web_folder.url), redis)

    return make


@pytest.fixture
def room(make_room: Rooms) -> MirrorRoom:
    return make_room()


def test_each_new_crl_is_taken_over_octet_for_octet(room: MirrorRoom) -> None:
    """It is asked for as often as ``every`` says; an unchanged one costs a 304."""
    first = room.crl(1, [(5, AT)])
    room.step()
    assert room.octets() == first
    published = room.published()
    assert published is not None
    assert (published.number, published.base_number, published.entries) == (1, None, 1)
    assert (published.this_update, published.next_update) == (NOW, NOW + 24 * HOUR_S)
    assert room.step(30) == 30
    assert room.step(31) == 60
    assert room.web.said == {("/corp.crl", 200): 1, ("/corp.crl", 304): 1}
    second = room.crl(2, [(5, AT), (6, AT)], this_update=NOW + 60)
    room.step()
    assert room.octets() == second
    room.mirror = room.open()  # which has forgotten what it has
    room.step()
    assert room.octets() == second
    published = room.published()
    assert published is not None
    room.depot.path(published).unlink()  # the disk was not
    room.mirror = room.open()
    room.step()
    assert room.octets() == second


def test_a_file_that_was_changed_is_fetched_once_more(room: MirrorRoom) -> None:
    """At the same size; the one before it is served while the CA's server is away."""
    first = room.crl(1, [(5, AT)])
    room.step()
    newest = room.crl(2, [(5, AT), (6, AT)], this_update=NOW + 60)
    room.step()
    room.damage(newest)
    room.web.behaviours["/corp.crl"] = answering(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    room.step()
    assert room.octets() == first
    del room.web.behaviours["/corp.crl"]
    room.step()
    assert room.octets() == newest


def test_an_older_one_than_the_damaged_one_is_replayed(room: MirrorRoom, capsys: pytest.CaptureFixture[str]) -> None:
    """Clients have seen the damaged one: nothing between the one before and it takes its place. A disk that takes nothing is said."""
    first = room.crl(5, [(5, AT)])
    room.step()
    newest = room.crl(8, [(5, AT), (6, AT)], this_update=NOW + 60)
    room.step()
    path = room.damage(newest)
    room.crl(6, [(5, AT)], this_update=NOW + 30)
    lock = path.with_name(".lock")
    lock.unlink()
    lock.mkdir()
    room.step()
    room.mirror = room.open()
    room.step()
    assert "reason=disk" in capsys.readouterr().out
    lock.rmdir()
    room.step()
    assert "its cRLNumber 6 is below 8" in capsys.readouterr().out
    assert room.octets() == first
    room.offer(newest)
    room.step()
    assert room.octets() == newest


def test_a_large_one_is_mirrored_and_said(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    room = make_room('mirror = "URL/corp.crl", large_bytes = 1024')
    crl = room.crl(1, [(serial, AT) for serial in range(1, 40)])
    room.step()
    assert room.octets() == crl
    assert "more than crl.large_bytes, 1,024" in capsys.readouterr().out


@pytest.mark.clause("RFC 5280", "4.2.1.13", "MUST")
def test_a_crl_in_pem_is_served_in_der(room: MirrorRoom) -> None:
    """CRL-08, DST-01: one DER CRL is what clients fetch, however the CA's file is armored."""
    der = make_crl(room.ca, [(5, AT)])
    room.offer(b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n")
    room.step()
    assert room.octets() == der


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_nothing_worse_takes_a_good_ones_place(room: MirrorRoom, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, foreign, forged, replayed, ahead, a delta: what is published stays, and the alarm says why, once."""
    good = room.crl(7, [(5, AT)])
    room.step()
    other = make_ca(room.directory / "other", name="Other CA R1", label="other")
    for octets, expected in (
        (good[:-1], "cut off"),
        (good + b"\0", "octets behind the CRL"),
        (b"<html>", "neither DER nor PEM"),
        (good.replace(b"\x02\x01\x05", b"\x02\x01\x06", 1), "its signature is not that of"),
        (make_crl(other, number=9), "its issuer"),
        (make_crl(room.ca, number=9, issuer=name_of("example issuing ca r1")), "its issuer"),
        (make_crl(room.ca, number=9, signer=other, issuer=room.ca.certificate.subject), "authorityKeyIdentifier"),
        (make_crl(room.ca, number=6, this_update=NOW + 1), "its cRLNumber 6 is below 7"),
        (make_crl(room.ca, number=8, this_update=NOW - 1), "its thisUpdate"),
        (make_crl(room.ca, number=None, this_update=NOW + 1), "it has no cRLNumber, and 7 was read before"),
        (make_crl(room.ca, [(6, AT)], number=7, this_update=NOW + 1), "number 7 is published"),
        (make_crl(room.ca, number=8, this_update=NOW + 99_999, next_update=NOW + 999_999), "lies ahead"),
        (make_crl(room.ca, number=8, base=7, this_update=NOW + 1), "it is a delta CRL"),
    ):
        room.offer(octets)
        room.step()
        room.step(31)
        assert room.octets() == good, expected
        said = capsys.readouterr().out
        assert said.count("crl_not_mirrored") == 1, expected
        assert expected in said
    left = sorted(path.name[:7] for path in (room.depot.root / "corp").iterdir())
    assert left == [".lock", "full-7-", "full.js"]  # nothing half made
    room.crl(8, this_update=NOW + 1)
    room.step()
    assert room.published().number == 8  # type: ignore[union-attr]


def test_a_server_that_is_gone_is_an_alarm_and_no_more(room: MirrorRoom, capsys: pytest.CaptureFixture[str]) -> None:
    good = room.crl(7)
    room.step()
    room.web.behaviours["/corp.crl"] = answering(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    assert room.step() == 30
    assert "HTTP status 500" in capsys.readouterr().out
    assert room.octets() == good
    room.clock.advance(22 * HOUR_S)
    room.step()
    assert "no CRL after number 7 has come" in capsys.readouterr().out


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_delta_is_published_with_its_base_alone(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    """DLT-01, DLT-08: not without a cRLNumber, and not before the full CRL that it builds upon is published."""
    room = make_room('mirror = "URL/corp.crl", mirror_delta = "URL/delta.crl", every = "1m"')
    room.crl(5, [(5, AT)])
    for terms, expected in (
        ({"number": None, "base": 5}, "it is a delta CRL without cRLNumber"),
        ({"number": 9, "base": 8}, "it builds on full CRL 8, and 5 is the one at hand"),
        ({"number": 6}, "it is no delta CRL"),
        (
            {"number": 6, "base": 5, "idp": scope(only_contains_user_certs=True)},
            "issuingDistributionPoint is not the full",
        ),
    ):
        room.crl(entries=[(6, AT)], path="/delta.crl", **{"this_update": NOW + 1, **terms})  # type: ignore[arg-type]
        room.step()
        assert room.published("delta") is None
        assert expected in capsys.readouterr().out
    delta = room.crl(9, [(6, AT)], "/delta.crl", base=8, this_update=NOW + 3)
    room.step()
    assert room.published("delta") is None
    room.crl(8, this_update=NOW + 2)
    room.step()
    assert room.octets("delta") == delta
    assert room.published("delta").base_number == 8  # type: ignore[union-attr]


def test_shards_are_mirrored_each(make_room: Rooms) -> None:
    room = make_room('mirror = "URL/{shard}.crl", shards = 2, url = "http://crl.example.com/{shard}.crl", every = "1m"')
    crls = [room.crl(3, [(4 + at, AT)], f"/{at}.crl", idp=scope(f"http://crl.example.com/{at}.crl")) for at in (0, 1)]
    room.step()
    assert [room.octets(str(at)) for at in (0, 1)] == crls


@pytest.mark.clause("RFC 5280", "5.2.5", "MUST")
def test_another_shards_crl_takes_no_place(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    """IDP-01, IDP-02, IDP-07: the CA's own, newer, and of other certificates: refused from the first one on."""
    room = make_room('mirror = "URL/{shard}.crl", shards = 3, every = "1m"')

    def offer(number: int, at: int, of: str | None, **terms: Any) -> bytes:
        idp = None if of is None else scope(f"http://crl.example.com/{of}.crl")
        return room.crl(number, [(4 + at, AT)], f"/{at}.crl", idp=terms.pop("idp", idp), this_update=NOW + number)

    crls = [offer(3, 0, "0"), offer(3, 1, "0"), offer(3, 2, None)]
    room.step()
    assert room.octets("0") == crls[0]
    assert room.published("1") is None
    assert room.published("2") is None
    said = capsys.readouterr().out
    assert "its issuingDistributionPoint http://crl.example.com/0.crl is that of shard 0" in said
    assert "it has no issuingDistributionPoint, so it is no shard" in said
    crls = [crls[0], offer(4, 1, "1"), offer(4, 2, "2")]
    room.step()
    for idp in (scope("http://crl.example.com/9.crl"), scope("http://CRL.example.com/0.crl"), None):
        offer(9, 0, None, idp=idp)
        room.mirror = room.open()  # a restart changes nothing
        room.step()
        said = capsys.readouterr().out
        assert "is not that of the published one (http://crl.example.com/0.crl)" in said
        assert f"remove {room.depot.manifest('corp', '0')}" in said
    assert [room.octets(str(at)) for at in range(3)] == crls
    room.depot.manifest("corp", "0").unlink()  # as the alarm says
    newer = offer(10, 0, "9")
    room.step()
    assert room.octets("0") == newer


LDAP = "ldap:///CN=corp,CN=CDP,DC=example,DC=com?certificateRevocationList"
CORP = "http://crl.example.com/corp.crl"


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_the_scope_is_the_one_of_the_url(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    """Where ``url`` says what certificates name, and the CRL names URLs: octet for octet. AD CS names none, or LDAP's."""
    room = make_room(f'mirror = "URL/corp.crl", every = "1m", url = "{CORP}"')
    for number, urls in ((1, ["http://crl.example.com/Corp.crl"]), (2, ["https://crl.example.com/corp.crl", LDAP])):
        room.crl(number, idp=scope(*urls))
        room.step()
        assert room.published() is None, urls
        assert f"names {urls[0]}, and not crl.url {CORP}" in capsys.readouterr().out
    for idp in (None, scope(LDAP), scope(only_contains_user_certs=True), scope("http://other.example.com/1.crl", CORP)):
        room.crl(5, idp=idp)
        room.step()
        assert room.published() is not None, idp
        room.depot.manifest("corp", "full").unlink()
        room.mirror = room.open()
    assert "crl_not_mirrored" not in capsys.readouterr().out


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_a_ca_names_another_place_too(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    """For its next certificates: those that name ``url`` find it still. Of other certificates it is with another flag, or without ``url``."""
    room = make_room(f'mirror = "URL/corp.crl", every = "1m", url = "{CORP}"')
    room.crl(1, idp=scope(CORP))
    room.step()
    newer = room.crl(2, idp=scope(LDAP, CORP), this_update=NOW + 2)
    room.step()
    assert room.octets() == newer
    for number, idp in ((3, scope(CORP, only_contains_user_certs=True)), (4, scope(LDAP)), (5, None)):
        room.crl(number, idp=idp, this_update=NOW + number)
        room.step()
        assert room.octets() == newer
        assert "is not that of the published one" in capsys.readouterr().out


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_delta_of_another_scope(make_room: Rooms, capsys: pytest.CaptureFixture[str]) -> None:
    """DLT-02: also where the full CRL is as new as the delta."""
    room = make_room('mirror = "URL/corp.crl", mirror_delta = "URL/delta.crl", every = "1m"')
    room.crl(5, idp=scope(CORP))
    room.crl(5, path="/delta.crl", base=4, idp=scope("http://crl.example.com/2.crl"))
    room.step()
    assert room.published("delta") is None
    assert "its issuingDistributionPoint is not the full CRL's" in capsys.readouterr().out
    delta = room.crl(5, path="/delta.crl", base=4, idp=scope(CORP))
    room.step()
    assert room.octets("delta") == delta


@pytest.mark.parametrize(
    ("crl", "expected"),
    [
        ('mirror = "URL/corp.crl", shards = 2, url = "http://a/{shard}"', "crl.mirror: must hold {shard}"),
        ('mirror = "URL/{shard}.crl"', "crl.mirror: must hold {shard}"),
        ('mirror = "URL/corp.crl", mirror_delta = "ldap:///CN=x"', "put a domain controller in"),
        ('mirror = "URL/corp.crl", certificate = "leaf.pem"', "its keyUsage does not assert cRLSign"),
    ],
)
def test_mirrors_that_cannot_be(make_room: Rooms, tmp_path: Path, crl: str, expected: str) -> None:
    leaf = make_leaf(make_ca(tmp_path))
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate_path.read_bytes())
    with pytest.raises(ConfigError) as caught:
        make_room(crl)
    assert expected in str(caught.value)


def test_other_machines_get_what_is_mirrored_here(
    make_room: Rooms, tmp_path: Path, redis_server: Callable[..., RedisServer]
) -> None:
    """Through an external Redis; while it is away, this machine's own depot goes on."""
    server = redis_server()
    room = make_room(redis=server.config_section())
    crl = room.crl(7, [(5, AT)], next_update=NOW + 10 * YEAR_S)
    room.step()
    there = Depot(tmp_path / "elsewhere")
    assert Replica(server.store(), there, room.issuers).look() == 1
    assert there.get("corp", "full") == room.published()
    server.kill()
    newer = room.crl(8, this_update=NOW + 1, next_update=NOW + 10 * YEAR_S)
    with pytest.raises(StoreUnavailable):
        room.step()
    assert room.octets() == newer != crl
    server.start()
    published = room.published()
    assert published is not None
    path = room.depot.path(published)
    path.rename(path.with_suffix(".away"))
    room.step(1)  # it is not looked for yet: the mirrors' thread goes on all the same
    path.with_suffix(".away").rename(path)
    room.step()
    assert Replica(server.store(), there, room.issuers).look() == 1
    room.mirror.close()


def test_the_mirrors_thread_ends_when_told(room: MirrorRoom) -> None:
    room.crl(7)
    stop = Stop()
    step = room.mirror.step

    def step_once() -> float:
        stop.set()
        return step()

    room.mirror.step = step_once  # type: ignore[method-assign]
    run_mirrors([room.mirror], stop)
    assert room.published() is not None
