"""Where PINs come from, and the memory of those that were refused."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import sys
import time
from pathlib import Path

import pytest

from responder.errors import ConfigError
from responder.signing.pins import MAX_REMEMBERED, PinSource, RefusedPins


def source(**where: Path | str) -> PinSource:
    """Build a source as open_signer does."""
    return PinSource("revocast.toml", "ca[corp].ocsp", "user PIN", **where)  # type: ignore[arg-type]


def test_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """A changed file is taken up; only its first line counts, and spaces in it do."""
    path = tmp_path / "pin"
    path.write_text(" 12 34 \r\nsecond line")
    pin = source(pin_file=path)
    assert pin.read() == " 12 34 "
    path.write_text("5678")
    assert pin.read() == "5678"
    assert pin.file == path


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\n1234\n", "first line of .* is empty"), (b"\xff\n", "cannot read")]
)
def test_files_without_a_pin(tmp_path: Path, content: bytes, problem: str) -> None:
    """A file without a PIN is one line that names the key and the file."""
    path = tmp_path / "pin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^revocast.toml: ca\[corp\].ocsp.pin_file: .*{problem}"):
        source(pin_file=path).read()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set, or is empty, is one line that names it."""
    monkeypatch.setenv("TEST_PIN", "1234")
    assert source(pin_env="TEST_PIN").read() == "1234"
    monkeypatch.setenv("TEST_PIN", "")
    with pytest.raises(ConfigError, match=r"ca\[corp\].ocsp.pin_env: the environment variable TEST_PIN is not set"):
        source(pin_env="TEST_PIN").read()


def test_two_sources_are_refused(tmp_path: Path) -> None:
    """Two sources could hold two PINs, and trying both costs the token a try."""
    with pytest.raises(ConfigError, match="pin_file and pin-source are set; only one may be"):
        source(pin_file=tmp_path / "a", extra=tmp_path / "b")


def test_prompt_on_a_terminal() -> None:
    """Where no source is named, a terminal is asked, once; what is typed is not shown."""
    code = (
        "from responder.signing.pins import PinSource\n"
        "pin = PinSource('f', 't', 'user PIN of token x')\n"
        "assert pin.read() == pin.read() == 'typed-pin'\n"
        "print('DONE')\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])  # noqa: S606 - the child of pty.fork
    shown = b""
    deadline = time.monotonic() + 20
    typed = False
    while b"DONE" not in shown and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            shown += os.read(terminal, 1024)
        except OSError:  # Linux: the child has ended
            break
        if b"user PIN of token x: " in shown and not typed:
            typed = True
            os.write(terminal, b"typed-pin\n")
    os.waitpid(child, 0)
    os.close(terminal)
    assert b"DONE" in shown
    assert b"typed-pin" not in shown


def test_refused_pins_are_remembered_by_token(tmp_path: Path) -> None:
    """A refused PIN is known again, for that token alone, until one is accepted."""
    refused = RefusedPins(tmp_path / "data")
    with refused.guard("token a") as pins:
        assert pins.refused_at("1234") is None
        pins.record("1234")
        pins.record("5678")
    again = RefusedPins(tmp_path / "data")
    with again.guard("token a") as pins:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", pins.refused_at("1234") or "")
        assert pins.refused_at("5678")
        assert pins.refused_at("9999") is None
    with again.guard("token b") as pins:
        assert pins.refused_at("1234") is None
    with again.guard("token a") as pins:
        pins.clear()
        assert pins.refused_at("1234") is None


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many mistakes do not grow the file without end; the oldest is forgotten first."""
    monkeypatch.setattr("responder.signing.pins.SCRYPT_COST", 2)
    with RefusedPins(tmp_path).guard("token") as pins:
        for number in range(MAX_REMEMBERED + 1):
            pins.record(f"pin {number}")
        assert pins.refused_at("pin 0") is None
        assert pins.refused_at("pin 1")
        assert pins.refused_at(f"pin {MAX_REMEMBERED}")


def test_one_at_a_time(tmp_path: Path) -> None:
    """While one process looks up, tries and records a PIN, no other does: each would cost the token a try."""
    refused = RefusedPins(tmp_path)
    with refused.guard("token") as pins, pins.path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = pins.path
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_damaged_memory_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """A file that cannot be read stops the login, and is named."""
    with RefusedPins(tmp_path).guard("token") as pins:
        pins.path.write_text('{"token": "x"')
        with pytest.raises(ValueError, match="is damaged; delete it"):
            pins.refused_at("1234")
