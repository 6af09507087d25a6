"""Every decision about a query, on a real Redis with answers that a real presigner signed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from responder.clock import format_utc
from responder.config import load_config
from responder.http.message import Request, Response
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.model import CertStatus, OCSPResponseStatus
from responder.ocsp.answer import Outcome
from responder.ocsp.endpoint import DECISIONS, Result
from responder.signing.delegation import open_response_signer
from responder.signing.presigner import Presigner
from tests.edge_room import EdgeRoom, in_edge, octets, until
from tests.pki import PKI, make_ca
from tests.redis_fixture import RedisServer
from tests.reference import request_builder as build
from tests.signing_room import DAY_S, GOOD, Room

MakeRoom = Callable[..., Room]
GOOD_1, GOOD_2, REVOKED, HELD, EXPIRED, PAST = 0x1001, 0xF0F0F0F0F0F0F0F0F0, 0x2001, 0x2002, 0x3001, 0x3002
NOBODYS = 0x9999
REVOKED_AT = 1_790_000_000
ERROR = {status: bytes.fromhex(f"30030a01{status:02x}") for status in OCSPResponseStatus}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    configure_logging("test", "error")


@pytest.fixture
def make_room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> MakeRoom:
    """Give a function that makes a CA with a certificate of each kind, all signed."""

    def make(**options: object) -> Room:
        room = Room(redis_server(), tmp_path / "ca", **options)  # type: ignore[arg-type]
        now = room.clock.now()
        room.load(
            {
                GOOD_1: GOOD,
                GOOD_2: GOOD,
                REVOKED: f"revoked {format_utc(REVOKED_AT)} keyCompromise exp=2049-12-31T23:59:59Z",
                HELD: f"revoked {format_utc(REVOKED_AT)} certificateHold exp=2049-12-31T23:59:59Z",
                EXPIRED: f"good exp={format_utc(now - DAY_S)}",
                PAST: f"good exp={format_utc(now - 60 * DAY_S)}",
            }
        )
        room.presigner().run_until_idle()
        return room

    return make


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    """The CA with the configuration's defaults."""
    return make_room()


def assert_error(edge: EdgeRoom, request_der: bytes, outcome: Outcome) -> None:
    results: list[Result] = []
    edge.edge.endpoint.decide(request_der, results.append)
    (result,) = results  # none: it went to a source
    assert result.outcome is outcome
    assert_refusal(result.response, outcome)


def assert_refusal(response: Response, outcome: Outcome) -> None:
    assert response.status == 200
    assert response.body == ERROR[DECISIONS[outcome].response_status]
    head = response.head(0)
    assert b"Content-Type: application/ocsp-response\r\n" in head
    assert b"Cache-Control: no-store\r\n" in head
    assert b"Last-Modified" not in head
    assert b"ETag" not in head


def replies_of(edge: EdgeRoom, method: bytes, target: bytes, body: bytes = b"") -> Outcome:
    """Return the outcome that an HTTP exchange shows by its bytes."""
    body = edge.handle(method, target, body).body
    return {ERROR[OCSPResponseStatus.MALFORMED_REQUEST]: Outcome.BAD_REQUEST}[body]


# --- the table of decisions -----------------------------------------------------------------------------------------


def test_every_outcome_has_a_decision_and_none_asks_for_a_signature() -> None:
    """ERR-04: no policy of ours needs signed requests, so sigRequired is never said."""
    assert set(DECISIONS) == set(Outcome)
    assert OCSPResponseStatus.SIG_REQUIRED not in {decision.response_status for decision in DECISIONS.values()}


@pytest.mark.clause("RFC 6960", "App. A.2", "MUST")
def test_every_error_travels_under_200() -> None:
    """ERR-06: several clients read a body under no other status."""
    assert {decision.http_status for decision in DECISIONS.values()} == {200}


def test_the_operators_page_says_what_the_table_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert rows == [
        (outcome.value, camel(decision.response_status), decision.when, decision.clause)
        for outcome, decision in DECISIONS.items()
    ]


def camel(status: OCSPResponseStatus) -> str:
    first, *rest = status.name.lower().split("_")
    return first + "".join(word.title() for word in rest)


# --- malformed ------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 6960", "2.3", "MUST")
def test_malformed_requests(room: Room) -> None:
    """ERR-01, REQ-03, REQ-04, NON-02: no OCSP syntax, nothing asked, too much asked, a nonce out of bounds."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        whole = edge.request(GOOD_1)
        for bad in (b"", b"\0", b"garbage", whole[:-1], whole + b"\0", build.request([])):
            assert_error(edge, bad, Outcome.BAD_REQUEST)
        for size in (0, 129, 1000):
            assert_error(edge, edge.request(GOOD_1, nonce=bytes(size)), Outcome.BAD_REQUEST)
        cap = room.config.http.max_cert_ids
        assert_error(edge, edge.request(*range(1, cap + 2)), Outcome.BAD_REQUEST)
        assert not edge.pipelines


def test_paths_that_hold_no_request_are_malformed(room: Room) -> None:
    """ERR-01, SEC-04: a GET path is base64 and nothing else."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        for target in (b"/", b"/favicon.ico", b"/../../etc/passwd", b"/%00", b"/%252f", b"/!!", b"/MEMw"):
            assert replies_of(edge, b"GET", target) is Outcome.BAD_REQUEST
        assert replies_of(edge, b"POST", b"/", b"") is Outcome.BAD_REQUEST


@pytest.mark.clause("RFC 6960", "4.1.2", "MUST")
def test_a_critical_extension_that_is_not_known_is_refused_and_one_that_is_not_critical_ignored(room: Room) -> None:
    """REQ-10."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        critical = build.extension(build.PRIVATE, b"\5\0", build.CRITICAL)
        plain = build.extension(build.PRIVATE, b"\5\0")
        assert_error(edge, edge.request(GOOD_1, extensions=[critical]), Outcome.CRITICAL_EXTENSION)
        assert_error(edge, build.request([build.single(edge.cert_id(GOOD_1), [critical])]), Outcome.CRITICAL_EXTENSION)
        edge.good(await edge.ask(GOOD_1, extensions=[plain]), GOOD_1, "stored")


# --- whom we may speak for ------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9919", "3.2.3", "MUST")
def test_issuers_that_are_not_ours_are_unauthorized(room: Room) -> None:
    """STS-05, ERR-05, REQ-06: both hashes must be ours, under an algorithm that we know."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        issuer = room.issuer
        ours = {"name_hash": issuer.name_hashes["sha1"], "key_hash": issuer.key_hashes["sha1"]}
        for wrong in ("name_hash", "key_hash"):
            foreign = build.cert_id(GOOD_1, **{**ours, wrong: bytes(20)})
            assert_error(edge, build.request([build.single(foreign)]), Outcome.UNKNOWN_ISSUER)
        swapped = build.cert_id(GOOD_1, name_hash=ours["key_hash"], key_hash=ours["name_hash"])
        assert_error(edge, build.request([build.single(swapped)]), Outcome.UNKNOWN_ISSUER)
        md5 = build.cert_id(
            GOOD_1,
            hash_algorithm=build.algorithm("1.2.840.113549.2.5", build.NULL),
            name_hash=bytes(16),
            key_hash=bytes(16),
        )
        assert_error(edge, build.request([build.single(md5)]), Outcome.UNKNOWN_HASH)
        assert not edge.pipelines


@pytest.mark.clause("RFC 6960", "4.4.3", "SHOULD")
def test_a_client_that_takes_no_basic_response_is_refused(room: Room) -> None:
    """EXT-02: NSS always sends the extension; only a list without basic cannot be served."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        with_basic = build.acceptable_responses(build.BASIC)
        edge.good(await edge.ask(GOOD_1, extensions=[with_basic]), GOOD_1, "stored")
        edge.good(edge.ask_at_once(GOOD_1, extensions=[with_basic]), GOOD_1, "table")
        without = build.acceptable_responses(build.oid(build.PRIVATE))
        assert_error(edge, edge.request(GOOD_1, extensions=[without]), Outcome.RESPONSE_TYPE)


def add_second_ca(room: Room, directory: Path) -> PKI:
    """Give the room another CA, whose certificate of the serial GOOD_1 is revoked; all signed."""
    other = make_ca(directory, name="Example Other CA", label="other", delegated=True)
    text = room.config_file.read_text()
    section = text[text.index("[[ca]]") :].replace('"corp"', '"other"')
    for name in ("ca.pem", "ocsp.pem", "ocsp.key"):
        section = section.replace(f'"{name}"', f'"{directory / name}"')
    room.config_file.write_text(text + section)
    room.config = load_config(room.config_file)
    room.issuers = Issuers.from_config(room.config, str(room.config_file))
    first, second = room.issuers
    signer = open_response_signer(second.config, second, room.config.data_dir, room.clock.now(), str(room.config_file))
    room.issuer = second
    room.load({GOOD_1: f"revoked {format_utc(REVOKED_AT)} keyCompromise"})
    room.issuer = first
    signers = {first.id: room.signer, second.id: signer}
    Presigner(room.store, room.issuers, signers, room.clock, guard=room.guard()).run_until_idle()
    return other


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_certids_of_several_cas_or_hash_algorithms_are_refused(room: Room, tmp_path: Path) -> None:
    """DEL-01, REQ-04: no one key may speak for two CAs."""
    other = add_second_ca(room, tmp_path / "other")

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        of_other = build.cert_id(GOOD_1, name_hash=other.issuer_name_hash(), key_hash=other.issuer_key_hash())
        both = build.request([build.single(edge.cert_id(GOOD_1)), build.single(of_other)])
        assert_error(edge, both, Outcome.SEVERAL_ISSUERS)
        mixed = build.request([build.single(edge.cert_id(GOOD_1)), build.single(edge.cert_id(GOOD_1, "sha256"))])
        assert_error(edge, mixed, Outcome.SEVERAL_HASHES)


def test_the_same_serial_of_two_cas_is_two_certificates(room: Room, tmp_path: Path) -> None:
    """REQ-06, PEERS: one CA's answer never for another's same serial, warm or cold, in either order."""
    other = add_second_ca(room, tmp_path / "other")

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        of_other = build.request(
            [build.single(build.cert_id(GOOD_1, name_hash=other.issuer_name_hash(), key_hash=other.issuer_key_hash()))]
        )
        for source in ("stored", "table"):
            edge.good(await edge.ask(GOOD_1), GOOD_1, source)
            result = await edge.decide(of_other)
            assert (result.source, result.cert_status) == (source, CertStatus.REVOKED)
            response = ocsp.load_der_ocsp_response(result.response.body)
            assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
            assert response.issuer_key_hash == other.issuer_key_hash()
            response.certificates[0].verify_directly_issued_by(other.certificate)
        # Name of the one, key of the other: nobody's.
        mixed = build.cert_id(GOOD_1, name_hash=other.issuer_name_hash(), key_hash=room.issuer.key_hashes["sha1"])
        assert_error(edge, build.request([build.single(mixed)]), Outcome.UNKNOWN_ISSUER)


@pytest.mark.clause("RFC 9919", "3.1.2", "MUST")
def test_requestor_name_and_signature_change_nothing(room: Room) -> None:
    """REQ-11: as if they were not there, and a broken signature is not looked at."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        plain = (await edge.ask(GOOD_1)).response.body
        for options in (
            {"requestor_name": build.directory_name()},
            {"requestor_name": build.directory_name(), "optional_signature": build.signature()},
            {"optional_signature": build.signature([b"\x30\x03nox"[:5]])},
            {"version": build.VERSION_V1},
        ):
            assert edge.ask_at_once(GOOD_1, **options).response.body == plain


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_cold_query_is_one_pipeline_and_a_hot_one_none(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_2), GOOD_2, "stored")
        edge.pipelines.clear()
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")  # its signer is known by now
        assert len(edge.pipelines) == 1
        edge.pipelines.clear()
        for _ in range(5):
            edge.good(edge.ask_at_once(GOOD_1), GOOD_1, "table")
        assert not edge.pipelines


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_revoked_answers_carry_time_and_reason(room: Room) -> None:
    """STS-06."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        for serial, reason in ((REVOKED, x509.ReasonFlags.key_compromise), (HELD, x509.ReasonFlags.certificate_hold)):
            response = edge.revoked(await edge.ask(serial), serial, "stored")
            assert response.revocation_time_utc.timestamp() == REVOKED_AT  # type: ignore[union-attr]
            assert response.revocation_reason is reason


@pytest.mark.clause("RFC 6960", "4.4.4", "SHOULD")
def test_expired_certificates_are_answered_within_retention_and_not_after(room: Room) -> None:
    """EXT-03, ERR-05."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        response = edge.good(await edge.ask(EXPIRED), EXPIRED, "stored")
        (single,) = response.responses
        assert b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x06" in response.tbs_response_bytes, single
        result = await edge.ask(PAST)
        assert result.outcome is Outcome.PURGED
        assert_refusal(result.response, Outcome.PURGED)


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
@pytest.mark.parametrize("hash_name", ["sha1", "sha256", "sha384", "sha512"])
def test_the_answer_repeats_the_questions_certid(room: Room, hash_name: str) -> None:
    """REQ-06, REQ-07: the same hash algorithm, hashes and serial; a SHA-1 answer never goes to another question."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        async with edge.presigning():
            result = await edge.ask(GOOD_1, hash_name=hash_name)
        response = edge.good(result, GOOD_1, "table" if hash_name == "sha1" else "on_demand")
        assert response.hash_algorithm.name == hash_name
        assert response.issuer_name_hash == room.issuer.name_hashes[hash_name]
        assert response.issuer_key_hash == room.issuer.key_hashes[hash_name]


@pytest.mark.clause("RFC 5754", "2", "MUST")
@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_absent_and_null_parameters_are_one_question(room: Room, hash_name: str) -> None:
    """REQ-08, SEC-07: one entry of the table for both encodings."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            first = await edge.ask(GOOD_1, hash_name=hash_name, parameters=b"")
        edge.good(first, GOOD_1, "stored" if hash_name == "sha1" else "on_demand")
        second = edge.ask_at_once(GOOD_1, hash_name=hash_name, parameters=build.NULL)
        assert second.response.body == first.response.body


def test_get_and_post_give_the_same_bytes(room: Room) -> None:
    """HTR-01, HTR-02: whatever the encoding, and POST whatever the path."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        der = edge.request(GOOD_2)
        body = (await edge.decide(der)).response.body
        text = b64encode(der).decode()
        for target in ("/" + text, "/" + quote(text, safe=""), "//" + quote(text, safe="")):
            assert edge.handle(b"GET", target.encode()).body == body
            assert edge.handle(b"HEAD", target.encode()).body == body
        for path in (b"/", b"/ocsp", b"/ocsp/x?y=z"):
            assert edge.handle(b"POST", path, der).body == body


@pytest.mark.clause("RFC 9919", "7.2", "SHOULD")
def test_the_head_of_an_answer(room: Room) -> None:
    """HTC-01, HTC-02, HTC-03, HTC-05: thisUpdate, nextUpdate, and a max-age that ends when there is a newer answer."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        now = int(room.clock.now())
        ages = []
        for serial in (GOOD_1, GOOD_2, REVOKED, HELD):
            head = (await edge.ask(serial)).response.head(now).decode()
            assert "1970" not in head
            assert "GMT" in re.search(r"Last-Modified: (.*)\r\n", head)[1]  # type: ignore[index]
            ages.append(int(re.search(r"max-age=(\d+)", head)[1]))  # type: ignore[index]
        validity = room.issuer.config.ocsp.validity
        assert all(validity * 5 // 8 <= age <= validity * 6 // 8 for age in ages)
        assert len(set(ages)) > 1


# --- what we cannot know, or must not say ---------------------------------------------------------------------------


@pytest.mark.clause("RFC 6960", "2.2", "MUST")
def test_a_serial_that_nobody_issued_is_unauthorized_and_remembered(room: Room) -> None:
    """STS-02: never good. The store is asked once, until the journal names the bucket."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        for serial in (NOBODYS, 0, -5, 1 << 150):
            result = await edge.ask(serial)
            assert result.outcome is Outcome.UNASSIGNED
            assert_refusal(result.response, Outcome.UNASSIGNED)
        edge.pipelines.clear()
        assert edge.ask_at_once(NOBODYS).outcome is Outcome.UNASSIGNED
        assert edge.ask_at_once(NOBODYS, nonce=bytes(32)).outcome is Outcome.UNASSIGNED
        assert not edge.pipelines
        room.change(NOBODYS, GOOD, "new")
        room.presigner().run_until_idle()
        await edge.see_journal()
        edge.good(await edge.ask(NOBODYS), NOBODYS, "stored")


@pytest.mark.parametrize(("policy", "status"), [("unknown", "UNKNOWN"), ("revoked", "REVOKED")])
@pytest.mark.clause("RFC 6960", "4.4.8", "MUST")
def test_the_other_answers_for_a_serial_that_nobody_issued(make_room: MakeRoom, policy: str, status: str) -> None:
    """STS-03: signed unknown; or revoked, held since 1970, with the extended-revoke extension. No cache keeps either."""
    room = make_room(ocsp_options=f'unassigned = "{policy}"')

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            result = await edge.ask(NOBODYS)
        assert (result.source, result.cert_status) == ("on_demand", CertStatus[status])
        response = edge.read(result, NOBODYS)
        assert response.certificate_status is ocsp.OCSPCertStatus[status]
        if policy == "revoked":
            assert response.revocation_time_utc.timestamp() == 0  # type: ignore[union-attr]
            assert response.revocation_reason is x509.ReasonFlags.certificate_hold
        extended_revoke = bytes.fromhex("06092b0601050507300109") + b"\x04\x02\x05\x00"
        assert (extended_revoke in response.tbs_response_bytes) == (policy == "revoked")
        assert b"max-age=0, private" in result.response.head(0)


def test_nothing_is_said_before_the_first_load_is_whole(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """STS-02, SEC-13: an empty Redis, and one that is being filled, know nothing of any serial."""
    room = Room(redis_server(), tmp_path / "ca")

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        result = await edge.ask(GOOD_1)
        assert result.outcome is Outcome.NOT_LOADED
        assert_refusal(result.response, Outcome.NOT_LOADED)
        room.store.ensure_ca(room.issuer.id, name="corp", subject="CN=corp", certificate=b"")
        room.store.create_buckets(room.issuer.id, 4)
        for _ in range(2):
            assert (await edge.ask(GOOD_1)).outcome is Outcome.NOT_LOADED
        room.change(GOOD_1, GOOD, "new")
        room.set_as_of()
        room.presigner().run_until_idle()
        await edge.see_journal()
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        assert (await edge.ask(NOBODYS)).outcome is Outcome.UNASSIGNED


def test_a_flushed_redis_is_never_good(room: Room) -> None:
    """SEC-13, ERR-02: what the table holds and is in date is served; the rest is tryLater."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        room.server.client().flushall()
        edge.good(edge.ask_at_once(GOOD_1), GOOD_1, "table")
        assert (await edge.ask(GOOD_2)).outcome is Outcome.NOT_LOADED
        room.clock.advance(2)  # the numbers are looked at once a second
        await edge.see_journal()
        assert (await edge.ask(GOOD_1)).outcome is Outcome.NOT_LOADED


def test_a_bucket_that_was_lost_is_never_unassigned(room: Room) -> None:
    """SEC-13: where the bucket is missing nothing is known, neither "good" nor "not issued"."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        room.server.client().delete(room.store.layout.status(room.issuer.id, room.bucket_of(GOOD_1)))
        for _ in range(2):
            result = await edge.ask(GOOD_1)
            assert result.outcome is Outcome.STORE_UNAVAILABLE
            assert_refusal(result.response, Outcome.STORE_UNAVAILABLE)
        edge.good(await edge.ask(GOOD_2), GOOD_2, "stored")


@pytest.mark.clause("RFC 6960", "2.3", "MUST")
def test_redis_gone(room: Room) -> None:
    """ERR-02, ERR-03: in-date answers go on for max_blind, good ones; revoked ones longer; the rest is tryLater, soon."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        edge.revoked(await edge.ask(REVOKED), REVOKED, "stored")
        room.server.kill()
        max_blind = room.issuer.config.ocsp.max_blind
        room.clock.advance(max_blind - 1)
        edge.good(edge.ask_at_once(GOOD_1), GOOD_1, "table")
        result = await edge.ask(GOOD_2)
        assert result.outcome is Outcome.STORE_UNAVAILABLE
        # With a nonce, which nobody can sign now: the ready answer without it (ERR-08).
        edge.good(await edge.ask(GOOD_1, nonce=bytes(range(32))), GOOD_1, "table")
        room.clock.advance(2)
        blind = edge.ask_at_once(GOOD_1)
        assert blind.outcome is Outcome.BLIND
        assert_refusal(blind.response, Outcome.BLIND)
        edge.revoked(edge.ask_at_once(REVOKED), REVOKED, "table")


def test_no_answer_after_next_update(room: Room) -> None:
    """TIM-05, SEC-13: an answer that has run out is never served as successful."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        next_update = edge.good(await edge.ask(GOOD_1), GOOD_1, "stored").next_update_utc
        assert next_update is not None
        left = int(next_update.timestamp() - room.clock.now())
        room.clock.advance(left - 1)
        await edge.see_journal()
        edge.good(edge.ask_at_once(GOOD_1), GOOD_1, "table")
        room.clock.advance(1)
        await edge.see_journal()
        edge.edge.on_demand._silent, edge.edge.on_demand._probe_at = True, float("inf")  # no presigner: not two seconds
        result = await edge.ask(GOOD_1)
        assert result.outcome is Outcome.NOT_SIGNED
        assert len(edge.edge.endpoint._table) == 0


@pytest.mark.clause("RFC 6960", "2.3", "MUST")
def test_a_mistake_of_our_own_is_internal_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """ERR-02: at once or later, a client gets an OCSPResponse and the log the traceback."""
    configure_logging("test", "error")

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("broken on purpose")

        replies: list[Response] = []
        endpoint = edge.edge.endpoint
        with monkeypatch.context() as patch:
            patch.setattr(endpoint._stored, "fetch", broken)
            endpoint.handle(Request(b"POST", b"/", edge.request(GOOD_1)), replies.append)
            await endpoint.drain()
        with monkeypatch.context() as patch:
            patch.setattr(endpoint._authority, "questions_of", broken, raising=False)
            assert_refusal(edge.handle(b"POST", b"/", edge.request(GOOD_1)), Outcome.INTERNAL)
        assert_refusal(replies[0], Outcome.INTERNAL)


def test_a_good_answer_beside_a_revoked_status_is_not_served(room: Room) -> None:
    """SEC-13: whoever's hand it was, revoked wins."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        key = room.store.layout.status(room.issuer.id, room.bucket_of(GOOD_1))
        room.server.client().hset(key, octets(GOOD_1).hex(), "revoked 2026-01-01T00:00:00Z")
        async with edge.presigning():
            edge.revoked(await edge.ask(GOOD_1), GOOD_1, "on_demand")


# --- nonce ----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
def test_nonces_are_echoed_byte_for_byte_and_kept_from_everybody_else(room: Room) -> None:
    """NON-01, NON-03, NON-04, NON-05, NON-06."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        async with edge.presigning():
            for size in (1, 15, 16, 32, 33, 64, 128):
                nonce = bytes([size]) * size
                result = await edge.ask(GOOD_1, nonce=nonce)
                response = edge.good(result, GOOD_1, "on_demand")
                (extension,) = response.extensions
                assert extension.value.nonce == nonce  # type: ignore[attr-defined]
                head = result.response.head(0)
                # ERR-07: authoritative, so neither no-store nor no-cache; and no cache may hand it to others.
                assert b"private" in head
                assert b"public" not in head
                assert b"no-store" not in head
                plain = edge.good(edge.ask_at_once(GOOD_1), GOOD_1, "table")
                assert len(plain.extensions) == 0
            # In singleRequestExtensions a nonce means nothing.
            inside = build.request([build.single(edge.cert_id(GOOD_1), [build.nonce(bytes(16))])])
            assert len(edge.good(await edge.decide(inside), GOOD_1, "table").extensions) == 0


@pytest.mark.clause("RFC 9919", "3.2.1", "SHOULD")
@pytest.mark.parametrize("policy", ["optional", "ignore", "required"])
def test_a_nonce_that_nobody_signs(make_room: MakeRoom, policy: str) -> None:
    """ERR-08: the ready answer without it, unless the operator wants nonces or nothing."""
    room = make_room(ocsp_options=f'nonce = "{policy}"')

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.edge.on_demand._silent, edge.edge.on_demand._probe_at = True, float("inf")
        result = await edge.ask(GOOD_1, nonce=bytes(32))
        if policy == "required":
            assert result.outcome is Outcome.NOT_SIGNED
            assert_refusal(result.response, Outcome.NOT_SIGNED)
        else:
            assert len(edge.good(result, GOOD_1, "stored").extensions) == 0
        # Without a nonce the ready answer goes out under each policy.
        assert (await edge.ask(GOOD_1)).outcome is Outcome.ANSWERED


def test_a_silent_presigner_costs_two_seconds_once(room: Room) -> None:
    """ERR-03, SEC-01: bounded, and the next who ask do not wait for it."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1, nonce=bytes(32)), GOOD_1, "stored")
        questions = room.server.client().xlen(room.store.layout.ask())
        edge.good(await edge.ask(GOOD_1, nonce=bytes(32)), GOOD_1, "table")
        assert room.server.client().xlen(room.store.layout.ask()) == questions == 1
        room.clock.advance(1.5)
        room.server.client().delete(room.store.layout.ask())
        async with edge.presigning():
            await until("the presigner to be asked again", lambda: True)
            edge.good(await edge.ask(GOOD_1, nonce=bytes(range(32))), GOOD_1, "on_demand")


# --- several CertIDs ------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
def test_every_certid_of_a_request_is_answered(room: Room) -> None:
    """REQ-04: up to the cap, duplicates once, unassigned ones as unknown beside the others; only one CA's."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        async with edge.presigning():
            for nonce in (None, bytes(range(20))):
                result = await edge.ask(GOOD_1, REVOKED, GOOD_2, GOOD_1, nonce=nonce)
                assert (result.source, result.cert_status) == ("on_demand", CertStatus.GOOD)
                response = edge.read(result, GOOD_1, REVOKED, GOOD_2)
                statuses = [single.certificate_status.name for single in response.responses]
                assert statuses == ["GOOD", "REVOKED", "GOOD"]
            result = await edge.ask(GOOD_1, NOBODYS)
            response = edge.read(result, GOOD_1, NOBODYS)
            assert [single.certificate_status.name for single in response.responses] == ["GOOD", "UNKNOWN"]
            assert (await edge.ask(NOBODYS, NOBODYS + 1)).outcome is Outcome.UNASSIGNED
            cap = room.config.http.max_cert_ids
            many = await edge.ask(*[GOOD_1 + 2 * (n == 1) for n in range(cap)])
            assert many.outcome in (Outcome.ANSWERED, Outcome.UNASSIGNED)
        assert len(edge.edge.endpoint._table) == 0


def test_the_same_certid_many_times_is_one_question(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1, GOOD_1, GOOD_1), GOOD_1, "stored")


# --- the CA is compromised ------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 6960", "2.7", "MAY")
def test_a_compromised_ca_has_everything_revoked(room: Room) -> None:
    """STS-07: no cached good answer survives, and serials of no list are revoked too."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        edge.good(await edge.ask(GOOD_1), GOOD_1, "stored")
        assert (await edge.ask(NOBODYS)).outcome is Outcome.UNASSIGNED
        room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now() - 10)} cACompromise")
        await edge.see_journal()
        async with edge.presigning():
            for serial in (GOOD_1, GOOD_2, NOBODYS):
                response = edge.revoked(await edge.ask(serial), serial, "on_demand")
                assert response.revocation_reason is x509.ReasonFlags.ca_compromise
        room.presigner().run_until_idle()
        await edge.see_journal()
        edge.revoked(await edge.ask(GOOD_2), GOOD_2, "stored")
