"""What the configuration is made of: values with units, paths relative to the file, closed tables, and the table of a key.

config.py and crl/settings.py build the file's tables from these; nothing here knows a table of the file but a signer's.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

DAY_S = 86_400
HOUR_S = 3_600
_UNITS = {"s": 1, "m": 60, "h": HOUR_S, "d": DAY_S}


def parse_duration(value: object) -> int:
    """Read ``"4d"``, ``"12h"``, ``"30m"`` or ``"10s"`` as seconds."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a number and a unit, such as "4d", "12h", "30m" or "10s"')
    return int(match[1]) * _UNITS[match[2]]


def parse_listen(value: object) -> tuple[str, int]:
    """Read ``"127.0.0.1:8080"`` or ``"[::1]:8080"`` as host and port; port 0 takes a free one."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:\s]+)):(\d{1,5})", value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65_535:
        raise ValueError('must be "HOST:PORT" or "[IPV6]:PORT" with a port of 0 to 65535')
    return (match[1] or match[2], int(match[3]))


def parse_start(value: object) -> int:
    """Read a TOML time with an offset, such as ``2026-12-01T00:00:00Z`` (no quotes), as POSIX seconds."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("must be a time with its offset and without quotes, such as 2026-12-01T00:00:00Z")
    return int(value.timestamp())


def relative_to_file(value: Path, info: ValidationInfo) -> Path:
    """Take a path as relative to the configuration file."""
    base: Path = info.context["base"] if info.context else Path()
    return base / value


def existing(value: Path) -> Path:
    """Refuse a path where there is no file."""
    if not value.is_file():
        raise ValueError(f"no such file: {value}")
    return value


Duration = Annotated[int, BeforeValidator(parse_duration)]
Start = Annotated[int, BeforeValidator(parse_start)]
Listen = Annotated[tuple[str, int], BeforeValidator(parse_listen)]
FilePath = Annotated[Path, AfterValidator(relative_to_file), AfterValidator(existing)]
AnyPath = Annotated[Path, AfterValidator(relative_to_file)]


class Section(BaseModel):
    """A table of the file: closed (unknown keys are errors), strict types, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def key_reference(value: str, info: ValidationInfo) -> str:
    """Take a ``pkcs11:`` URI as it is, anything else as a file that exists."""
    if value.startswith("pkcs11:"):
        return value
    return str(existing(relative_to_file(Path(value), info)))


class SignerConfig(Section):
    """A key that signs answers, and its certificate."""

    table: ClassVar[str] = "ocsp"  # where it stands within its CA's table, for errors

    certificate: FilePath | None = Field(
        None,
        description="PEM of the delegated signer; absent: the CA itself signs (its certificate must assert digitalSignature).",
    )
    key: Annotated[str, AfterValidator(key_reference)] = Field(
        description="PEM file of the signer's key, or a pkcs11: URI (RFC 7512)."
    )
    pin_file: FilePath | None = Field(
        None, description="File whose first line is the token's user PIN or the PEM key's passphrase."
    )
    pin_env: str | None = Field(None, description="Environment variable that holds it.")
    sessions: int = Field(
        2,
        ge=1,
        le=64,
        description="Sessions with a PKCS#11 token that sign at the same time: as many as its cores; 32 where each signature waits for a network.",
    )
    rsa_padding: Literal["pkcs1", "pss"] | None = Field(
        None,
        description="How an RSA key signs: pkcs1 (PKCS #1 v1.5, which every client knows) or pss, both with SHA-256; absent: pkcs1, but pss where the certificate's key is id-RSASSA-PSS. Other keys refuse it.",
    )
