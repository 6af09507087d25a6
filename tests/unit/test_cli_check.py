"""`revocast check`: what is right, what is not, and the ACL lines to paste into Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import components
from tests.redis_fixture import RedisServer
from tests.signing_room import Room


def check(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "responder", "check", "-c", str(config)],
        capture_output=True, text=True, timeout=60, env={"COLUMNS": "300", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_it_finds_what_is_right_and_prints_lines_that_redis_takes(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Keys, Redis and clock are looked at; each printed line makes a user, as it stands."""
    server = redis_server()
    room = Room(server, tmp_path / "ca")
    code, said = check(room.config_file)
    assert "signer of corp" in said
    assert "s from Redis" in said
    assert (code == 1) == ("error" in said)
    lines = [line for line in said.splitlines() if line.startswith("ACL SETUSER")]
    assert len(lines) == 3
    client = server.client()
    for line in lines:
        client.execute_command(*line.split(" "))
    assert sorted(client.acl_users()) == ["default", "revocast-follow", "revocast-presign", "revocast-serve"]
    room.close()


def test_a_key_of_another_certificate_is_found(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    """Exit code 1, and the key is named; the rest is looked at all the same."""
    room = Room(redis_server(), tmp_path / "ca")
    (tmp_path / "ca" / "ocsp.key").write_bytes((tmp_path / "ca" / "ca.key").read_bytes())
    code, said = check(room.config_file)
    assert code == 1
    assert "ca[corp].ocsp" in said
    assert "s from Redis" in said
    room.close()


def test_a_missing_program_is_a_failure_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CI=true nothing is skipped."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        components.need("no-such-program")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception):
        components.need("no-such-program")
