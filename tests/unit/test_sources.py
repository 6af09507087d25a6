"""How answers are fetched: together, once, never late, and never past what the journal says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastpath.live_wire import check_answer
from fastpath.ocsp_response import encode_cert_id
from responder import live
from responder.errors import StoreUnavailable
from responder.live import Reply, ReplyKind
from responder.log import configure_logging
from responder.ocsp import on_demand as on_demand_module
from responder.ocsp.answer import LiveAnswer, NotReady, Outcome, Question, question_of
from responder.ocsp.on_demand import OnDemandSource
from responder.ocsp.stored import Found
from tests.edge_room import EdgeRoom, in_edge, octets, until
from tests.redis_fixture import RedisServer
from tests.reference.live_check import check_live_answer as reference_check
from tests.signing_room import GOOD, Room

SERIALS = [0x1000 + n for n in range(40)]
REVOKED_NOW = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    configure_logging("test", "error")


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Room:
    """A CA with forty good certificates, all signed."""
    room = Room(redis_server(), tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.presigner().run_until_idle()
    return room


def gate_reads(edge: EdgeRoom) -> tuple[asyncio.Event, asyncio.Event, list[int]]:
    """Hold replies of ``read_answers`` back: (set when one is there, lets them go, how many CertIDs each read had)."""
    store = edge.edge.store
    real = store.read_answers
    arrived, gate, sizes = asyncio.Event(), asyncio.Event(), list[int]()

    async def gated(certificates: Sequence[Any]) -> Any:
        sizes.append(len(certificates))
        readings = await real(certificates)
        arrived.set()
        await gate.wait()
        return readings

    store.read_answers = gated  # type: ignore[method-assign]
    return arrived, gate, sizes


async def fetch(edge: EdgeRoom, serial: int) -> Found:
    """Have a serial's answer read from Redis."""
    future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
    edge.edge.endpoint._stored.fetch(question(edge.room, serial), future.set_result)
    return await future


def question(room: Room, serial: int, hash_name: str = "sha1") -> Question:
    return question_of(room.issuer, hash_name, octets(serial))


def note_entries(edge: EdgeRoom) -> list[Mapping[bytes, bytes]]:
    """Keep what is added to the stream of questions."""
    store, entries = edge.edge.store, list[Mapping[bytes, bytes]]()
    real = store.ask

    async def noted(fields: Mapping[bytes, bytes]) -> None:
        entries.append(fields)
        await real(fields)

    store.ask = noted  # type: ignore[method-assign]
    return entries


async def ask_live(source: OnDemandSource, *questions: Question, nonce: bytes | None = None) -> LiveAnswer | Outcome:
    """Have questions signed."""
    future: asyncio.Future[LiveAnswer | Outcome] = asyncio.get_running_loop().create_future()
    source.ask(questions, nonce, future.set_result)
    return await future


# --- stored ---------------------------------------------------------------------------------------------------------


def test_all_misses_of_a_tick_go_in_one_pipeline_and_the_same_one_once(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(SERIALS[-1]), SERIALS[-1], "stored")  # the signer is known from here on
        edge.pipelines.clear()
        asked = SERIALS[:20] * 3
        results = await asyncio.gather(*(edge.ask(serial) for serial in asked))
        for serial, result in zip(asked, results, strict=True):
            edge.good(result, serial, "stored")
        assert [len(commands) for commands in edge.pipelines] == [20]


def test_a_reply_that_the_journal_overtook_is_thrown_away_and_asked_for_again(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        arrived, gate, sizes = gate_reads(edge)
        asked = asyncio.ensure_future(asyncio.gather(edge.ask(SERIALS[0]), edge.ask(SERIALS[1])))
        await arrived.wait()  # good, as it stood until now
        room.change(SERIALS[0], REVOKED_NOW)
        room.presigner().run_until_idle()
        await edge.see_journal()
        gate.set()
        first, second = await asked
        edge.revoked(first, SERIALS[0], "stored")
        edge.good(second, SERIALS[1], "stored")
        assert sizes[0] == 2
        assert sizes[1] >= 1
        edge.revoked(edge.ask_at_once(SERIALS[0]), SERIALS[0], "table")


def test_a_bucket_that_never_rests_ends_in_unavailable_not_in_an_old_answer(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        store, stored = edge.edge.store, edge.edge.endpoint._stored
        real = store.read_answers

        async def overtaken(certificates: Sequence[Any]) -> Any:
            readings = await real(certificates)
            stored.drop_bucket(room.issuer.id, room.bucket_of(SERIALS[0]))
            return readings

        store.read_answers = overtaken  # type: ignore[method-assign]
        assert isinstance(await fetch(edge, SERIALS[0]), StoreUnavailable)
        assert len(edge.edge.endpoint._table) == 0


def test_a_store_that_hangs_costs_a_second_at_most(room: Room) -> None:
    """ERR-02: tryLater within bounded time; nothing is left behind."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        gate_reads(edge)
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await edge.ask(SERIALS[0])
        assert result.outcome is Outcome.STORE_UNAVAILABLE
        assert 0.9 < loop.time() - began < 1.5
        assert not edge.edge.endpoint._stored._flights


def test_an_answer_whose_signer_is_unknown_counts_as_missing(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        configure_logging("test", "error")
        room.server.client().delete(room.store.layout.signer(room.signer.signer_id))
        found = await fetch(edge, SERIALS[0])
        assert found == NotReady(GOOD, is_loaded=True, is_overridden=False)


@pytest.mark.parametrize("version", ["6.2", "7"])
def test_answers_are_found_after_their_bucket_was_split(
    redis_server: Callable[..., RedisServer], tmp_path: Path, version: str
) -> None:
    room = Room(redis_server(version), tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        for serial in SERIALS[:3]:
            edge.good(await edge.ask(serial), serial, "stored")
        bucket = room.store.read_status_bucket(room.issuer.id, room.bucket_of(SERIALS[0]))
        room.store.split_bucket(room.issuer.id, bucket)
        await edge.see_journal()
        for serial in SERIALS:
            result = await edge.ask(serial)
            edge.good(result, serial, result.source)
        # Revoked in the child or the parent, at the deeper bits: whoever held it under the old number lets go.
        for serial in SERIALS:
            room.change(serial, REVOKED_NOW)
        room.presigner().run_until_idle()
        await edge.see_journal()
        for serial in SERIALS:
            edge.revoked(await edge.ask(serial), serial, "stored")


# --- on demand ------------------------------------------------------------------------------------------------------


def test_the_questions_of_a_tick_are_one_entry_and_the_same_one_is_asked_once(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        entries = note_entries(edge)
        async with edge.presigning():
            results = await asyncio.gather(
                *(ask_live(edge.edge.on_demand, question(room, serial, "sha384")) for serial in SERIALS[:5] * 2)
            )
        assert all(isinstance(result, LiveAnswer) for result in results)
        assert len({id(result) for result in results}) == 5
        assert [len(live.decode_ask(fields).questions) for fields in entries] == [5]
        assert room.server.client().xlen(room.store.layout.ask()) == 0, "taken"


def test_nonces_are_never_shared(room: Room) -> None:
    """NON-06."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            nonces = [bytes([n]) * 16 for n in range(1, 9)]
            results = await asyncio.gather(*(edge.ask(SERIALS[0], nonce=nonce) for nonce in nonces))
        for nonce, result in zip(nonces, results, strict=True):
            (extension,) = edge.good(result, SERIALS[0], "on_demand").extensions
            assert extension.value.nonce == nonce  # type: ignore[attr-defined]


def test_a_live_reply_that_the_journal_overtook_is_asked_for_again(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        on_demand = edge.edge.on_demand
        real, held = on_demand.take, list[Reply]()

        def hold(replies: Any) -> None:
            held.extend(replies)

        on_demand.take = hold  # type: ignore[method-assign]
        asked = asyncio.ensure_future(edge.ask(SERIALS[0], nonce=bytes(16)))
        async with edge.presigning():
            await until("the reply", lambda: held)
            room.change(SERIALS[0], REVOKED_NOW)
            await edge.see_journal()
            on_demand.take = real  # type: ignore[method-assign]
            real(held)  # says good, and was true when it was signed
            edge.revoked(await asked, SERIALS[0], "on_demand")


def test_a_journal_entry_that_only_tells_of_signing_does_not_outdate_a_live_reply(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            # Signed live and stored: the journal tells of that while the reply is on its way.
            asked = asyncio.ensure_future(edge.ask(SERIALS[0], hash_name="sha256"))
            poll = asyncio.ensure_future(edge.see_journal())
            edge.good(await asked, SERIALS[0], "on_demand")
            await poll
        assert edge.edge.on_demand._next_id == 1
        await edge.see_journal()
        edge.good(await edge.ask(SERIALS[0], hash_name="sha256"), SERIALS[0], "stored")


def test_questions_are_bounded_in_number(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """ERR-03, SEC-01: past the bound nothing is queued, and the ready answer goes out without the nonce."""
    monkeypatch.setattr(live, "MAX_QUESTIONS", 3)
    monkeypatch.setattr(live, "QUESTION_TIMEOUT_S", 0.2)

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        waiting = [asyncio.ensure_future(edge.ask(SERIALS[n], SERIALS[n + 1])) for n in range(3)]
        await asyncio.sleep(0)
        assert (await edge.ask(SERIALS[5], SERIALS[6])).outcome is Outcome.BUSY
        edge.good(await edge.ask(SERIALS[7], nonce=bytes(16)), SERIALS[7], "stored")
        assert {(await one).outcome for one in waiting} == {Outcome.NOT_SIGNED}
        assert not edge.edge.on_demand._pending


def test_questions_gather_while_an_entry_is_on_its_way(room: Room) -> None:
    """The busier Redis is, the more questions an entry holds; none waits for more than the one before."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        entries, gate = note_entries(edge), asyncio.Event()
        real = edge.edge.store.ask

        async def slow(fields: Mapping[bytes, bytes]) -> None:
            await real(fields)
            await gate.wait()

        edge.edge.store.ask = slow  # type: ignore[method-assign]
        asked = [asyncio.ensure_future(edge.ask(SERIALS[0], nonce=bytes([1] * 16)))]
        await until("the first entry", lambda: entries)
        for n in range(2, 9):
            asked.append(asyncio.ensure_future(edge.ask(SERIALS[n], nonce=bytes([n] * 16))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(entries) == 1
        gate.set()
        async with edge.presigning():
            for result in await asyncio.gather(*asked):
                assert result.source == "on_demand"
        assert [len(live.decode_ask(fields).questions) for fields in entries] == [1, 7]


def test_questions_wait_a_moment_for_others_while_one_is_asked(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first goes at once; those of later turns share the next trip through Redis."""
    monkeypatch.setattr(on_demand_module, "GATHER_S", 0.2)

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        entries = note_entries(edge)
        asked = [asyncio.ensure_future(edge.ask(SERIALS[0], nonce=bytes([1] * 16)))]
        await until("the first entry", lambda: entries)
        for n in range(2, 9):
            asked.append(asyncio.ensure_future(edge.ask(SERIALS[n], nonce=bytes([n] * 16))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(entries) == 1
        await until("the second entry", lambda: len(entries) == 2)
        async with edge.presigning():
            await asyncio.gather(*asked)
        assert [len(live.decode_ask(fields).questions) for fields in entries] == [1, 7]


def test_ready_answers_do_not_wait_for_live_ones(room: Room) -> None:
    """DESIGN §6: with the live queue full, a hot answer goes out in the same turn of the loop, without a call to Redis."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        on_demand = edge.edge.on_demand
        edge.good(await edge.ask(SERIALS[0]), SERIALS[0], "stored")
        for n in range(live.MAX_QUESTIONS):
            on_demand.ask([question(room, SERIALS[1])], b"\x04\x02" + n.to_bytes(2, "big"), lambda _: None)
        assert len(on_demand._pending) == live.MAX_QUESTIONS
        edge.pipelines.clear()
        for _ in range(3):
            edge.good(edge.ask_at_once(SERIALS[0]), SERIALS[0], "table")
            await asyncio.sleep(0)  # sends the questions, and goes on with them
        assert not any(len(commands) > 1 for commands in edge.pipelines), "no read of statuses or answers"
        # Nor for replies: of those that come at once a turn of the loop takes a few.
        order: list[str] = []
        real = on_demand.take

        def taken(replies: Sequence[Reply]) -> None:
            order.append("live")
            assert len(replies) <= on_demand_module.REPLIES_A_TURN
            real(replies)
            loop.call_soon(lambda: order.append("hot"))

        loop = asyncio.get_running_loop()
        on_demand.take = taken  # type: ignore[assignment,method-assign]
        entry = live.encode_replies([Reply(n, ReplyKind.TRY_LATER) for n in range(1, live.MAX_QUESTIONS + 1)])
        room.server.client().xadd(room.store.layout.replies(on_demand._worker_id), entry)
        reader = asyncio.ensure_future(on_demand.run())
        await until("all replies", lambda: not on_demand._pending)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert order[:6] == ["live", "hot"] * 3
        assert order.count("live") == -(-live.MAX_QUESTIONS // on_demand_module.REPLIES_A_TURN)


def test_a_reply_that_nobody_can_take_costs_the_others_nothing(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        configure_logging("test", "critical")

        def fail(_: LiveAnswer | Outcome) -> None:
            raise RuntimeError("a mistake")

        on_demand = edge.edge.on_demand
        on_demand.ask([question(room, SERIALS[0])], b"\x04\x01\x01", fail)
        other = asyncio.ensure_future(ask_live(on_demand, question(room, SERIALS[1]), nonce=b"\x04\x01\x02"))
        async with edge.presigning():
            assert isinstance(await other, LiveAnswer)


def test_live_answers_are_compared_with_their_question(room: Room) -> None:
    """SEC-12, NON-06: another serial, another hash algorithm, no nonce, another nonce, one too many."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            nonce = bytes(range(16))
            answer = (await edge.ask(SERIALS[0], nonce=nonce)).response.body
            plain = (await edge.ask(SERIALS[0], hash_name="sha512")).response.body
        asked, extn_value = [question(room, SERIALS[0]).cert_id_der], b"\x04\x10" + nonce
        for check in (check_answer, reference_check):
            assert check(asked, extn_value, answer) == 0
            assert check([question(room, SERIALS[0], "sha512").cert_id_der], None, plain) == 0
            for cert_ids, nonce_octets, body in (
                ([question(room, SERIALS[1]).cert_id_der], extn_value, answer),
                ([question(room, SERIALS[0], "sha256").cert_id_der], extn_value, answer),
                (asked * 2, extn_value, answer),
                ([], extn_value, answer),
                (asked, b"\x04\x10" + bytes(16), answer),
                (asked, None, answer),
                ([question(room, SERIALS[0], "sha512").cert_id_der], extn_value, plain),
                (asked, extn_value, b"\x30\x03\x0a\x01\x06"),
                *((asked, extn_value, answer[:cut]) for cut in range(0, len(answer), 7)),
            ):
                with pytest.raises(ValueError, match=r"CertID|nonce|cut short|unpack|tag|values"):
                    check(cert_ids, nonce_octets, body)


def test_a_reply_that_does_not_fit_its_question_goes_to_nobody(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            other = (await edge.ask(SERIALS[1], nonce=bytes(16))).response.body
        on_demand = edge.edge.on_demand
        asked = asyncio.ensure_future(edge.ask(SERIALS[0], nonce=bytes(16)))
        await until("the question", lambda: on_demand._pending)
        (one,) = on_demand._pending
        on_demand.take([Reply(one, ReplyKind.ANSWER, other, 0, 2**31, True)])
        assert (await asked).outcome is Outcome.INTERNAL
        assert len(edge.edge.endpoint._table) == 0


def test_a_serial_with_a_leading_zero_octet_keeps_it() -> None:
    """REQ-09: canonical CertIDs differ where the serials do, and only there."""
    made = {encode_cert_id("sha1", bytes(20), bytes(20), octets(serial)) for serial in (0x7F, 0x80, 0xFF, -1, 0, 1)}
    assert len(made) == 6
