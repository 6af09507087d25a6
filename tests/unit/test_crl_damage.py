"""What lies damaged in Redis or in the depot: it stops one CA at most, is named with what to do, and is made good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from structlog.testing import capture_logs

from responder import metrics
from responder.config import load_config
from responder.crl.last import issue_last
from responder.crl.publisher import Publisher, Series, open_series
from responder.issuers import Issuers
from responder.store.redis_store import Store
from tests.crl_office import HELD, CRLOffice
from tests.pki import make_ca
from tests.signing_room import GOOD
from tests.store_room import NAMES

MakeOffice = Callable[..., CRLOffice]


class TwoCAs:
    """An office whose publisher issues another CA's CRLs too."""

    def __init__(self, office: CRLOffice) -> None:
        self.office, room = office, office.room
        make_ca(room.directory / "other", name="Other Issuing CA R1", label="other")
        room.config_file.write_text(
            room.config_file.read_text()
            + '[[ca]]\nname = "other"\ncertificate = "other/ca.pem"\nsource = { type = "openssl", path = "index.txt" }\n'
            'crl = { issue = true, key = "other/ca.key" }\nocsp = { key = "other/ca.key" }\n'
        )
        self.config = load_config(room.config_file)
        self.issuers = Issuers.from_config(self.config, str(room.config_file))
        self.store: Store = room.new_store()
        other = self.issuers.by_name("other")
        assert other is not None
        self.store.ensure_ca(other.id, name="other", subject="CN=other", certificate=other.certificate_der)
        self.store.create_buckets(other.id, 4)
        self.series: list[Series] = []

    def publisher(self) -> Publisher:
        """Start (again)."""
        file, clock = str(self.office.room.config_file), self.office.clock
        self.series = [open_series(self.config, file, issuer, self.store, clock) for issuer in self.issuers]
        return Publisher(self.series, self.store, clock, self.office.room.guard())

    def read_sources(self) -> None:
        for issuer in self.issuers:
            self.store.set_as_of(issuer.id, self.office.clock.now())

    def numbers(self) -> list[int | None]:
        found = [self.office.depot.get(name, "full") for name in ("corp", "other")]
        return [one.number if one is not None else None for one in found]


@pytest.fixture
def two(make_office: MakeOffice) -> Iterator[TwoCAs]:
    found = TwoCAs(make_office())
    yield found
    for one in found.series:
        one.close()


@pytest.mark.parametrize("field", ["number", "regular:full", "base:full", "shards"])
def test_a_field_that_cannot_be_read_stops_one_ca(two: TwoCAs, field: str) -> None:
    """The alarm names key and field, and what to type; once that is done the CA's CRLs go on."""
    office = two.office
    office.turn()
    two.read_sources()
    two.publisher().turn()
    assert two.numbers() == [1, 1]
    key = f"rc:crl:{office.room.issuer.id}"
    client = office.room.server.client()
    client.hset(key, field, "]")
    publisher = two.publisher()  # a restart
    office.clock.advance(13 * 3600)
    two.read_sources()
    with capture_logs() as logs:
        for _ in range(3):
            publisher.turn()
    assert two.numbers() == [1, 2]
    (alarm,) = [line for line in logs if line["log_level"] == "error"]
    assert (alarm["event"], alarm["ca"], alarm["reason"]) == ("crl_not_issued", "corp", "store")
    said = f"redis-cli HDEL {key} {field}"
    assert f"{key} holds a field that is not understood: {field} = ']'" in alarm["error"]
    assert said in alarm["error"]
    client.execute_command(*said.split()[1:])
    office.clock.advance(61)
    for _ in range(3):
        publisher.turn()
    assert two.numbers() == [2, 2]


def turns(two: TwoCAs, publisher: Publisher) -> list[tuple[str, str, str]]:
    """Have the publisher turn while both CAs' CRLs are due; returns CA, reason and text of each alarm."""
    two.office.clock.advance(13 * 3600)
    two.read_sources()
    with capture_logs() as logs:
        for _ in range(3):
            publisher.turn()
    return [(line["ca"], line["reason"], line["error"]) for line in logs if line["event"] == "crl_not_issued"]


def go_on(two: TwoCAs, publisher: Publisher) -> None:
    two.office.clock.advance(61)
    for _ in range(3):
        publisher.turn()


def test_a_key_of_another_kind_stops_one_ca(two: TwoCAs) -> None:
    """A stream in the place of an empty hash of the revoked: the alarm names it."""
    office = two.office
    two.read_sources()
    publisher = two.publisher()
    publisher.turn()
    key = NAMES.revoked(office.room.issuer.id, 0)
    client = office.room.server.client()
    assert not client.exists(key)
    client.xadd(key, {"a": "b"})
    ((ca, reason, error),) = turns(two, publisher)
    assert (ca, reason) == ("corp", "store")
    assert f"{key} is no hash" in error
    assert error.endswith(f"remove it: redis-cli DEL {key}")
    assert two.numbers() == [1, 2]
    assert metrics.CRL_OVERDUE.labels("corp")._value.get() > 3000, "due all the while"
    client.delete(key)
    go_on(two, publisher)
    assert two.numbers() == [2, 2]


def test_what_changes_too_fast_stops_one_ca(two: TwoCAs) -> None:
    """A CA whose journal is trimmed before it is read, again and again."""
    office = two.office
    two.read_sources()
    publisher = two.publisher()
    publisher.turn()
    client = office.room.server.client()
    texts = cycle([HELD, GOOD])

    def meddle(_what: str, _done: int) -> None:
        office.room.change(1, next(texts), "changed")
        for p in range(16):
            client.xtrim(NAMES.journal(p), maxlen=0, approximate=False)

    series, progress = two.series[0], two.series[0]._progress
    series._progress = meddle
    ((ca, reason, error),) = turns(two, publisher)
    assert (ca, reason) == ("corp", "store")
    assert "could not be read as of one instant" in error
    assert two.numbers() == [1, 2]
    series._progress = progress
    go_on(two, publisher)
    assert (two.numbers()[0] or 0) > 1


def test_a_disk_that_takes_nothing_stops_one_ca(two: TwoCAs) -> None:
    """A damaged file that cannot be set aside, from the first look on."""
    office = two.office
    two.read_sources()
    two.publisher().turn()
    published = office.depot.get("corp", "full")
    assert published is not None
    path = office.depot.path(published)
    path.write_bytes(path.read_bytes()[:-1])
    lock = path.with_name(".lock")
    lock.unlink()
    lock.mkdir()
    with capture_logs() as logs:
        publisher = two.publisher()
    assert [line["reason"] for line in logs if line["event"] == "crl_not_issued"] == ["disk"]
    assert [ca for ca, _, _ in turns(two, publisher)] in ([], ["corp"])  # said already, a moment ago
    assert two.numbers() == [1, 2]
    lock.rmdir()
    go_on(two, publisher)
    assert two.numbers() == [2, 2]


def test_what_is_published_cannot_be_read(make_office: MakeOffice) -> None:
    """It is published anew, since its number is above all that were given away."""
    office = make_office()
    office.turn()
    key = f"rc:crl:{office.room.issuer.id}"
    office.room.server.client().hset(key, "published:full", "]")
    office.new_publisher()
    office.turn()
    assert office.number() == 2
    assert b'"number": 2' in office.room.server.client().hget(key, "published:full")


@pytest.mark.parametrize("is_bare", [False, True], ids=["with one before it", "the first"])
def test_a_file_that_was_changed_is_issued_anew(make_office: MakeOffice, is_bare: bool) -> None:
    """At the same size: at once, though nothing is due and there is no news; until then clients get the one before it."""
    office = make_office("share = false")  # else it is fetched from Redis
    office.turn()
    if not is_bare:
        office.revoke(1)
        office.turn()
        office.pass_time(11, source_is_read=False)  # so that both are as of the same moment
    published = office.depot.get("corp", "full")
    assert published is not None
    number = published.number or 0
    path = office.depot.path(published)
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    counted = metrics.CRL_FILES_DAMAGED.labels("corp")
    before, key = counted._value.get(), office.room.directory / "ca.key"
    key.rename(key.with_suffix(".away"))
    office.new_publisher()
    for _ in range(3):
        office.pass_time(6, source_is_read=False)
    assert counted._value.get() == before + 1
    assert office.number() == (None if is_bare else number - 1)
    key.with_suffix(".away").rename(key)
    office.pass_time(61, source_is_read=False)
    assert office.read().number == number + 1
    assert office.read().serials.keys() == ({2, 3} if is_bare else {1, 2, 3})
    made = office.depot.get("corp", "full")
    assert made is not None
    assert made.lost is None
    office.pass_time(60)  # the source is read: where that one has brought nothing newer, one by schedule does
    assert office.number() == number + (1 if is_bare else 2)
    office.pass_time(60)
    assert office.number() == number + (1 if is_bare else 2)


@pytest.mark.parametrize("delta", ["", ', delta_every = "1h"'])
def test_one_shards_only_file_is_lost(make_office: MakeOffice, delta: str) -> None:
    """It is issued anew though the source stands still and the other shards have all that it says."""
    office = make_office(f'share = false, shards = 3, url = "http://crl.example-trust.com/{{shard}}.crl"{delta}')
    office.turn()
    for slot in ["1", "1-delta"] if delta else ["1"]:
        published = office.depot.get("corp", slot)
        assert published is not None
        office.depot.path(published).unlink()
        for _ in range(3):
            office.pass_time(6, source_is_read=False)
        again = office.depot.get("corp", slot)
        assert again is not None, slot
        assert again.number == (published.number or 0) + 1


def test_the_last_crl_is_lost(make_office: MakeOffice) -> None:
    """It is found while nothing is due any more; what the alarm says to type leads to another last one."""
    office = make_office("share = false")
    office.turn()
    office.revoke(1, 4)
    issue_last(office.series)
    office.turn()
    published = office.depot.get("corp", "full")
    assert published is not None
    assert published.is_last
    office.depot.path(published).unlink()
    office.clock.advance(6)
    with capture_logs() as logs:
        office.turn()
    (alarm,) = [line for line in logs if line["event"] == "crl_not_issued"]
    assert office.number() == 1
    said = f"redis-cli HDEL rc:crl:{office.room.issuer.id} ended"
    assert f"last CRL, number 2, was lost: {said}" in alarm["error"]
    office.room.server.client().execute_command(*said.split()[1:])
    office.new_publisher()
    office.turn()
    assert office.number() == 3
    issue_last(office.series)
    published = office.depot.get("corp", "full")
    assert published is not None
    assert (published.number, published.is_last, published.lost) == (4, True, None)
