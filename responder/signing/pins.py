"""Where PINs and passphrases come from, and the memory of those that a token refused.

PINs never come from the configuration file, a URI or the command line. A token locks itself after a few wrong PINs, so
a PIN that it refused is never offered again until the source holds another one: not by this process, not by the
next, not by two that start together. Knows nothing of PKCS#11.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from responder.clock import format_utc
from responder.errors import ConfigError

MAX_REMEMBERED = 16  # refused PINs kept for a token: more than an operator mistypes, few enough to hash one by one
SCRYPT_COST = 2**14  # about 50 ms: a PIN of four digits is not read back from the file in passing


class PinSource:
    """One PIN or passphrase, read anew each time it is needed, so that a changed file or prompt is taken up."""

    def __init__(
        self,
        config_file: str,
        config_key: str,
        purpose: str,
        *,
        pin_file: Path | None = None,
        pin_env: str | None = None,
        extra: Path | None = None,
    ) -> None:
        """``config_key`` is the ocsp table's path; ``purpose`` is what a prompt asks for; ``extra`` is a URI's pin-source."""
        named = [name for name, value in (("pin_file", pin_file), ("pin_env", pin_env), ("pin-source", extra)) if value]
        if len(named) > 1:
            raise ConfigError(config_file, config_key, f"{' and '.join(named)} are set; only one may be")
        self._config_file = config_file
        self._config_key = config_key
        self._purpose = purpose
        self._file = pin_file or extra
        self._env = pin_env
        self._typed: str | None = None

    @property
    def file(self) -> Path | None:
        """The file it is read from, if it is."""
        return self._file

    def read(self) -> str:
        """Return the PIN as it is now; raises ConfigError where there is none and nobody to ask."""
        if self._file is not None:
            try:
                pin = self._file.read_text("utf-8").split("\n", 1)[0].removesuffix("\r")
            except (OSError, UnicodeDecodeError) as error:
                raise self._error("pin_file", f"cannot read {self._file}: {error}") from error
            if not pin:
                raise self._error("pin_file", f"the first line of {self._file} is empty")
            return pin
        if self._env is not None:
            pin = os.environ.get(self._env, "")
            if not pin:
                raise self._error("pin_env", f"the environment variable {self._env} is not set or empty")
            return pin
        if self._typed is None:
            if not sys.stdin.isatty():
                raise self._error(
                    "pin_file",
                    f"{self._purpose} is needed: set pin_file or pin_env (there is no terminal to ask for it)",
                )
            self._typed = getpass.getpass(f"{self._purpose}: ")
        return self._typed

    def forget_typed(self) -> None:
        """Forget what was typed at the prompt, because it was refused."""
        self._typed = None

    def _error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(self._config_file, f"{self._config_key}.{key}", problem)


class TokenPins:
    """What one token refused; valid only inside ``RefusedPins.guard``."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token

    def refused_at(self, pin: str) -> str | None:
        """Return when this very PIN was refused, or None."""
        for entry in self._entries():
            if hmac.compare_digest(_scrypt(pin, bytes.fromhex(entry["salt"])), bytes.fromhex(entry["scrypt"])):
                return entry["at"]
        return None

    def record(self, pin: str) -> None:
        """Remember that the token refused this PIN."""
        salt = secrets.token_bytes(16)
        entry = {"at": format_utc(time.time()), "salt": salt.hex(), "scrypt": _scrypt(pin, salt).hex()}
        entries = [*self._entries(), entry][-MAX_REMEMBERED:]
        text = json.dumps({"token": self._token, "refused": entries}, indent=1)
        with self.path.open("r+") as file:
            file.truncate()
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget all: the token has accepted a PIN."""
        if self.path.stat().st_size:
            os.truncate(self.path, 0)

    def _entries(self) -> list[dict[str, str]]:
        text = self.path.read_text("utf-8")
        if not text:
            return []
        try:
            entries: list[dict[str, str]] = json.loads(text)["refused"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged; delete it once the PIN is known to be right") from error
        return entries


class RefusedPins:
    """The memory of refused PINs, one file a token under ``data_dir/refused-pins``, salted hashes, mode 0600."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "refused-pins"

    @contextmanager
    def guard(self, token: str) -> Iterator[TokenPins]:
        """Hold the token's file alone while a PIN is looked up, tried and recorded.

        The file is made before the PIN is tried: where a refusal could not be remembered, nothing is tried. Raises
        OSError there, and ValueError where the file holds something else.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / hashlib.sha256(token.encode()).hexdigest()[:16]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield TokenPins(path, token)
        finally:
            os.close(descriptor)


def _scrypt(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=SCRYPT_COST, r=8, p=1, dklen=32)
