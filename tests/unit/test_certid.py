"""``ocsp.certid``: which CertIDs the answers made beforehand have, from the presigner through Redis to what a worker says.

Whatever it is, a SHA-1 and a SHA-256 question are answered, each under its own CertID, and no change of a status leaves an
old answer to either of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.x509 import ocsp

from responder.clock import format_utc
from responder.errors import ConfigError
from responder.model import serial_to_octets
from responder.ocsp.endpoint import Result
from responder.store.layout import DUE_REVOKED, STORED_HASHES, bucket_number, serial_hash
from responder.store.values import NewBucket
from tests.edge_room import EdgeRoom, in_edge
from tests.signing_room import DAY_S, GOOD, Room

MODES = ("sha1", "sha256", "each", "dual")
SERIALS = range(1_000, 1_060)
VICTIM = SERIALS[7]
REVOKED = "revoked 2026-11-01T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"

MakeRoom = Callable[..., Room]


def room_of(make_room: MakeRoom, mode: str, serials: range = SERIALS) -> Room:
    """Make a room whose configuration says so, its certificates loaded."""
    room = make_room(ocsp_options=f'certid = "{mode}"')
    room.load(dict.fromkeys(serials, GOOD))
    return room


def stored_names(room: Room, serial: int) -> dict[str, list[str]]:
    """Return, by the hash in its key's name, the CertID hashes of each stored answer to a serial."""
    found = {name: room.stored(serial, name) for name in STORED_HASHES}
    return {
        name: [single.hash_algorithm.name for single in answer.responses]
        for name, answer in found.items()
        if answer is not None
    }


def statuses(response: ocsp.OCSPResponse) -> set[str]:
    """Return what the SingleResponses of an answer say."""
    return {single.certificate_status.name for single in response.responses}


def answer_of(room: Room, result: Result, serial: int, hash_name: str) -> str:
    """Return what a result says of the CertID that was asked about; its signature must verify."""
    assert result.outcome.value == "answered", result
    response = room.read(result.response.body)
    singles = {single.hash_algorithm.name: single for single in response.responses}
    assert {single.serial_number for single in singles.values()} == {serial}
    for name, single in singles.items():
        assert single.issuer_name_hash == room.ca.issuer_name_hash(name)
        assert single.issuer_key_hash == room.ca.issuer_key_hash(name)
    (said,) = statuses(response)
    assert hash_name in singles
    return said


def test_the_default_is_each(room: Room) -> None:
    assert room.issuer.config.ocsp.certid == "each"


def test_another_word_is_refused(make_room: MakeRoom) -> None:
    with pytest.raises(ConfigError, match=r"ca\[0\]\.ocsp\.certid: .*'sha1', 'sha256', 'each' or 'dual'.*'both'"):
        make_room(ocsp_options='certid = "both"')


# --- the presigner ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "stored", "asked_more"),
    [
        ("sha1", {"sha1": ["sha1"]}, 0),
        ("sha256", {"sha256": ["sha256"]}, 0),
        ("each", {"sha1": ["sha1"], "sha256": ["sha256"]}, 1),
        ("dual", {"sha1": ["sha1", "sha256"]}, 0),
    ],
)
@pytest.mark.clause("RFC 9919", "3.2.1", "MAY")
def test_signatures_for_each_certificate(
    make_room: MakeRoom, mode: str, stored: dict[str, list[str]], asked_more: int
) -> None:
    """RSP-08: one signature a certificate, for both kinds where dual; a second one only with "each", once asked for."""
    room = room_of(make_room, mode)
    presigner = room.presigner()
    assert presigner.run_until_idle() == len(SERIALS)
    first_kind = "sha256" if mode == "sha256" else "sha1"
    assert stored_names(room, VICTIM) == {first_kind: stored[first_kind]}
    room.store.set_sha256_asked(room.issuer.id, room.clock.now())
    room.clock.advance(2 * DAY_S)
    room.set_as_of()
    assert presigner.run_until_idle() == len(SERIALS) * (1 + asked_more)
    assert all(stored_names(room, serial) == stored for serial in SERIALS)
    room.change(VICTIM, REVOKED)
    assert stored_names(room, VICTIM) == {}
    assert presigner.run_until_idle() == 1 + asked_more, "a revocation costs one signature for each stored answer"
    for name in stored:
        answer = room.stored(VICTIM, name)
        assert answer is not None
        assert statuses(answer) == {"REVOKED"}
    assert presigner.run_until_idle() == 0


@pytest.mark.parametrize("after", MODES)
@pytest.mark.parametrize("before", MODES)
def test_a_change_of_the_configuration(make_room: MakeRoom, before: str, after: str) -> None:
    """A restarted presigner looks at every bucket at once; a former kind's answers stay until the new kind's are there."""
    room = room_of(make_room, before)
    room.presigner().run_until_idle()
    room.reconfigure(f'certid = "{before}"', f'certid = "{after}"')
    presigner = room.presigner()
    assert bool(presigner.pending()) is (before != after)
    assert stored_names(room, VICTIM), "still there"
    made = presigner.run_until_idle()
    assert made == (0 if before == after or {before, after} == {"sha1", "each"} else len(SERIALS))
    expected = {
        "sha1": {"sha1": ["sha1"]},
        "sha256": {"sha256": ["sha256"]},
        "each": {"sha1": ["sha1"], **({"sha256": ["sha256"]} if before == "sha256" else {})},
        "dual": {"sha1": ["sha1", "sha256"]},
    }[after]
    assert all(stored_names(room, serial) == expected for serial in SERIALS)
    assert room.presigner().pending() == 0, "once is enough"


# --- no change of a status leaves an old answer -------------------------------------------------------------------------


def split(room: Room) -> None:
    """Divide the victim's bucket in two."""
    bucket = room.store.read_status_bucket(room.issuer.id, room.bucket_of(VICTIM))
    room.store.split_bucket(room.issuer.id, bucket)


def revoke(room: Room) -> None:
    room.change(VICTIM, REVOKED)


def override(room: Room) -> None:
    room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now())} cACompromise")


def lose_and_make_anew(room: Room) -> None:
    """The status bucket is lost, and the next whole reading finds the victim revoked."""
    number = room.bucket_of(VICTIM)
    room.server.client().delete(room.store.layout.status(room.issuer.id, number))
    mine = [one for one in SERIALS if bucket_number(serial_hash(serial_to_octets(one)), 4) == number]
    entries = {serial_to_octets(one): REVOKED if one == VICTIM else GOOD for one in mine}
    for _ in room.store.create_many([NewBucket(room.issuer.id, number, 4, entries, DUE_REVOKED)]):
        pass


@pytest.mark.parametrize(
    ("change", "after_split"),
    [(revoke, False), (revoke, True), (override, False), (override, True), (lose_and_make_anew, False)],
    ids=["revoked", "split-revoked", "overridden", "split-overridden", "made-anew"],
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.clause("RFC 6960", "2.2", "MUST")
def test_no_change_leaves_an_old_answer(
    make_room: MakeRoom, mode: str, change: Callable[[Room], None], after_split: bool
) -> None:
    """From the same script on there is no stored answer that says good, under either hash; then one that says revoked."""
    room = room_of(make_room, mode)
    room.store.set_sha256_asked(room.issuer.id, room.clock.now())
    presigner = room.presigner()
    presigner.run_until_idle()
    if after_split:
        before = stored_names(room, VICTIM)
        split(room)
        assert stored_names(room, VICTIM) == before, "the answers go with their certificates"
        assert presigner.run_until_idle() == 0
    assert stored_names(room, VICTIM)
    change(room)
    assert stored_names(room, VICTIM) == {}
    presigner.run_until_idle()
    found = [room.stored(VICTIM, name) for name in STORED_HASHES]
    assert any(found)
    assert all(statuses(answer) == {"REVOKED"} for answer in found if answer is not None)


# --- the worker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
def test_both_questions_are_answered(make_room: MakeRoom, mode: str) -> None:
    """REQ-06, REQ-07: under every mode; signed for the question where the mode does not make it ready, and kept a while."""
    room = room_of(make_room, mode)
    room.presigner().run_until_idle()
    ready = {"sha1": {"sha1"}, "sha256": {"sha256"}, "each": {"sha1"}, "dual": {"sha1", "sha256"}}[mode]

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            for serial, hash_name in zip(SERIALS, STORED_HASHES * 4, strict=False):
                result = await edge.ask(serial, hash_name=hash_name)
                assert answer_of(room, result, serial, hash_name) == "GOOD"
                assert result.source == ("stored" if hash_name in ready else "on_demand")
                again = edge.ask_at_once(serial, hash_name=hash_name)
                assert again.source == "table"
                assert again.response.body == result.response.body
        signed = room.key.count
        assert signed == len(SERIALS) + (0 if mode == "dual" else 4)
        room.change(SERIALS[0], REVOKED)
        room.change(SERIALS[1], REVOKED)
        await edge.see_journal()
        room.presigner().run_until_idle()
        async with edge.presigning():
            for serial, hash_name in zip(SERIALS[:2], STORED_HASHES, strict=True):
                assert answer_of(room, await edge.ask(serial, hash_name=hash_name), serial, hash_name) == "REVOKED"


def test_one_dual_answer_serves_both_questions(make_room: MakeRoom) -> None:
    """One read from Redis, one entry in the table, the same octets and validators; the short way gives the same ones."""
    room = room_of(make_room, "dual")
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        first = await edge.ask(VICTIM, hash_name="sha256")
        second = edge.ask_at_once(VICTIM, hash_name="sha1")
        third = edge.ask_at_once(VICTIM, hash_name="sha256")
        assert first.response.body == second.response.body == third.response.body
        assert len(edge.pipelines) == 2, "the answer, and its signer"
        assert len(edge.edge.endpoint._table) == 1
        for hash_name in STORED_HASHES:
            assert edge.edge.ready.ready(True, b"/", edge.request(VICTIM, hash_name=hash_name)) is not None
        # Past its end neither finds it any more, and the next one is fetched again.
        room.clock.advance(5 * DAY_S)
        room.set_as_of()
        room.presigner().run_until_idle()
        for hash_name in STORED_HASHES:
            assert edge.edge.ready.ready(True, b"/", edge.request(VICTIM, hash_name=hash_name)) is None
        await edge.see_journal()
        assert answer_of(room, await edge.ask(VICTIM, hash_name="sha256"), VICTIM, "sha256") == "GOOD"
        assert edge.ask_at_once(VICTIM).source == "table"


@pytest.mark.parametrize("hash_name", STORED_HASHES)
def test_a_live_answer_is_dual_and_serves_both(make_room: MakeRoom, hash_name: str) -> None:
    """What is not signed yet is signed once for either question; the presigner has one less to do."""
    room = room_of(make_room, "dual")

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            live = await edge.ask(VICTIM, hash_name=hash_name)
            assert live.source == "on_demand"
            await edge.see_journal()
            for name in STORED_HASHES:
                result = await edge.ask(VICTIM, hash_name=name)
                assert result.source in ("stored", "table")
                assert result.response.body == live.response.body
                assert answer_of(room, result, VICTIM, name) == "GOOD"
        assert room.key.count == 1
        assert room.presigner().run_until_idle() == len(SERIALS) - 1


def test_what_is_made_for_one_question_alone_is_not_dual(make_room: MakeRoom) -> None:
    """Nonces and other hash algorithms get the CertID that was asked about, and nothing beside it."""
    room = room_of(make_room, "dual")
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            for hash_name, nonce in (("sha1", b"n" * 16), ("sha256", b"n" * 16), ("sha384", None)):
                result = await edge.ask(VICTIM, hash_name=hash_name, nonce=nonce)
                (single,) = room.read(result.response.body).responses
                assert single.hash_algorithm.name == hash_name


def test_answers_of_the_former_kind_meanwhile(make_room: MakeRoom) -> None:
    """Workers that already have the new configuration: what answers the question is served, what does not is signed live."""
    room = room_of(make_room, "each")
    room.presigner().run_until_idle()
    room.reconfigure('certid = "each"', 'certid = "dual"')

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        assert (await edge.ask(VICTIM, hash_name="sha1")).source == "stored"
        async with edge.presigning():
            result = await edge.ask(VICTIM, hash_name="sha256")
            assert (result.source, answer_of(room, result, VICTIM, "sha256")) == ("on_demand", "GOOD")
            # A SHA-1 answer in the table never goes to a SHA-256 question.
            other = SERIALS[8]
            assert (await edge.ask(other, hash_name="sha1")).source == "stored"
            assert answer_of(room, await edge.ask(other, hash_name="sha256"), other, "sha256") == "GOOD"


def test_dual_answers_under_another_configuration(make_room: MakeRoom) -> None:
    """Back to "each": a dual answer serves SHA-1 questions until it is replaced, whole and with its signature."""
    room = room_of(make_room, "dual")
    room.presigner().run_until_idle()
    room.reconfigure('certid = "dual"', 'certid = "each"')

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        result = await edge.ask(VICTIM)
        assert (result.source, answer_of(room, result, VICTIM, "sha1")) == ("stored", "GOOD")
        room.presigner().run_until_idle()
        await edge.see_journal()
        (single,) = room.read((await edge.ask(VICTIM)).response.body).responses
        assert single.hash_algorithm.name == "sha1"


def test_preloading_dual_answers(make_room: MakeRoom) -> None:
    room = room_of(make_room, "dual")
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.edge.preload.run()
        assert edge.edge.preload.answers == len(edge.edge.endpoint._table) == len(SERIALS)
        for serial, hash_name in zip(SERIALS, STORED_HASHES * 30, strict=True):
            result = edge.ask_at_once(serial, hash_name=hash_name)
            assert answer_of(room, result, serial, hash_name) == "GOOD"
