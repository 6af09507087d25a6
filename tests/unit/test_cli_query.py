"""``revocast get`` and ``revocast inspect``: what they print, and their exit codes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import typer
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner, Result

from fastpath.ocsp_response import unpack_answer
from responder.cli.query import get, inspect
from responder.errors import OperatorError
from responder.store.layout import HEADER_FIELDS
from tests.edge_room import octets
from tests.pki import Leaf, make_ca, make_leaf
from tests.redis_fixture import RedisServer
from tests.reference import request_builder as build
from tests.signing_room import GOOD, Room

REVOKED = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
SUSPENDED = 0x80F1  # its DER has a leading zero octet


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Room]:
    """A CA with a good certificate on disk, a revoked one, and their answers."""
    room = Room(redis_server(), tmp_path / "ca")
    room.leaf = make_leaf(room.ca)  # type: ignore[attr-defined]
    room.load({leaf(room).serial_number: GOOD, SUSPENDED: REVOKED})
    room.presigner().run_until_idle()
    yield room
    room.close()


def leaf(room: Room) -> Leaf:
    return room.leaf  # type: ignore[attr-defined,no-any-return]


def command(room: Room, name: str, *arguments: object) -> Result:
    app = typer.Typer()
    app.command("get")(get)
    app.command("inspect")(inspect)
    result = CliRunner().invoke(app, [name, "-c", str(room.config_file), *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def lines(result: Result) -> dict[str, str]:
    """Return what was printed, by its first word or words; a later line replaces an earlier of the same name."""
    found = {}
    for line in result.output.splitlines():
        name, _, value = line.strip().partition("  ")
        found[name] = value.strip()
    return found


def request_of(room: Room, serial: int) -> bytes:
    hashes = {"name_hash": room.issuer.name_hashes["sha1"], "key_hash": room.issuer.key_hashes["sha1"]}
    return build.request([build.single(build.cert_id(octets(serial), **hashes))])


def test_get_of_a_certificate(room: Room, tmp_path: Path) -> None:
    der = tmp_path / "leaf.der"
    der.write_bytes(leaf(room).certificate.public_bytes(Encoding.DER))
    for path in (leaf(room).certificate_path, der):
        result = command(room, "get", path)
        assert result.exit_code == 0
        said = lines(result)
        assert said["response status"] == "successful"
        assert said["source"] == "stored"
        assert said["certStatus"] == "good"
        assert said["serial"] == f"{leaf(room).serial_number:x}"
        assert said["verified"] == "yes"


def test_get_of_a_request_and_of_a_path(room: Room, tmp_path: Path) -> None:
    request = tmp_path / "request.der"
    request.write_bytes(request_of(room, SUSPENDED))
    text = b64encode(request.read_bytes()).decode()
    printed = set()
    for query in (request, "/" + text, quote(text, safe=""), f"http://ocsp.example-trust.com/{quote(text, safe='')}"):
        result = command(room, "get", query)
        assert result.exit_code == 0
        printed.add(result.output)
    assert len(printed) == 1
    said = lines(result)
    assert (said["certStatus"], said["reason"]) == ("revoked", "keyCompromise")
    assert said["revokedAt"] == "2026-11-20T10:00:00Z"


def test_get_says_why_there_is_no_answer(room: Room, tmp_path: Path) -> None:
    stranger = make_ca(tmp_path / "stranger", name="Example Stranger CA", label="stranger")
    request = tmp_path / "request.der"
    for content, status, outcome in (
        (request_of(room, 0x777), "unauthorized", "unassigned"),
        (build.request([build.single(build.cert_id(5))]), "unauthorized", "unknown_issuer"),
        (b"\x30\x01\x00", "malformedRequest", "bad_request"),
    ):
        request.write_bytes(content)
        result = command(room, "get", request)
        assert result.exit_code == 1
        assert lines(result)["response status"] == status
        assert lines(result)["outcome"].startswith(outcome + ":")
    assert lines(command(room, "get", "/not base64"))["outcome"].startswith("bad_target:")
    with pytest.raises(OperatorError, match="signed by none of corp"):
        command(room, "get", make_leaf(stranger).certificate_path)
    with pytest.raises(OperatorError, match="no such file"):
        command(room, "get", tmp_path / "missing.pem")


def test_get_without_redis_says_try_later(room: Room) -> None:
    room.server.kill()
    result = command(room, "get", leaf(room).certificate_path)
    assert result.exit_code == 1
    assert lines(result)["response status"] == "tryLater"
    assert lines(result)["outcome"].startswith("store_unavailable:")


def test_inspect_shows_what_redis_holds(room: Room) -> None:
    serial = leaf(room).serial_number
    for spelled in (leaf(room).certificate_path, f"{serial:X}", f"0x{serial:x}", octets(serial).hex(":")):
        result = command(room, "inspect", spelled)
        assert result.exit_code == 0
        said = lines(result)
        assert said["status"] == GOOD
        assert said["serial"] == f"{serial:x}"
        assert said["ca"].startswith("corp (")
        assert said["bucket"].startswith(f"{room.bucket_of(serial):x} of 4 bits (rc:")
        assert said["certStatus"] == "good"
        assert said["verified"] == "yes"
        assert said["due"].startswith("20")
        assert "answer sha256    0 in the bucket" in result.output


def test_inspect_of_a_revocation_that_is_not_signed_yet(room: Room) -> None:
    room.change(leaf(room).serial_number, REVOKED)
    said = lines(command(room, "inspect", leaf(room).certificate_path))
    assert said["status"] == REVOKED
    assert said["due"] == "now, before all else (a revocation or release)"
    assert "none for this serial" in command(room, "inspect", leaf(room).certificate_path).output


def test_inspect_verifies_what_is_stored(room: Room) -> None:
    serial = octets(SUSPENDED)
    client, key = room.server.client(), room.store.layout.answers(room.issuer.id, room.bucket_of(SUSPENDED), "sha1")
    packed = client.hget(key, serial)
    assert packed is not None
    client.hset(key, serial, packed[:-1] + bytes([packed[-1] ^ 1]))
    assert lines(command(room, "inspect", "80F1"))["verified"].startswith("NO: the signature does not verify")
    client.hdel(key, HEADER_FIELDS[unpack_answer(packed).slot])
    assert lines(command(room, "inspect", "80F1"))["verified"].startswith("NO: it cannot be put together")


def test_inspect_of_what_is_not_there(room: Room) -> None:
    result = command(room, "inspect", "777")
    assert result.exit_code == 1
    assert lines(result)["status"] == "none: never issued, or purged"
    for spelled in ("xyz", "1-", ""):
        with pytest.raises(OperatorError, match="neither a file nor a serial"):
            command(room, "inspect", "--", spelled)
    with pytest.raises(OperatorError, match="no such CA; there are corp"):
        command(room, "inspect", "777", "--ca", "nobody")


def test_inspect_of_an_empty_redis(room: Room) -> None:
    room.server.client().flushall()
    result = command(room, "inspect", "777")
    assert result.exit_code == 1
    assert "not loaded into this Redis yet" in result.output
