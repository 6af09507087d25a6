"""A SoftHSM token of the test's own: in a private directory, with a PIN of its own, filled by softhsm2-util.

``softhsm`` gives a factory of tokens, ``spy`` a module that stands before SoftHSM, counts and fails as it is told. The module reads SOFTHSM2_CONF when it is initialised, and responder.signing.hsm
finalises it whenever no key is open; so tests in one process may each have their tokens, if they close their keys.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization

from tests.components import need

MODULE_PATHS = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
SO_PIN = "so-pin-5678"


def module_path() -> Path:
    """Find SoftHSM's shared library; skips the test, or fails it under CI=true, where there is none."""
    found = [path for path in MODULE_PATHS if Path(path).exists()]
    need("softhsm2-util", *(found or MODULE_PATHS[:1]))
    return Path(found[0])


@dataclass(frozen=True)
class SoftHSMToken:
    """One initialised token. ``configuration`` is what SOFTHSM2_CONF names."""

    configuration: Path
    module: Path
    label: str
    serial: str
    slot_id: int
    pin: str
    pin_file: Path

    def run(self, *arguments: str | Path) -> str:
        """Run softhsm2-util on this token's directory; returns what it prints."""
        return softhsm2_util(self.configuration, *arguments)

    def uri(self, label: str, key_id: bytes = b"", module: Path | None = None, **path_attributes: str) -> str:
        """Build the RFC 7512 URI of a key."""
        attributes = {"token": self.label, **path_attributes, **({"object": label} if label else {})}
        parts = [f"{name.replace('_', '-')}={quote(value, safe='')}" for name, value in attributes.items()]
        if key_id:
            parts.append("id=%" + key_id.hex("%"))
        return f"pkcs11:{';'.join(parts)}?module-path={module or self.module}"

    def import_key(self, private_key: Any, label: str, key_id: bytes, *, public: bool = True) -> None:
        """Import a software key; RSA and ECDSA only, as softhsm2-util can."""
        path = self.configuration.parent / f"{key_id.hex()}.p8"
        path.write_bytes(
            private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.run(
            *("--import", path, "--token", self.label, "--pin", self.pin),
            *("--label", label, "--id", key_id.hex(), "--force"),
            *(() if public else ("--no-public-key",)),
        )
        path.unlink()

    def script(self, code: str) -> str:
        """Run Python in a process of its own, with ``session`` logged in read-write, and pkcs11's names imported."""
        whole = (
            "import pkcs11\nfrom pkcs11 import *\n"
            f"lib = pkcs11.lib({str(self.module)!r})\n"
            f"session = lib.get_token(token_label={self.label!r}).open(rw=True, user_pin={self.pin!r})\n"
        ) + code
        return subprocess.run(
            [sys.executable, "-c", whole],
            env={**os.environ, "SOFTHSM2_CONF": str(self.configuration)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def generate_ed25519(self, label: str, key_id: bytes) -> None:
        """Have the token make an Ed25519 key pair, which softhsm2-util cannot import."""
        self.script(
            "parameters = session.create_domain_parameters(\n"
            "    KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: bytes.fromhex('06032b6570')}, local=True)\n"
            f"parameters.generate_keypair(store=True, label={label!r}, id={key_id!r})\n"
        )


def softhsm2_util(configuration: Path, *arguments: str | Path) -> str:
    """Run softhsm2-util; returns what it prints."""
    return subprocess.run(
        ["softhsm2-util", *arguments],
        env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def make_token(directory: Path, label: str = "revocast test", pin: str = "user-pin-1234") -> SoftHSMToken:
    """Initialise a token in a token directory; several calls on one directory make several tokens."""
    module = module_path()
    configuration = directory / "softhsm2.conf"
    tokens = directory / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin_file = directory / f"{label}.pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(pin + "\n")
    said = softhsm2_util(configuration, "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin)
    slot_id = int(re.findall(r"slot (\d+)", said)[-1])
    slots = softhsm2_util(configuration, "--show-slots")
    serial = re.findall(rf"Slot {slot_id}\n.*?Serial number:\s*(\w+)", slots, re.DOTALL)[0]
    return SoftHSMToken(configuration, module, label, serial, slot_id, pin, pin_file)


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SoftHSMToken]:
    """Give ``softhsm(label, pin)``: a new token in the test's own directory, which SOFTHSM2_CONF names meanwhile."""
    directory = tmp_path / "softhsm"

    def make(label: str = "revocast test", pin: str = "user-pin-1234") -> SoftHSMToken:
        token = make_token(directory, label, pin)
        monkeypatch.setenv("SOFTHSM2_CONF", str(token.configuration))
        return token

    return make


@dataclass(frozen=True)
class Spy:
    """tests/pkcs11_spy.c, built: ``module`` is to be named in URIs, ``order`` and ``withdraw`` tell it what to do."""

    module: Path
    directory: Path

    def order(self, name: str, text: str) -> None:
        """Give an order, in force from the next call on."""
        (self.directory / name).write_text(text)

    def withdraw(self, name: str) -> None:
        """Take an order back."""
        (self.directory / name).unlink()

    @property
    def login_count(self) -> int:
        """How often C_Login was called."""
        return self._count("logins")

    @property
    def open_sessions(self) -> int:
        """How many sessions were opened and not closed, where no process has ended."""
        return self._count("opened") - self._count("closed")

    def _count(self, name: str) -> int:
        path = self.directory / name
        return len(path.read_bytes()) if path.exists() else 0


@pytest.fixture(scope="session")
def spy_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the spying module."""
    need("gcc")
    module = tmp_path_factory.mktemp("pkcs11-spy") / "pkcs11_spy.so"
    source = Path(__file__).with_name("pkcs11_spy.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", module, source, "-ldl"], check=True)
    return module


@pytest.fixture
def spy(spy_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Give the spying module with no orders and nothing counted."""
    directory = tmp_path / "spy"
    directory.mkdir()
    monkeypatch.setenv("SPY_MODULE", str(module_path()))
    monkeypatch.setenv("SPY_DIRECTORY", str(directory))
    return Spy(spy_module, directory)
