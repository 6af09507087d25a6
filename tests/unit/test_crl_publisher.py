"""When a CA's CRLs are issued, what is in them, and what happens to the published ones when something is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from responder import metrics
from responder.clock import format_utc
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.publisher import Stopped
from responder.crl.snapshot import Snapshot
from responder.errors import SignerUnavailable
from responder.process import Stop
from responder.roles import publish
from tests.crl_made import make_crl
from tests.crl_office import DAY_S, HELD, HOUR_S, REVOKED, URL, CRLOffice
from tests.pki import key_of, make_ca
from tests.signing_room import GOOD
from tests.softhsm import SoftHSMToken

IDP = x509.ObjectIdentifier("2.5.29.28")
EXPIRED = x509.ObjectIdentifier("2.5.29.60")
NEXT_PUBLISH = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.4")
MakeOffice = Callable[..., CRLOffice]


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_the_first_and_the_ones_by_schedule(make_office: MakeOffice) -> None:
    """CRL-07: thisUpdate is when the source was read, and numbers increase."""
    office = make_office()
    office.turn()
    first = office.read()
    assert (first.number, first.this_update, first.next_update) == (1, office.began, office.began + 7 * DAY_S)
    assert first.serials == {2: "keyCompromise", 3: "certificateHold"}
    assert len(first.crl.extensions) == 2
    office.pass_time(12 * HOUR_S - 1)
    assert office.number() == 1
    office.pass_time(1)
    second = office.read()
    assert (second.number, second.this_update) == (2, office.began + 12 * HOUR_S)
    published = office.depot.get("corp", "full")
    assert published is not None
    assert published.next_publication == office.began + 24 * HOUR_S
    assert not published.shares_date


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_a_revocation_is_published_at_once(make_office: MakeOffice) -> None:
    """BR-07, ETS-05: after the debounce, all of it together; the plan of regular CRLs stays."""
    office = make_office()
    office.turn()
    office.revoke(1)
    office.turn()
    office.pass_time(5)
    office.revoke(4)
    office.turn()
    assert office.number() == 1
    office.pass_time(5)
    assert office.read().serials.keys() == {1, 2, 3, 4}
    assert office.number() == 2
    office.pass_time(60)
    assert office.number() == 2
    published = office.depot.get("corp", "full")
    assert published is not None
    assert published.next_publication == office.began + 12 * HOUR_S


def test_revocations_while_nobody_looked(make_office: MakeOffice) -> None:
    """What came while the publisher was down is published after its start; a restart without news issues nothing."""
    office = make_office()
    office.turn()
    office.new_publisher()
    office.settle()
    assert office.number() == 1
    office.revoke(1)
    office.new_publisher()
    office.settle()
    assert office.read().serials.keys() == {1, 2, 3}
    assert office.number() == 2


def test_off_means_by_schedule_alone(make_office: MakeOffice) -> None:
    """on_revocation = false."""
    office = make_office("on_revocation = false")
    office.turn()
    office.revoke(1)
    office.settle()
    assert office.number() == 1
    office.pass_time(12 * HOUR_S)
    assert 1 in office.read().serials


@pytest.mark.clause("RFC 5280", "5.1.2.6", "MUST")
def test_a_revocation_dated_ahead(make_office: MakeOffice) -> None:
    """ENT-04: not before its time, and then at once, also after a restart."""
    office = make_office()
    office.turn()
    office.revoke(1, text=f"revoked {format_utc(office.began + 5400)} superseded")
    office.settle()
    assert 1 not in office.read().serials
    assert office.number() == 2
    office.new_publisher()
    office.pass_time(HOUR_S)
    assert office.number() == 2
    office.pass_time(HOUR_S)
    assert office.read().serials[1] == "superseded"
    assert office.number() == 3


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_is_lost(make_office: MakeOffice, is_gone: bool) -> None:
    """CRLs go on, above the number that the manifest still names, though Redis has forgotten it."""
    office = make_office()
    office.turn()
    office.pass_time(12 * HOUR_S)
    published = office.depot.get("corp", "full")
    assert published is not None
    path = office.depot.path(published)
    path.unlink() if is_gone else path.write_bytes(path.read_bytes()[:100])
    office.room.server.client().delete(f"rc:crl:{office.room.issuer.id}")
    office.pass_time(60)
    assert office.read().number == 3


@pytest.mark.parametrize("deltas", ["", ', delta_every = "4h"'])
def test_a_revocation_dated_ahead_in_any_shard(make_office: MakeOffice, deltas: str) -> None:
    """Whichever shard the serial is in, it is there at its time."""
    office = make_office(f'shards = 3, url = "http://crl.example.test/{{shard}}.crl"{deltas}')
    office.turn()
    office.pass_time(10)
    office.revoke(5, text=f"revoked {format_utc(office.began + 5400)} superseded")
    office.settle()
    office.pass_time(5400)
    assert office.read("2-delta" if deltas else "2").serials[5] == "superseded"


def test_a_revocation_while_the_source_stands_still_for_long(make_office: MakeOffice) -> None:
    """Where a delta would have run out already, the complete CRL says it."""
    office = make_office(f'url = "{URL}", delta_every = "1h"')
    office.turn()
    office.pass_time(10)
    assert office.number("delta") == 2
    office.pass_time(5 * HOUR_S, source_is_read=False)
    office.revoke(1)
    office.turn()
    office.pass_time(11, source_is_read=False)
    office.pass_time(61, source_is_read=False)
    assert 1 in office.read().serials
    assert (office.number(), office.number("delta")) == (3, 2)
    office.pass_time(HOUR_S)
    assert (office.number(), office.number("delta")) == (3, 4)


def test_a_hold_and_its_release(make_office: MakeOffice) -> None:
    """DLT-05: on a full CRL a released certificate is not there any more."""
    office = make_office()
    office.turn()
    office.room.change(3, GOOD, "released")
    office.settle()
    assert office.read().serials.keys() == {2}


def test_a_source_that_stands_still(make_office: MakeOffice) -> None:
    """ETS-02 and freshness: nothing is dated afresh; the alarm comes long before nextUpdate; a revocation still goes out."""
    office = make_office()
    office.turn()
    with capture_logs() as logs:
        office.pass_time(12 * HOUR_S, source_is_read=False)
        assert office.number() == 1
        assert logs == []
        for _ in range(10):
            office.pass_time(61, source_is_read=False)
    alarms = [record for record in logs if record["event"] == "crl_source_stands_still"]
    assert 1 <= len(alarms) <= 3
    assert f"the published CRL stays, until {format_utc(office.began + 7 * DAY_S)}" in alarms[0]["consequence"]
    assert office.number() == 1
    office.revoke(1)
    office.turn()
    office.pass_time(11, source_is_read=False)
    published = office.depot.get("corp", "full")
    assert published is not None
    assert (published.number, published.this_update, published.shares_date) == (2, office.began, True)
    office.pass_time(2)
    assert office.read().this_update > office.began


@pytest.mark.clause("RFC 5280", "5.1.2.5", "MUST")
def test_a_crl_does_not_outlast_the_one_that_is_its_source(make_office: MakeOffice) -> None:
    """Where the CA's statuses come from a CRL of another: newer information is promised by then, and not by us."""
    office = make_office()
    now = office.room.clock.now()
    office.room.store.set_as_of(office.room.issuer.id, now, until=now + 5 * HOUR_S)
    office.turn()
    assert office.read().next_update == int(now) + 5 * HOUR_S


def test_a_key_out_of_reach(make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published CRL stays, it is tried again ever more seldom, and said once; then all is well again."""
    office = make_office()
    office.turn()
    tries = []

    def refuse(*_arguments: object, **_named: object) -> None:
        tries.append(office.clock.monotonic())
        raise SignerUnavailable("the token is gone")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr("responder.crl.publisher.open_crl_signer", refuse)
        office.series._keys.close()
        office.clock.advance(12 * HOUR_S)
        office.room.set_as_of()
        for _ in range(100):
            office.turn()
            office.clock.advance(1)
    assert office.number() == 1
    assert [round(later - sooner) for sooner, later in pairwise(tries)] == [1, 2, 4, 8, 16, 32]
    assert [record["error"] for record in logs] == ["the token is gone"]
    office.pass_time(60)
    assert office.number() == 2


def test_a_refused_crl_changes_nothing(make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """BR-10: a certificate that is good again after a permanent revocation: the old CRL stays, the alarm names the check."""
    office = make_office()
    office.turn()
    office.room.change(2, GOOD, "changed")
    with capture_logs() as logs:
        office.pass_time(12 * HOUR_S)
    assert office.number() == 1
    (alarm,) = [record for record in logs if record["event"] == "crl_not_issued"]
    assert alarm["reason"] == "check"
    for words in ("predecessor: serial 02", "it is good, and was revoked for good", "BR §4.10.1"):
        assert words in alarm["error"]
    assert list((office.depot.root / "corp").glob(".fresh-*")) == []
    office.room.change(2, REVOKED)
    office.pass_time(2)
    assert office.number() == 3  # number 2 was given away and never seen


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_two_publishers(make_office: MakeOffice) -> None:
    """CRL-07: both see that it is due, one issues; without the lease numbers would increase all the same."""
    office = make_office()
    first, second = office.publisher, office.new_publisher()
    office.turn(first)
    office.turn(second)
    assert office.number() == 1
    store = office.series.office.store
    assert store.lease_crls(office.room.issuer.id, "somebody else", 60)
    office.clock.advance(12 * HOUR_S)
    office.room.set_as_of()
    office.turn(first)
    office.turn(second)
    assert office.number() == 1
    store.lease_crls(office.room.issuer.id, "somebody else", 0)
    office.turn(second)
    office.turn(first)
    assert office.number() == 2


def test_a_redis_that_has_forgotten(make_office: MakeOffice) -> None:
    """CRL-07: restored from nothing, numbers go on above those of the depot."""
    office = make_office()
    office.turn()
    office.pass_time(12 * HOUR_S)
    assert office.number() == 2
    office.room.server.client().delete(f"rc:crl:{office.room.issuer.id}")
    office.new_publisher()
    office.pass_time(12 * HOUR_S)
    assert office.number() == 3


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_a_redis_that_has_forgotten_and_a_ca_of_another_name(make_office: MakeOffice) -> None:
    """CRL-07: numbers are the key's, whatever the configuration has called it; of two directories the larger one's count."""
    office = make_office()
    office.turn()
    client = office.room.server.client()
    for name in ("renamed", "again", "corp", "again"):
        number = office.number() or 0
        before = office.name
        office.pass_time(12 * HOUR_S)
        office.room.reconfigure(f'name = "{before}"', f'name = "{name}"')
        client.delete(f"rc:crl:{office.room.issuer.id}")
        office.new_publisher()
        office.settle()
        assert (office.number() or 0) > number + 1, name


def test_shards_of_which_some_lie_ahead(make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard costs a pass for its entries and one for their check; what lies ahead one more for all of them."""
    passes, chunks = [0], Snapshot.chunks

    def counting(self: Snapshot) -> Iterator[bytes]:
        passes[0] += 1
        return chunks(self)

    monkeypatch.setattr(Snapshot, "chunks", counting)
    at = format_utc(time.time() + 9000)
    statuses = dict.fromkeys(range(1, 9), f"revoked {at} superseded")
    office = make_office(
        'shards = 4, delta_every = "1h", url = "http://crl.example.test/{shard}.crl"', statuses=statuses
    )
    office.turn()
    assert passes == [4 * 2 + 1]
    bases = office.room.store.crl_state(office.room.issuer.id).bases
    assert [len(bases[str(shard)].ahead) for shard in range(4)] == [8] * 4
    office.pass_time(9001)
    assert [office.read(f"{shard}-delta").serials.keys() for shard in range(4)] == [{4, 8}, {1, 5}, {2, 6}, {3, 7}]


def test_a_ca_whose_crls_are_not_issued_here_any_more(make_office: MakeOffice) -> None:
    """No changes are kept for deltas that nobody makes; its numbers, and what was let go, stay for whoever goes on later."""
    office = make_office(f'delta_every = "1h", url = "{URL}"')
    office.turn()
    office.pass_time(12 * HOUR_S)
    room, ca = office.room, office.room.issuer.id
    assert room.store.count_changes(ca) is not None
    stop = Stop()
    stop.set()

    def start() -> None:
        publish._keep_in_date(room.config, str(room.config_file), room.issuers, room.store, room.clock, stop)

    before = room.store.crl_state(ca)
    start()
    assert room.store.crl_state(ca) == before
    room.reconfigure('issue = true, key = "ca.key"', 'mirror = "corp.crl"')
    start()
    after = room.store.crl_state(ca)
    assert room.store.count_changes(ca) is None
    assert (after.bases, after.number, after.let_go) == ({}, 2, before.let_go)
    office.revoke(1)
    assert room.store.count_changes(ca) is None
    room.reconfigure('mirror = "corp.crl"', 'issue = true, key = "ca.key"')
    office.new_publisher()
    office.settle()
    assert office.read().serials.keys() == {1, 2, 3}
    assert office.number() == 3


def test_shards(make_office: MakeOffice) -> None:
    """IDP-01, IDP-07: every serial is on exactly one, each with the URL that its certificates name."""
    url = "http://crl.example.test/corp/{shard}.crl"
    statuses = dict.fromkeys(range(1, 40), REVOKED)
    office = make_office(f'shards = 3, url = "{url}"', statuses=statuses)
    office.turn()
    shards = [office.read(str(shard)) for shard in range(3)]
    assert sorted(serial for one in shards for serial in one.serials) == sorted(statuses)
    for number, one in enumerate(shards):
        assert all(serial % 3 == number for serial in one.serials)
        point = one.crl.extensions.get_extension_for_oid(IDP)
        assert point.critical
        assert point.value.full_name[0].value == url.replace("{shard}", str(number))
    assert {one.number for one in shards} == {1}
    office.room.reconfigure("shards = 3", "shards = 2")
    office.new_publisher()
    with capture_logs() as logs:
        office.pass_time(12 * HOUR_S)
    assert "crl.shards must stay 3" in logs[0]["error"]
    assert office.number("0") == 1


SOON = f"revoked 2026-11-20T10:00:00Z exp={format_utc(time.time() + 7 * HOUR_S)}"


@pytest.mark.clause("RFC 5280", "3.3", "MUST NOT")
def test_an_expired_entry_leaves_after_one_more(make_office: MakeOffice) -> None:
    """CRL-09: it is on one regular CRL after its expiry, whatever is issued between, and on none after that."""
    office = make_office(statuses={1: GOOD, 2: SOON})
    office.turn()
    office.pass_time(8 * HOUR_S)  # it has expired
    office.revoke(1)
    office.settle()
    assert office.read().serials.keys() == {1, 2}
    office.pass_time(4 * HOUR_S)
    assert office.read().serials.keys() == {1, 2}
    assert office.number() == 3
    office.pass_time(12 * HOUR_S)
    assert office.read().serials.keys() == {1}


@pytest.mark.clause("EN 319 411-2", "6.3.10", "SHALL")
def test_expired_entries_that_are_kept(make_office: MakeOffice) -> None:
    """ETS-07: they stay, and expiredCertsOnCRL says since when."""
    office = make_office('expired = "keep", every = "24h"', profile="etsi", statuses={2: SOON})
    office.turn()
    for _ in range(3):
        office.pass_time(DAY_S)
    listed = office.read()
    assert listed.serials.keys() == {2}
    assert listed.number == 4
    extension = listed.crl.extensions.get_extension_for_oid(EXPIRED)
    assert not extension.critical
    since = office.room.ca.certificate.not_valid_before_utc.strftime("%Y%m%d%H%M%SZ").encode()
    assert extension.value.value == b"\x18\x0f" + since


def test_scope_and_next_publish(make_office: MakeOffice) -> None:
    """IDP-03, DST-06: what the CA issues is said in the flags; Windows hears when the next one comes."""
    office = make_office(f'scope = "cas", url = "{URL}", next_publish = true')
    office.turn()
    extensions = office.read().crl.extensions
    moment = datetime.fromtimestamp(office.began + 12 * HOUR_S, UTC).strftime("%y%m%d%H%M%SZ")
    point = extensions.get_extension_for_oid(IDP).value
    assert (point.only_contains_ca_certs, point.only_contains_user_certs) == (True, False)
    assert extensions.get_extension_for_oid(NEXT_PUBLISH).value.value == b"\x17\x0d" + moment.encode()


def test_reasons_that_the_baseline_does_not_have(make_office: MakeOffice) -> None:
    """ENT-02: the entry stays and its reason goes; a hold is not published as one."""
    statuses = {1: REVOKED.replace("keyC", "aAC"), 2: REVOKED, 3: REVOKED.replace("keyC", "cAC")}
    office = make_office(profile="webpki", statuses=statuses)
    office.turn()
    assert office.read().serials == {1: None, 2: "keyCompromise", 3: None}


@pytest.mark.clause("BR", "7.2.2", "MUST")
def test_cas_that_are_revoked_for_some_reason(make_office: MakeOffice) -> None:
    """ENT-01, ENT-02: in webpki the operator hears of CA certificates whose revocation has no reason; unspecified is no reason."""
    texts = {1: REVOKED.replace("keyCompromise ", ""), 2: REVOKED, 3: REVOKED.replace("keyC", "cAC")}
    office = make_office(
        f'scope = "cas", url = "{URL}", delta_every = "1h"', profile="webpki", statuses={**texts, 4: GOOD}
    )
    with capture_logs() as logs:
        office.turn()
    assert [(line["log_level"], line["entries"]) for line in logs if line["event"] == "crl_reasons_missing"] == [
        ("error", 1)
    ]
    assert office.read().serials == {1: None, 2: "keyCompromise", 3: "cACompromise"}
    office.revoke(4, text=texts[1])
    with capture_logs() as logs:
        office.settle()
    assert office.read("delta").serials == {4: None}
    assert [line["slot"] for line in logs if line["event"] == "crl_reasons_missing"] == ["delta"]


@pytest.mark.clause("Microsoft", "3.2.3", "SHOULD")
def test_a_crl_that_is_too_large(make_office: MakeOffice) -> None:
    """DST-06: it is published, and said."""
    office = make_office("large_bytes = 1024", statuses=dict.fromkeys(range(1, 31), REVOKED))
    with capture_logs() as logs:
        office.turn()
    (said,) = [line for line in logs if line["event"] == "crl_large"]
    assert "more than crl.large_bytes, 1,024 (Microsoft 3.2.3); shards" in said["text"]
    assert len(office.read().serials) == 30
    assert metrics.CRL_LARGE.labels("corp", "full")._value.get() == 1
    office.room.reconfigure("large_bytes = 1024", "large_bytes = 2048")
    office.new_publisher()
    office.turn()
    assert metrics.CRL_LARGE.labels("corp", "full")._value.get() == 0


def test_what_the_ca_issued_itself(make_office: MakeOffice) -> None:
    """CRL-07: the first number is above that of the CA's own last CRL, whose entries must all be there."""
    office = make_office(statuses={2: REVOKED})
    office.turn()
    theirs = office.depot.get("corp", "full")
    assert theirs is not None
    last = office.room.directory / "theirs.crl"
    last.write_bytes(office.depot.path(theirs).read_bytes())
    for path in (office.depot.root / "corp").iterdir():
        path.unlink()
    office.room.server.client().flushall()
    office.room.load({2: GOOD, 3: HELD})
    office.room.reconfigure("issue = true", 'issue = true, previous = "theirs.crl"')
    office.new_publisher()
    with capture_logs() as logs:
        office.pass_time(60)
    assert "predecessor: serial 02" in logs[-1]["error"]
    assert office.number() is None
    office.revoke(2)
    office.pass_time(60)
    assert office.number() == 3
    assert office.read().serials.keys() == {2, 3}


def test_a_previous_crl_that_is_not_the_cas(make_office: MakeOffice, tmp_path: Path) -> None:
    """A number that was taken up never goes back, so it is taken from the CA's own CRL alone."""
    office = make_office()
    (tmp_path / "other").mkdir()
    other = make_ca(tmp_path / "other", name="Somebody Else", label="other")
    (office.room.directory / "theirs.crl").write_bytes(make_crl(other, number=2**158))
    office.room.reconfigure("issue = true", 'issue = true, previous = "theirs.crl"')
    office.new_publisher()
    with capture_logs() as logs:
        office.turn()
    assert "theirs.crl" in logs[-1]["error"]
    assert "octet for octet" in logs[-1]["error"]
    assert (office.number(), office.series.office.store.crl_state(office.room.issuer.id).number) == (None, 0)


def test_nothing_before_the_source_was_read(make_office: MakeOffice) -> None:
    """Promise 2: without a whole load nothing may be said about any serial."""
    office = make_office()
    office.room.server.client().flushall()
    office.room.store.ensure_ca(office.room.issuer.id, name="corp", subject="CN=corp", certificate=b"")
    office.new_publisher()
    office.pass_time(60, source_is_read=False)
    assert office.number() is None


def test_another_machines_crls(make_office: MakeOffice) -> None:
    """DST-05: what one machine has issued the other has on its disk, does not issue again, and follows upon."""
    office = make_office('delta_every = "1h", url = "http://crl.example.test/corp.crl"')
    office.turn()
    first = office.depot
    office.room.reconfigure("[redis]", 'data_dir = "other"\n[redis]')
    office.new_publisher()
    office.depot = Depot(office.room.config.data_dir / DIRECTORY)
    assert office.depot.root != first.root
    office.settle()
    assert office.read().number == 1
    office.revoke(1)
    office.settle()
    assert office.read("delta").serials.keys() == {1}
    office.pass_time(12 * HOUR_S)
    assert office.read().number == office.read("delta").number
    for slot in ("full", "delta"):
        ours = office.depot.get("corp", slot)
        assert ours is not None
        store = office.series.office.store
        body = b"".join(store.read_crl_body(office.room.issuer.id, ours.sha256, ours.size))
        assert body == office.depot.path(ours).read_bytes()
    bodies = office.room.server.client().keys("rc:crl:*:body:*")
    assert len(bodies) == 2  # those that were replaced have made room


@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_another_keys_crls(make_office: MakeOffice) -> None:
    """IDP-04, IDP-06: a signer of another name makes indirect CRLs, whose entries say whose certificates they are."""
    office = make_office()
    room = office.room
    other = make_ca(room.directory / "other", "p384", name="Example CRL Issuer", label="crl", issuer=room.ca)
    keys = f'key = "{other.key_path}", certificate = "{other.certificate_path}", delta_every = "1h", url = "{URL}"'
    room.reconfigure('key = "ca.key"', keys)
    office.new_publisher()
    office.turn()
    office.revoke(1)
    office.settle()
    for slot, serials in (("full", {2, 3}), ("delta", {1})):
        path = office.depot.path(office.depot.get("corp", slot))  # type: ignore[arg-type]
        crl = x509.load_der_x509_crl(path.read_bytes())
        assert crl.issuer == other.certificate.subject
        assert crl.is_signature_valid(other.certificate.public_key())  # type: ignore[arg-type]
        point = crl.extensions.get_extension_for_oid(IDP)
        assert (point.critical, point.value.indirect_crl) == (True, True)
        assert {entry.serial_number for entry in crl} == serials
        first = crl[0].extensions.get_extension_for_class(x509.CertificateIssuer)
        assert first.critical
        assert first.value.get_values_for_type(x509.DirectoryName) == [room.ca.certificate.subject]


@pytest.mark.parametrize("key_type", ["p256", "rsa2048"])
def test_a_key_in_a_token(make_office: MakeOffice, softhsm: Callable[..., SoftHSMToken], key_type: str) -> None:
    """The CA's key never leaves its token: only the digest of a CRL goes there."""
    token = softhsm()
    token.import_key(key_of(key_type, "ca"), "ca", b"\x01")
    office = make_office(ca_key_type=key_type)
    office.room.reconfigure('key = "ca.key"', f'key = "{token.uri("ca")}", pin_file = "{token.pin_file}"')
    office.new_publisher()
    office.turn()
    assert office.read().serials.keys() == {2, 3}
    office.series.close()


def test_an_override_lists_everything(make_office: MakeOffice) -> None:
    """RFC 6960 §2.7: where all of a CA is revoked its CRL says so at once, and never with a delta."""
    office = make_office(f'delta_every = "1h", url = "{URL}"')
    office.turn()
    office.room.store.set_override(office.room.issuer.id, REVOKED)
    office.settle()
    number = office.number()
    office.pass_time(11)
    assert office.number() == number, "again and again"
    assert set(office.read().serials) == {1, 2, 3, 4}
    assert office.number("delta") is None
    office.room.store.set_override(office.room.issuer.id, "good")
    with capture_logs() as logs:
        office.settle()
    assert office.number() == number
    assert "override: an override holds for every certificate" in logs[-1]["error"]


def test_the_place_of_one_that_was_killed(make_office: MakeOffice) -> None:
    """A lease that a publisher of this machine left behind keeps no successor waiting; a process that is at work does."""
    office = make_office()
    store, holder = office.series.office.store, office.room.config.audit.machine_name
    store.lease_crls(office.room.issuer.id, holder, 60)
    office.series._holder = holder
    with office.depot.only_issuer("corp") as mine:
        assert mine
        office.turn()
        assert office.number() is None
    office.turn()
    assert office.number() == 1


def test_a_stop_in_the_middle(make_office: MakeOffice) -> None:
    """SIGTERM ends an issue under way: nothing half made stays, and nobody waits for the lease."""
    office = make_office()
    office.turn()
    heard: list[str] = []

    def stopped(what: str, _done: int) -> None:
        heard.append(what)
        if what == "full":
            raise Stopped

    office.series._progress = stopped
    office.clock.advance(12 * HOUR_S)
    office.room.set_as_of()
    with pytest.raises(Stopped):
        office.turn()
    assert heard[-1] == "full"
    assert office.number() == 1
    assert list((office.depot.root / "corp").glob(".fresh-*")) == []
    assert office.series.office.store.lease_crls(office.room.issuer.id, "another machine", 1)
