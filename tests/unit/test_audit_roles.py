"""What the roles and commands write into the audit log, before anything comes of it, and its anchors in a real Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner, Result

from loaders.runner import load_all
from responder import audit, live
from responder.audit import AuditLog, Head, read_line, segments
from responder.audit_anchor import Anchors, command_log, parse_anchor
from responder.cli.app import build_app
from responder.clock import ManualClock
from responder.config import load_config
from responder.errors import AuditUnavailable, SignerUnavailable
from responder.live import Question, ReplyKind
from responder.model import serial_to_octets
from responder.roles.presign import presign_all
from responder.signing.ledger import name_signature
from responder.signing.presigner import MOST_CLAIMS
from responder.store.acl import acl_rules
from responder.store.layout import Layout
from responder.store.redis_store import Store
from tests.loader_room import LoaderRoom, good, revoked
from tests.pki import key_of
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room
from tests.softhsm import SoftHSMToken

SERIALS = range(1, 301)


def lines(directory: Path, event: str = "") -> list[dict[str, Any]]:
    """Return what the logs in a directory say, of one event or of all."""
    found = []
    for paths in segments(directory).values():
        for path in paths:
            for line in path.read_bytes().splitlines(keepends=True):
                assert read_line(line)
                found.append(json.loads(line))
    return [one for one in found if event in ("", one["event"])]


def names(line: dict[str, Any]) -> set[str]:
    text = line["signatures"]
    return {text[at : at + 16] for at in range(0, len(text), 16)}


@pytest.fixture
def log(room: Room) -> Iterator[AuditLog]:
    made = AuditLog(room.directory / "audit", "presign", machine="m1", max_bytes=1 << 20, clock=room.clock)
    with audit.installed(made):
        yield made


# --- signing ----------------------------------------------------------------------------------------------------------


def test_every_answer_is_in_the_log_before_it_is_stored(room: Room, log: AuditLog) -> None:
    directory = room.directory / "audit"
    room.load(dict.fromkeys(SERIALS, GOOD))
    store = room.new_store()
    sent: list[int] = []
    send = store.send_answers

    def send_answers(*args: Any, **options: Any) -> Any:
        last = lines(directory)[-1]
        assert (last["event"], last["count"], last["bucket"]) == ("sign", len(args[5]), f"{args[1]:x}")
        sent.append(len(args[5]))
        return send(*args, **options)

    store.send_answers = send_answers  # type: ignore[method-assign]
    presigner = room.presigner(store=store)
    presigner.run_until_idle()
    assert sum(sent) == len(SERIALS)
    signed = lines(directory, "sign")
    assert sum(line["count"] for line in signed) == len(SERIALS)
    assert {line["why"] for line in signed} == {"routine"}
    assert {line["signer"] for line in signed} == {room.signer.signer_id}
    logged = set().union(*(names(line) for line in signed))
    for answer in room.all_stored(SERIALS).values():
        assert name_signature(answer.signature).hex() in logged
    assert lines(directory, "signer_in_use")
    # A revocation is a line of its own, which names its serial.
    room.clock.advance(1)
    room.change(7, f"revoked {audit.spell_time(room.clock.now())[:19]}Z keyCompromise exp=2049-12-31T23:59:59Z")
    presigner.run_until_idle()
    line = lines(directory, "sign")[-1]
    assert (line["why"], line["count"], line["serials"]) == ("revoked", 1, "07")
    answer = room.stored(7)
    assert answer is not None
    assert line["sha256"] == hashlib.sha256(answer.tbs_response_bytes).hexdigest()
    file = room.directory / "answer.der"
    file.write_bytes(answer.public_bytes(Encoding.DER))
    shown = command("show", str(directory), "--answer", str(file), "--json")
    assert json.loads(shown.output)["n"] == line["n"]


def test_nothing_is_signed_without_a_log(room: Room, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    room.load(dict.fromkeys(SERIALS, GOOD))
    presigner = room.presigner()
    presigner.run_once()
    stored = len(room.all_stored(SERIALS))
    write = AuditLog._write

    def full(self: AuditLog, octets: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AuditLog, "_write", full)
    for _ in range(3):
        presigner.run_once()
        room.clock.advance(60)
    before = room.key.count
    presigner.run_once()
    assert room.key.count == before, "the key rests until the log can be written"
    assert len(room.all_stored(SERIALS)) == stored
    with pytest.raises(AuditUnavailable):
        presigner.run_until_idle()
    monkeypatch.setattr(AuditLog, "_write", write)
    presigner.run_until_idle()
    assert len(room.all_stored(SERIALS)) == len(SERIALS)
    (gap,) = lines(room.directory / "audit", "gap")
    assert 1 <= gap["unrecorded"]["sign"] <= MOST_CLAIMS, "what was under way, and no more"


def test_every_use_of_the_key_is_counted_also_what_nobody_gets(room: Room, log: AuditLog) -> None:
    """What was refused by the sample, routine and live, and what was given back half signed."""
    room.load(dict.fromkeys(SERIALS, GOOD))
    directory = room.directory / "audit"

    def counted(*events: str) -> int:
        return sum(line["count"] for event in events for line in lines(directory, event))

    presigner = room.presigner()
    made = presigner.turn()
    assert made > 0
    presigner.give_back()
    assert counted("signatures_dropped") == made
    room.key.spoil = lambda signature: signature[:-1] + bytes([signature[-1] ^ 1])
    presigner.run_once()
    assert counted("signatures_dropped") == room.key.count > made
    room.clock.advance(60)
    with pytest.raises(SignerUnavailable):
        presigner.desks[room.issuer.id].press.sign([b"message"], "live")
    assert counted("signatures_dropped") == room.key.count
    room.key.spoil = lambda signature: signature
    room.clock.advance(60)
    presigner.run_until_idle()
    assert counted("sign") == len(SERIALS)
    assert counted("sign", "signatures_dropped") == room.key.count


def test_what_is_done_with_a_token_is_in_the_log(
    make_room: Callable[..., Room], softhsm: Callable[..., SoftHSMToken], tmp_path: Path
) -> None:
    """Each login, accepted or refused, and the key that was taken up; of the PIN not a digit."""
    token = softhsm()
    token.import_key(key_of("p256", "ocsp"), "signer", b"\x01")
    pin_file = tmp_path / "hsm.pin"
    pin_file.write_text("wrong-pin-9876\n")
    made = AuditLog(tmp_path / "audit", "presign", machine="m1", max_bytes=1 << 20)
    options = {"key": token.uri("signer"), "ocsp_options": f'pin_file = "{pin_file}"'}
    with audit.installed(made):
        with pytest.raises(SignerUnavailable, match="refused the PIN"):
            make_room(**options)
        assert [line["event"] for line in lines(tmp_path / "audit")] == ["segment", "login_refused"]
        pin_file.write_bytes(token.pin_file.read_bytes())
        room = make_room(**options)
    events = [line["event"] for line in lines(tmp_path / "audit")]
    assert events == ["segment", "login_refused", "login", "sign", "signer_opened"]
    opened = lines(tmp_path / "audit", "signer_opened")[0]
    assert opened["signer"] == room.signer.signer_id
    assert "object=signer" in opened["reference"]
    text = "".join(path.read_text() for path in segments(tmp_path / "audit")["presign"])
    assert "wrong-pin-9876" not in text
    assert token.pin_file.read_text().strip() not in text


def test_live_answers_are_a_line_a_batch(room: Room, log: AuditLog) -> None:
    room.load({1: GOOD, 2: GOOD})
    signer = room.live()
    asked = [Question(at, room.issuer.id, "sha384", (serial_to_octets(at),)) for at in (1, 2)]
    at_ms = int(room.clock.now() * 1000)
    client, layout = room.server.client(), room.store.layout
    client.xadd(layout.ask(), live.encode_ask("w1", at_ms, asked), id=f"{at_ms}-*")
    assert signer.poll() == 2
    replies = [reply for _, fields in client.xrange(layout.replies("w1")) for reply in live.decode_replies(fields)]
    assert [reply.kind for reply in replies] == [ReplyKind.ANSWER] * 2
    (line,) = lines(room.directory / "audit", "sign")
    assert (line["why"], line["count"], line["serials"], line["certid"]) == ("live", 2, "01 02", "sha384")
    for reply in replies:
        assert name_signature(room.read(reply.response_der).signature).hex() in names(line)


# --- commands and imports ---------------------------------------------------------------------------------------------


def command(*words: str) -> Result:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(build_app(["audit"]), ["audit", *words])
    structlog.reset_defaults()  # the command has set it up for a stream that is closed by now
    return done


def test_a_load_and_a_signing_are_anchored_and_proven(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    room = LoaderRoom(tmp_path, redis_server())
    room.write(good("01"), revoked("02", "superseded"), "nonsense\n")
    load_all(room.config_file)
    assert presign_all(room.config_file) == 2
    directory = tmp_path / "state" / "audit"
    (start, *_) = lines(directory, "start")
    assert start["config"] == hashlib.sha256(room.config_file.read_bytes()).hexdigest()
    imports = lines(directory, "import")
    assert imports[0]["changes"]["new"] == 2
    assert imports[0]["rejected"] == 1
    assert imports[0]["loader"] == "openssl"
    assert imports[0]["source"].endswith("index.txt")
    assert lines(directory, "sign")[0]["why"] == "proof"
    assert sum(line["count"] for line in lines(directory, "sign")) == 3
    config = ("-c", str(room.config_file))
    done = command("verify", *config)
    assert done.exit_code == 0, done.output
    assert "none missing; anchored up to line" in done.output
    shown = command("show", *config, "--event", "import", "--json")
    assert len(shown.output.splitlines()) == len(imports)
    assert "signer_opened" in command("show", *config, "--ca", "corp").output
    assert command("show", *config, "--ca", "nobody").exit_code == 1
    # Without Redis the chain is proven, and what is not is said.
    room.server.kill()
    done = command("verify", *config)
    assert (done.exit_code, "not anchored" in done.output) == (3, True)
    assert command("verify", str(directory)).exit_code == 3
    assert command("verify", "--part", str(directory)).exit_code == 0
    (path,) = segments(directory)["command"]
    data = path.read_bytes()
    last = read_line(data.splitlines(keepends=True)[-1])
    assert last is not None
    head = f"{room.config.audit.machine_name}:command:{last[0].number}:{last[0].hash}"
    assert command("verify", "--head", head, str(directory)).exit_code == 0
    path.write_bytes(data[: data.rstrip().rfind(b"\n") + 1])
    assert command("verify", "--head", head, str(directory)).exit_code == 1
    path.write_bytes(data.replace(b'"rejected":1', b'"rejected":0', 1))
    done = command("verify", "--part", str(directory))
    assert (done.exit_code, "BROKEN" in done.output) == (1, True)


@pytest.mark.parametrize("damage", ["cut", "file", "all"])
def test_what_was_taken_from_the_end_is_missed(
    damage: str, tmp_path: Path, redis_server: Callable[..., RedisServer]
) -> None:
    room = LoaderRoom(tmp_path, redis_server())
    room.write(good("01"))
    load_all(room.config_file)
    config = ("-c", str(room.config_file))
    assert command("verify", *config).exit_code == 0
    directory = tmp_path / "state" / "audit"
    (path,) = segments(directory)["command"]
    if damage == "cut":
        data = path.read_bytes()
        path.write_bytes(data[: data.rstrip().rfind(b"\n") + 1])
    else:
        path.unlink()
        if damage == "all":
            (directory / "command.lock").unlink()
            directory.rmdir()
    done = command("verify", *config)
    assert (done.exit_code, "BROKEN" in done.output) == (1, True)
    # The next writer notices, and a log that grows past the anchor does not cover it up.
    for _ in range(5):
        load_all(room.config_file)
    assert lines(directory, "anchor_mismatch")
    done = command("verify", *config)
    assert (done.exit_code, "lacked a line that was anchored" in done.output) == (1, True)


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_move_on_and_never_back(each_redis: RedisServer, tmp_path: Path) -> None:
    """With the rights of the roles that keep them; the others may not."""
    client = each_redis.client()
    version = (7, 0) if each_redis.version == "7" else (6, 2)
    for role in ("presign", "follow", "serve"):
        client.execute_command("ACL", "SETUSER", role, "on", ">x", *acl_rules(role, "rc:", version))
    clock = ManualClock(1_795_000_000)
    log = AuditLog(tmp_path, "presign", machine="m1", max_bytes=700, clock=clock)
    stores = [each_redis.store(username=role, password="x") for role in ("presign", "follow")]
    keepers = [Anchors(store, tmp_path, "m1", clock) for store in stores]
    with audit.installed(log):
        for at in range(12):
            audit.record("sign", number=at)
            keepers[at % 2].move_on()
            (found,) = stores[0].anchors("m1").values()
            assert parse_anchor(found) == Head(log._head.number, log._head.hash)
        late = parse_anchor(found)
        done, stood = stores[0].anchor("m1", "presign", 3, "f" * 64, "3 then " + "f" * 64, force=False)
        assert (done, parse_anchor(stood)) == (False, late)
        assert not lines(tmp_path, "anchor_mismatch")
    serve = Store(each_redis.client(username="serve", password="x"), Layout("rc:"))
    each_redis.adopt(serve)
    assert serve.anchors("m1").keys() == {"presign"}
    with pytest.raises(Exception, match=r"(?i)permission|NOPERM|can't run this command"):
        serve.anchor("m1", "presign", 1, "f" * 64, "1 now " + "f" * 64, force=True)


def test_a_command_that_fails_says_so(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    room = LoaderRoom(tmp_path, redis_server())
    config = load_config(room.config_file)
    with pytest.raises(ZeroDivisionError), command_log(config, room.config_file, room.store):
        raise ZeroDivisionError
    assert lines(tmp_path / "state" / "audit")[-1]["error"] == "ZeroDivisionError"
