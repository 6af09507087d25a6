"""The presigning role as a process: it signs, answers, stops in time, and says in one line what is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from responder import live
from responder.clock import SystemClock, format_utc
from responder.config import load_config
from responder.errors import ConfigError
from responder.live import Question, ReplyKind
from responder.model import serial_to_octets
from responder.roles.presign import presign_all
from responder.signing.live import LiveSigner
from responder.store.acl import acl_rules
from responder.store.redis_store import Store
from tests.pki import key_of, make_ca, make_signer, write_key
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

WITHIN_S = 20.0
PROMPTLY_S = 4.0  # a second is meant; machines that run tests are busy


@pytest.fixture
def start(room: Room) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts the role; it ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(*options: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "responder", "role", "presign", "-c", str(room.config_file), *options],
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Poll until a condition holds; fails with what the role said if it ended or took too long."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it did not come to pass (exit code {process.returncode}): {process.communicate()[1]}")
        time.sleep(0.01)


def revoked(room: Room) -> str:
    return f"revoked {format_utc(room.clock.now())} keyCompromise"


def test_signs_answers_and_stops(room: Room, start: Callable[..., subprocess.Popen[str]]) -> None:
    room.clock = SystemClock()  # type: ignore[assignment]  # the process has the machine's
    room.load(dict.fromkeys(range(1, 200), GOOD))
    process = start()
    until(process, lambda: len(room.all_stored(range(1, 200))) == 199)
    room.change(7, revoked(room))
    began = time.monotonic()
    until(process, lambda: room.stored(7) is not None)
    assert time.monotonic() - began < PROMPTLY_S
    # So is a question answered.
    question = Question(1, room.issuer.id, "sha384", (serial_to_octets(8),))
    client, replies = room.server.client(), room.store.layout.replies("w1")
    client.xadd(room.store.layout.ask(), live.encode_ask("w1", int(time.time() * 1000), [question]))
    until(process, lambda: bool(client.xlen(replies)))
    (reply,) = live.decode_replies(client.xrange(replies)[0][1])
    assert reply.kind is ReplyKind.ANSWER
    assert room.read(reply.response_der).serial_number == 8
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WITHIN_S) == 0
    assert time.monotonic() - began < PROMPTLY_S


def test_waits_for_redis_and_comes_back(room: Room, start: Callable[..., subprocess.Popen[str]]) -> None:
    room.clock = SystemClock()  # type: ignore[assignment]
    room.server.kill()
    process = start()
    assert process.stderr is not None
    while "store_unavailable" not in process.stderr.readline():
        assert process.poll() is None
    room.server.start()
    room.load(dict.fromkeys(range(1, 20), GOOD))
    until(process, lambda: len(room.all_stored(range(1, 20))) == 19)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WITHIN_S) == 0


def test_a_key_that_does_not_match_is_one_line(room: Room, start: Callable[..., subprocess.Popen[str]]) -> None:
    write_key(room.directory / "ocsp.key", key_of("p256", "somebody-else"))
    process = start("--check")
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 2
    assert said.count("\n") == 1, said
    assert "ocsp.key" in said
    assert room.server.client().keys("*") == []
    with pytest.raises(ConfigError):
        presign_all(room.config_file)


def test_one_failing_key_does_not_stop_the_others(room: Room, start: Callable[..., subprocess.Popen[str]]) -> None:
    room.clock = SystemClock()  # type: ignore[assignment]
    room.load(dict.fromkeys(range(1, 20), GOOD))
    other = make_ca(room.directory / "other", label="other-ca", name="Another CA", delegated=True)
    write_key(other.directory / "ocsp.key", key_of("p256", "somebody-else"))
    with room.config_file.open("a") as file:
        file.write(
            '[[ca]]\nname = "other"\ncertificate = "other/ca.pem"\nsource = { type = "openssl", path = "index.txt" }\n'
            '[ca.ocsp]\ncertificate = "other/ocsp.pem"\nkey = "other/ocsp.key"\n'
        )
    process = start()
    until(process, lambda: len(room.all_stored(range(1, 20))) == 19)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert "signer_unavailable" in said


def test_an_ended_signer_is_refused_only_where_it_is_the_last(
    room: Room, start: Callable[..., subprocess.Popen[str]]
) -> None:
    now = int(SystemClock().now())
    other = make_ca(room.directory / "other", label="other-ca", name="Another CA")
    make_signer(other, directory=room.directory / "other", not_before=now - 1000, not_after=now - 10)
    table = (
        '[[ca]]\nname = "other"\ncertificate = "other/ca.pem"\nsource = { type = "openssl", path = "index.txt" }\n'
        '[ca.ocsp]\ncertificate = "other/ocsp.pem"\nkey = "other/ocsp.key"\n'
    )
    both = room.config_file.read_text() + table
    room.config_file.write_text(both)
    process = start("--check")
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, said
    assert "it expired at" in said
    room.config_file.write_text(both[: both.index("[[ca]]")] + table)
    process = start("--check")
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 2
    assert "revocast: " in said
    assert "it expired at" in said


def test_presign_all(room: Room) -> None:
    room.clock = SystemClock()  # type: ignore[assignment]
    room.load(dict.fromkeys(range(1, 200), GOOD))
    heard: list[int] = []
    assert presign_all(room.config_file, heard.append) == 199
    assert heard[-1] == 199
    assert heard == sorted(heard)
    assert len(room.all_stored(range(1, 200))) == 199


def test_a_least_privileged_user_is_enough(
    each_redis: RedisServer, make_room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 4: the presigner's own Redis user can do all that it has to, live questions and SHA-256 among it."""
    room = make_room(each_redis)
    rules = acl_rules("presign", "rc:", (7, 0) if each_redis.version == "7" else (6, 2))
    each_redis.client().execute_command("ACL", "SETUSER", "presigner", "on", ">secret", *rules)
    room.clock = SystemClock()  # type: ignore[assignment]
    room.load(dict.fromkeys(range(1, 50), GOOD))
    login = '[redis]\nusername = "presigner"\npassword_env = "REVOCAST_TEST_PASSWORD"\n'
    room.config_file.write_text(room.config_file.read_text().replace("[redis]\n", login))
    monkeypatch.setenv("REVOCAST_TEST_PASSWORD", "secret")
    assert presign_all(room.config_file) == 49
    question = Question(1, room.issuer.id, "sha256", (serial_to_octets(8),))
    room.server.client().xadd(room.store.layout.ask(), live.encode_ask("w1", 1, [question]))
    with Store.connect(load_config(room.config_file), "presign") as store:
        presigner = room.presigner(store=store)
        LiveSigner(store, presigner.desks, room.clock, room.guard()).poll()
        room.change(9, revoked(room))
        presigner.run_until_idle()
    assert room.stored(8, "sha256") is not None
    assert room.stored(9, "sha256") is not None
