"""Signers that are replaced, or configured ahead, while answers are signed: which one signs, and what its answers say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from fastpath.ocsp_response import AnswerHeader
from responder import live, metrics
from responder.clock import format_utc
from responder.config import DAY_S, HOUR_S, load_config
from responder.errors import ConfigError, SignerOpening, SignerUnavailable
from responder.issuers import Issuers
from responder.live import Question, ReplyKind
from responder.model import serial_to_octets
from responder.roles.presign import opened_signers
from responder.signing import hsm, rollover
from responder.signing.answers import SIGNER_RECHECK_S
from responder.signing.desk import put_desk
from responder.signing.hsm import _hosts
from responder.signing.rollover import LOOK_EVERY_S, RETRY_MOST_S, SignerWatch
from tests.pki import PKI, Signer, key_of, make_ca, make_signer, write_key
from tests.signing_room import GOOD, Room
from tests.softhsm import SoftHSMToken, Spy

DER = Encoding.DER
SERIALS = range(1, 40)
Logs = list[MutableMapping[str, Any]]
ENOUGH_LOOKS_S = 2  # one that sees the change, one that sees it stand


class Office:
    """A room whose presigner and live signer have their signers from a watch, as the presigning role has."""

    def __init__(self, room: Room) -> None:
        self.room = room
        room.config = load_config(room.config_file)
        room.issuers = Issuers.from_config(room.config, str(room.config_file))
        room.issuer = next(iter(room.issuers))
        self.watch = SignerWatch(room.config, str(room.config_file), room.clock)
        self.watch.look()
        self.presigner = room.presigner(signers=self.watch.signers)
        self.live = room.live(self.presigner)
        self._asked = 0
        self._replied = b"0"

    def pass_time(self, seconds: float = ENOUGH_LOOKS_S, step_s: float = 1.0) -> None:
        """Let time pass and do what the role does meanwhile; the source is read all along."""
        end = self.room.clock.monotonic() + seconds
        while self.room.clock.monotonic() < end:
            self.room.clock.advance(min(step_s, end - self.room.clock.monotonic()))
            self.room.set_as_of()
            self.look()
            self.presigner.run_until_idle()

    def look(self) -> None:
        """Take up whoever signs from now on."""
        for issuer, signer in self.watch.look(self.presigner.signs_with):
            put_desk(self.presigner.desks, self.room.store, issuer, signer, self.room.clock)

    def ask(self, serial: int = 1) -> ocsp.OCSPResponse:
        """Have a question with a nonce answered live; the answer is verified with the certificate that it carries."""
        self._asked += 1
        question = Question(
            self._asked, self.room.issuer.id, "sha1", (serial_to_octets(serial),), b"\x04\x10" + os.urandom(16)
        )
        # The id of an entry is Redis's clock; the test's own stands in for it.
        at_ms, layout = int(self.room.clock.now() * 1000), self.room.store.layout
        client = self.room.server.client()
        client.xadd(layout.ask(), live.encode_ask("w1", at_ms, [question]), id=f"{at_ms}-*")
        self.live.poll()
        ((self._replied, fields),) = client.xrange(layout.replies("w1"), b"(" + self._replied)
        (reply,) = live.decode_replies(fields)
        assert reply.kind is ReplyKind.ANSWER
        return self.room.read(reply.response_der)

    def signs_with(self) -> x509.Certificate:
        """Return the certificate of a live answer."""
        return self.ask().certificates[0]

    def close(self) -> None:
        self.watch.close()


@pytest.fixture
def open_office(make_room: Callable[..., Room]) -> Iterator[Callable[..., Office]]:
    """Give ``open_office(room=None, **room_options)``: everything loaded and signed."""
    offices: list[Office] = []

    def make(room: Room | None = None, **options: Any) -> Office:
        room = room or make_room(**options)
        offices.append(Office(room))
        room.load(dict.fromkeys(SERIALS, GOOD))
        offices[-1].presigner.run_until_idle()
        return offices[-1]

    yield make
    for office in offices:
        office.close()


def new_signer(room: Room, label: str = "new", **options: Any) -> Signer:
    """Have the CA issue another signer, beside the one in use."""
    return make_signer(room.ca, room.key_type, file_name=label, label=label, name=f"OCSP {label}", **options)


def put(source: Path, place: Path) -> None:
    """Replace a file in one step."""
    fresh = place.with_suffix(".fresh")
    fresh.write_bytes(source.read_bytes())
    fresh.replace(place)


def install(room: Room, signer: Signer) -> None:
    """Put a signer in the place of the configured one."""
    put(signer.certificate_path, room.directory / "ocsp.pem")
    put(signer.key_path, room.directory / "ocsp.key")


def configure(room: Room, options: str) -> None:
    """Write more into the table [ca.ocsp]."""
    room.config_file.write_text(room.config_file.read_text() + options + "\n")


def following(room: Room, signer: Signer, start: float) -> str:
    """Write the table of a signer that is configured ahead."""
    return f'[ca.ocsp.next]\nfrom = {format_utc(start)}\ncertificate = "{signer.certificate_path}"\nkey = "{signer.key_path}"\n'


def events(logs: Logs, *names: str) -> Logs:
    """Return the log records of these events."""
    return [record for record in logs if record["event"] in names]


def refused(ca: str = "corp") -> float:
    """Return the metric that says that a configured signer is not used."""
    return metrics.SIGNER_REFUSED.labels(ca)._value.get()  # type: ignore[no-any-return]


def not_after(ca: str = "corp") -> float:
    """Return the metric of the signer's end."""
    return metrics.SIGNER_NOT_AFTER.labels(ca)._value.get()  # type: ignore[no-any-return]


# --- files replaced ---------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9919", "3.2.2", "SHOULD")
def test_a_replaced_pair_signs_from_then_on(open_office: Callable[..., Office]) -> None:
    """DEL-04: live answers are the new signer's at once, ready ones when they are refreshed; each carries its own."""
    office = open_office()
    room = office.room
    first, second = room.signer.certificate_der, new_signer(room)
    install(room, second)
    office.pass_time()
    assert office.signs_with() == second.certificate
    assert not_after() == second.certificate.not_valid_after_utc.timestamp()
    ready = room.all_stored(SERIALS)
    assert len(ready) == len(SERIALS)
    assert all(answer.certificates[0].public_bytes(DER) == first for answer in ready.values())
    # A revocation is the new signer's too, beside the others' answers in the same bucket.
    room.change(7, f"revoked {format_utc(room.clock.now())} keyCompromise")
    office.pass_time(1)
    revoked = room.stored(7)
    assert revoked is not None
    assert revoked.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert revoked.certificates[0] == second.certificate
    # Half of the validity later all of them are.
    office.pass_time(2 * DAY_S, HOUR_S)
    ready = room.all_stored(SERIALS)
    assert len(ready) == len(SERIALS)
    assert all(answer.certificates[0] == second.certificate for answer in ready.values())
    # And back again, while the one in between is closed.
    install(room, make_signer(room.ca, room.key_type, file_name="third", label="ocsp"))
    office.pass_time()
    assert office.signs_with() != second.certificate


def test_what_is_under_way_is_finished_with_the_old_key(open_office: Callable[..., Office]) -> None:
    """However long it takes: the old key is closed after that, and nothing fails meanwhile."""
    office = open_office()
    room = office.room
    old, desks = office.watch.signers[room.issuer.id], office.presigner.desks
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    desks[room.issuer.id].press.slice_size = 1
    office.presigner.turn()
    assert office.presigner.signs_with(old)
    install(room, new_signer(room))
    for _ in range(5):
        room.clock.advance(1)
        office.look()
    assert desks[room.issuer.id].signer is not old
    old.signer.sign([b"open"])
    assert office.presigner.run_until_idle() > 0
    assert not office.presigner.signs_with(old)
    assert len(room.all_stored(SERIALS)) == len(SERIALS)
    office.pass_time()
    with pytest.raises(SignerUnavailable, match="closed"):
        old.signer.sign([b"closed"])


def test_certificate_first_and_key_a_moment_later(open_office: Callable[..., Office]) -> None:
    """In between the old pair signs on, and the log says so once; what does not belong together signs nothing."""
    office = open_office()
    room = office.room
    first, second = office.signs_with(), new_signer(room)
    with capture_logs() as logs:
        put(second.certificate_path, room.directory / "ocsp.pem")
        office.pass_time(3 * RETRY_MOST_S)
        assert office.signs_with() == first
        assert refused() == 1
        (line,) = events(logs, "signer_not_taken_up")
        assert "its key is not the configured one" in line["error"]
        put(second.key_path, room.directory / "ocsp.key")
        office.pass_time()
        assert office.signs_with() == second.certificate
        assert refused() == 0
    assert len(events(logs, "signer_not_taken_up")) == 1
    assert len(events(logs, "signer_taken_up")) == 1


def test_both_within_a_second_is_no_matter_for_the_log(open_office: Callable[..., Office]) -> None:
    """Files that change between two looks are left alone until they stand: an ordinary rollover logs no error."""
    office = open_office()
    room = office.room
    second = new_signer(room)
    with capture_logs() as logs:
        put(second.certificate_path, room.directory / "ocsp.pem")
        office.pass_time(1)
        put(second.key_path, room.directory / "ocsp.key")
        office.pass_time()
    assert office.signs_with() == second.certificate
    assert not [record for record in logs if record["log_level"] == "error"]


def test_a_file_that_is_half_written_is_looked_at_again(open_office: Callable[..., Office]) -> None:
    """Written in place, bit by bit: neither half of a certificate nor none at all disturbs the signer in use."""
    office = open_office()
    room = office.room
    first, second = office.signs_with(), new_signer(room)
    whole = second.certificate_path.read_bytes()
    put(second.key_path, room.directory / "ocsp.key")
    with capture_logs() as logs:
        for written in (b"", whole[: len(whole) // 2], whole[:-80]):
            (room.directory / "ocsp.pem").write_bytes(written)
            office.pass_time()
            assert office.signs_with() == first
        (room.directory / "ocsp.pem").unlink()
        office.pass_time()
        assert office.signs_with() == first
        assert len(events(logs, "signer_not_taken_up")) == 4  # one for each change
        (room.directory / "ocsp.pem").write_bytes(whole)
        office.pass_time()
    assert office.signs_with() == second.certificate


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extended_key_usage": ()}, "OCSPSigning"),
        ({"not_after": 1_000_000_000, "not_before": 999_999_999}, "expired"),
        ({"not_before": 2**31 - 2, "not_after": 2**31 - 1}, "not valid before"),
    ],
)
def test_a_pair_that_may_not_sign_is_not_taken_up(
    open_office: Callable[..., Office], options: dict[str, Any], words: str
) -> None:
    """What would be refused at the start is refused in operation, in one line."""
    office = open_office()
    first = office.signs_with()
    with capture_logs() as logs:
        install(office.room, new_signer(office.room, **options))
        office.pass_time(2 * RETRY_MOST_S)
    assert office.signs_with() == first
    (line,) = events(logs, "signer_not_taken_up")
    assert words in line["error"]
    assert "\n" not in line["error"]


def test_another_cas_signer_is_not_taken_up_and_the_other_ca_is_not_disturbed(
    open_office: Callable[..., Office], make_room: Callable[..., Room]
) -> None:
    """One CA's broken pair costs the others nothing; and a CA that had no signer gets one without a restart."""
    room = make_room()
    other = make_ca(room.directory / "other", label="other-ca", name="Another CA", delegated=True)
    good_key = other.directory / "good.key"
    put(other.directory / "ocsp.key", good_key)
    write_key(other.directory / "ocsp.key", key_of("p256", "somebody-else"))
    room.config_file.write_text(
        room.config_file.read_text() + '[[ca]]\nname = "other"\ncertificate = "other/ca.pem"\n'
        'source = { type = "openssl", path = "index.txt" }\n'
        '[ca.ocsp]\ncertificate = "other/ocsp.pem"\nkey = "other/ocsp.key"\n'
    )
    with capture_logs() as logs:
        office = open_office(room)
        other_id = room.issuers.by_name("other").id  # type: ignore[union-attr]
        assert other_id not in office.presigner.desks
        assert refused("other") == 1
        room.store.ensure_ca(other_id, name="other", subject="CN=other", certificate=b"other")
        second = new_signer(room)
        install(room, second)
        office.pass_time()
        assert office.signs_with() == second.certificate
        put(good_key, other.directory / "ocsp.key")
        office.pass_time()
        assert office.presigner.desks[other_id].signer.certificate_der == other.answer_signer.certificate_der
        assert refused("other") == 0
        # Then the other's files are spoilt by ours: the one that was good signs on.
        put(second.certificate_path, other.directory / "ocsp.pem")
        put(second.key_path, other.directory / "ocsp.key")
        office.pass_time()
    assert office.presigner.desks[other_id].signer.certificate_der == other.answer_signer.certificate_der
    assert office.signs_with() == second.certificate
    assert [line["ca"] for line in events(logs, "signer_not_taken_up", "signer_unavailable")] == ["other", "other"]


def test_whatever_goes_wrong_is_one_line(open_office: Callable[..., Office], monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours in reading one CA's files does not end the role, which has others to sign for."""
    office = open_office()
    first = office.signs_with()

    def fail(*_: object, **__: object) -> None:
        raise LookupError("two\nlines")

    with capture_logs() as logs:
        monkeypatch.setattr(rollover, "open_configured", fail)
        install(office.room, new_signer(office.room))
        office.pass_time(RETRY_MOST_S)
    assert office.signs_with() == first
    (line,) = events(logs, "signer_not_taken_up")
    assert line["error"] == "LookupError: two lines"


def test_the_same_pair_spelt_otherwise_is_no_other_signer(open_office: Callable[..., Office]) -> None:
    """Text around a certificate, or another form of the key's file: nothing is taken up, nothing is said."""
    office = open_office()
    room = office.room
    with capture_logs() as logs:
        pem = room.directory / "ocsp.pem"
        pem.write_text("issued by hand\n" + pem.read_text())
        office.pass_time()
        assert office.signs_with().public_bytes(DER) == room.signer.certificate_der
    assert not events(logs, "signer_taken_up", "signer_not_taken_up")


def test_files_are_looked_at_in_bounds(open_office: Callable[..., Office], monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the role comes round."""
    office = open_office()
    read: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))  # type: ignore[func-returns-value]
    office.pass_time(2.5 * LOOK_EVERY_S, LOOK_EVERY_S / 100)
    assert sorted(path.name for path in read) == sorted(["ca.pem", "ocsp.pem", "ocsp.key"] * 2)


def test_a_token_that_hangs_leaves_time_for_the_others(
    open_office: Callable[..., Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying it holds up whoever signs for all CAs: a quarter of the time at most."""
    office = open_office()
    clock, held_up = office.room.clock, [0.0]
    install(office.room, new_signer(office.room))

    def hang(*_: object, **__: object) -> None:
        clock.advance(10)
        held_up[0] += 10
        raise SignerUnavailable("it hangs")

    monkeypatch.setattr(rollover, "open_configured", hang)
    began = clock.monotonic()
    while clock.monotonic() < began + 400:
        clock.advance(0.5)
        office.look()
    assert 50 <= held_up[0] <= 110


# --- the signer's end -------------------------------------------------------------------------------------------------


@pytest.mark.clause("Mozilla", "6", "MUST")
def test_answers_end_with_their_signer_and_are_renewed_with_it(open_office: Callable[..., Office]) -> None:
    """DEL-05: two days left, four days of validity: nextUpdate is notAfter; renewed in time they last four days again."""
    office = open_office()
    room = office.room
    start = int(room.clock.now())
    ending = new_signer(room, "ending", not_after=start + 2 * DAY_S)
    install(room, ending)
    office.pass_time()
    room.store.make_due(room.issuer.id, room.bucket_of(1), 0)
    room.change(1, f"revoked {format_utc(start)} keyCompromise")
    office.pass_time(1)
    clipped, asked = room.stored(1), office.ask()
    assert clipped is not None
    for answer in (clipped, asked):
        assert answer.certificates[0] == ending.certificate
        assert answer.next_update_utc == ending.certificate.not_valid_after_utc
    # A day later its successor comes; what would have run out with the old one is signed again before.
    office.pass_time(DAY_S, HOUR_S)
    second = new_signer(room, "second", not_after=start + 60 * DAY_S)
    install(room, second)
    office.pass_time(start + 2 * DAY_S - 60 - room.clock.now(), HOUR_S)
    renewed = room.stored(1)
    assert renewed is not None
    assert renewed.certificates[0] == second.certificate
    assert renewed.next_update_utc is not None
    assert renewed.next_update_utc.timestamp() > start + 4 * DAY_S
    assert_nothing_outlives_its_signer(room)


def assert_nothing_outlives_its_signer(room: Room) -> None:
    """Every stored answer's nextUpdate is within the dates of the certificate that it carries."""
    for answer in room.all_stored(SERIALS).values():
        assert answer.next_update_utc is not None
        assert answer.next_update_utc <= answer.certificates[0].not_valid_after_utc


def test_an_ended_signer_is_replaced_without_a_restart(open_office: Callable[..., Office]) -> None:
    """The operator was late: nothing is signed in between, and everything as soon as the new pair is there."""
    office = open_office(signer_not_after=int(time.time()) + DAY_S)
    room = office.room
    office.pass_time(3 * DAY_S, 6 * HOUR_S)
    assert_nothing_outlives_its_signer(room)
    late = int(room.clock.now())
    second = new_signer(room, "second", not_after=late + 30 * DAY_S)
    install(room, second)
    office.pass_time(60)
    ready = room.all_stored(SERIALS)
    assert len(ready) == len(SERIALS)
    for answer in ready.values():
        assert answer.certificates[0] == second.certificate
        assert answer.next_update_utc is not None
        assert late < answer.next_update_utc.timestamp()


def test_a_signer_about_to_end_is_told_of_daily(open_office: Callable[..., Office]) -> None:
    """A process that runs for a year says so too, not only one that starts."""
    office = open_office()  # its signer has a month
    with capture_logs() as logs:
        office.pass_time(15 * DAY_S, 6 * HOUR_S)
        assert events(logs, "signer_expires") == []
        office.pass_time(3 * DAY_S, 6 * HOUR_S)
    assert len(events(logs, "signer_expires")) in (2, 3)


# --- configured ahead -------------------------------------------------------------------------------------------------


def test_the_next_signer_takes_over_at_its_time(
    open_office: Callable[..., Office], make_room: Callable[..., Room]
) -> None:
    """DEL-04: to the second, and no sooner; the second before is the old one's."""
    room = make_room()
    start = int(room.clock.now()) + 3 * DAY_S
    second = new_signer(room, not_before=start, not_after=start + 30 * DAY_S)
    configure(room, following(room, second, start))
    office = open_office(room)
    first = office.signs_with()
    with capture_logs() as logs:
        office.pass_time(3 * DAY_S - 1, HOUR_S)
        assert room.clock.now() == start - 1
        assert office.signs_with() == first
        office.pass_time(1)
        assert office.signs_with() == second.certificate
        assert not_after() == start + 30 * DAY_S
        # It is the one that counts now: the old files do not, the new ones do.
        install(room, new_signer(room, "stray"))
        office.pass_time()
        assert office.signs_with() == second.certificate
        third = new_signer(room, "third")
        put(third.certificate_path, second.certificate_path)
        put(third.key_path, second.key_path)
        office.pass_time()
        assert office.signs_with() == third.certificate
    assert len(events(logs, "signer_taken_up")) == 2
    assert not [record for record in logs if record["log_level"] == "error"]
    # A role that starts now begins with it.
    with closing(SignerWatch(room.config, str(room.config_file), room.clock)) as watch:
        watch.look()
        assert watch.signers[room.issuer.id].certificate_der == third.certificate_der


def test_a_next_signer_that_has_been_spoilt(open_office: Callable[..., Office], make_room: Callable[..., Room]) -> None:
    """It is known ahead, while there is time; at its time the old one signs on until it is mended."""
    room = make_room()
    start = int(room.clock.now()) + DAY_S
    second = new_signer(room)
    configure(room, following(room, second, start))
    office = open_office(room)
    first = office.signs_with()
    assert refused() == 0
    with capture_logs() as logs:
        kept = second.key_path.read_bytes()
        write_key(second.key_path, key_of("p256", "somebody-else"))
        office.pass_time(HOUR_S, 60)
        (line,) = events(logs, "next_signer_unusable")
        assert "ca[corp].ocsp.next.certificate" in line["error"]
        assert refused() == 1
        office.pass_time(DAY_S, HOUR_S)
        assert office.signs_with() == first
        assert len(events(logs, "signer_not_taken_up")) == 1
        # Meanwhile the old one may still be renewed.
        renewed = new_signer(room, "renewed")
        install(room, renewed)
        office.pass_time()
        assert office.signs_with() == renewed.certificate
        assert refused() == 1
        second.key_path.write_bytes(kept)
        office.pass_time()
        assert office.signs_with() == second.certificate
        assert refused() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"not_after": 20 * DAY_S}, ["ocsp.next.from", "past the end of"]),
        ({"not_before": 29 * DAY_S, "not_after": 60 * DAY_S}, ["ocsp.next.certificate", "not valid before"]),
        ({"extended_key_usage": (), "not_after": 60 * DAY_S}, ["ocsp.next.certificate", "OCSPSigning"]),
        ({"key": "mismatch", "not_after": 60 * DAY_S}, ["ocsp.next.certificate", "its key is not the configured one"]),
    ],
)
def test_a_next_signer_that_could_never_work_is_refused(
    make_room: Callable[..., Room], options: dict[str, Any], words: list[str]
) -> None:
    """At configuration time, in one line that names the key."""
    room = make_room()
    now = int(room.clock.now())
    times = {name: now + value for name, value in options.items() if name.startswith("not_")}
    second = new_signer(room, **{**options, **times, "key": None})
    if "key" in options:
        write_key(second.key_path, key_of("p256", "somebody-else"))
    configure(room, following(room, second, now + 28 * DAY_S))
    with (
        pytest.raises(ConfigError) as caught,
        opened_signers(load_config(room.config_file), str(room.config_file), room.clock),
    ):
        pytest.fail("it was accepted")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_gap_before_the_next_signer_is_a_warning(make_room: Callable[..., Room]) -> None:
    """Nobody would sign between the old one's end and the new one's time."""
    room = make_room()
    now = int(room.clock.now())
    configure(room, following(room, new_signer(room, not_after=now + 60 * DAY_S), now + 40 * DAY_S))
    with (
        capture_logs() as logs,
        opened_signers(load_config(room.config_file), str(room.config_file), room.clock) as (_, signers),
    ):
        assert len(signers) == 1
    assert any("nobody signs from" in line["text"] for line in events(logs, "signer_warning"))


# --- keys in a token, and the CA itself -------------------------------------------------------------------------------


def test_a_token_that_is_slow_to_open_keeps_nobody_waiting(
    make_room: Callable[..., Room],
    softhsm: Callable[..., SoftHSMToken],
    spy: Spy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Looks come back without it, and ask for the same opening again; one that takes too long is an error like others."""
    token = softhsm()
    room = make_room()
    token.import_key(key_of("p256", "ocsp"), "signer", b"\x01")
    uri = token.uri("signer", module=spy.module)
    configured = room.config_file.read_text().replace('key = "ocsp.key"', f"key = '{uri}'")
    room.config_file.write_text(configured + f'pin_file = "{token.pin_file}"\n')
    spy.order("login-hang", "")
    config = load_config(room.config_file)
    with closing(SignerWatch(config, str(room.config_file), room.clock, first_patience_s=0.0)) as watch:
        with monkeypatch.context() as patched:
            patched.setattr(hsm, "OPEN_WITHIN_S", 0.2)
            looks = 0
            while "was not opened within" not in (said := capsys.readouterr().out):
                assert "signer_unavailable" not in said
                watch.look()
                looks += 1
                room.clock.advance(LOOK_EVERY_S)
        assert looks > 3
        assert not watch.signers
        room.clock.advance(RETRY_MOST_S)
        watch.look()
        assert not watch.signers
        spy.withdraw("login-hang")
        while not watch.signers:
            room.clock.advance(LOOK_EVERY_S)
            watch.look()
        assert spy.login_count <= 2
        assert "signer_unavailable" not in capsys.readouterr().out
    assert not _hosts


def test_a_token_that_takes_all_the_first_patience_is_asked_again_soon(
    make_room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is signed nobody else waits, so no pause makes up for it."""
    room = make_room()
    asked: list[float] = []

    def opening(*_: object, patience_s: float) -> None:
        asked.append(patience_s)
        room.clock.advance(patience_s)
        raise SignerOpening("it is being opened")

    monkeypatch.setattr(rollover, "open_configured", opening)
    with closing(SignerWatch(room.config, str(room.config_file), room.clock)) as watch:
        watch.look()
        room.clock.advance(LOOK_EVERY_S)
        watch.look()
    assert asked == [rollover.FIRST_PATIENCE_S, pytest.approx(rollover.PATIENCE_S)]


def test_another_key_in_the_token_under_the_same_uri(
    make_room: Callable[..., Room],
    softhsm: Callable[..., SoftHSMToken],
    open_office: Callable[..., Office],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The token's key and the certificate's file are replaced one after the other, in either order, without a restart."""
    monkeypatch.setattr(rollover, "PATIENCE_S", 10.0)  # the looks of a test's clock follow each other at once
    token = softhsm()
    room = make_room()
    token.import_key(key_of("p256", "ocsp"), "signer", b"\x01")
    configured = room.config_file.read_text().replace('key = "ocsp.key"', f"key = '{token.uri('signer')}'")
    room.config_file.write_text(configured + f'pin_file = "{token.pin_file}"\n')
    office = open_office(room)
    first = office.signs_with()
    second = new_signer(room)
    put(second.certificate_path, room.directory / "ocsp.pem")
    office.pass_time(10)
    assert office.signs_with() == first

    def replace_key(key: Any) -> None:
        token.script(
            "for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):\n"
            "    for found in list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: 'signer'})):\n"
            "        found.destroy()\n"
        )
        token.import_key(key, "signer", b"\x01")

    replace_key(second.key)
    office.pass_time(RETRY_MOST_S)
    assert office.signs_with() == second.certificate
    # The other way round: until the certificate is there the new key is not used, and ready answers stand.
    third = new_signer(room, "third")
    replace_key(third.key)
    office.pass_time(2)
    put(third.certificate_path, room.directory / "ocsp.pem")
    office.pass_time()
    assert office.signs_with() == third.certificate
    assert len(room.all_stored(SERIALS)) == len(SERIALS)
    office.close()
    office.watch = SignerWatch(room.config, str(room.config_file), room.clock)
    assert not _hosts


def test_a_renewed_ca_certificate_where_the_ca_itself_signs(make_room: Callable[..., Room]) -> None:
    """The same key with a later end: answers are bounded by that from then on; another key is another CA."""
    room = make_room()
    now = int(room.clock.now())
    ca = make_ca(room.directory, not_after=now + DAY_S)
    text = room.config_file.read_text().replace('certificate = "ocsp.pem"\n', "").replace("ocsp.key", "ca.key")
    room.config_file.write_text(text)
    office = Office(room)
    room.load(dict.fromkeys(SERIALS, GOOD))
    try:
        office.presigner.run_until_idle()
        assert {header.next_update for header in headers(room)} == {now + DAY_S}
        before = {header.signer_id for header in headers(room)}
        with capture_logs() as logs:
            another = make_ca(room.directory / "another", label="another", name="Another CA")
            put(another.certificate_path, room.directory / "ca.pem")
            office.pass_time()
            (line,) = events(logs, "signer_not_taken_up")
            assert "another subject or key" in line["error"]
        renewed = make_ca(room.directory, not_after=now + 900 * DAY_S)
        assert renewed.public_key_der == ca.public_key_der
        office.pass_time(2 * SIGNER_RECHECK_S, 10)
        assert not_after() == now + 900 * DAY_S
        assert {header.signer_id for header in headers(room)}.isdisjoint(before)
        assert min(header.next_update for header in headers(room)) >= now + 4 * DAY_S
        assert_verifies(room, renewed)
    finally:
        office.close()


def headers(room: Room) -> list[AnswerHeader]:
    """Return the headers that answers name."""
    found = [room.store.read_answer_bucket(room.issuer.id, room.bucket_of(serial), "sha1") for serial in SERIALS]
    return [
        AnswerHeader.from_bytes(bucket.headers[packed[0] & 15])
        for bucket in found
        for packed in bucket.answers.values()
    ]


def assert_verifies(room: Room, ca: PKI) -> None:
    """The workers have what puts the CA's own answers together."""
    for header in headers(room):
        record = room.store.get_signer(header.signer_id)
        assert record is not None
        assert record.certificate == ca.certificate_der
