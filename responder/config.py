"""The one configuration file: its keys, their types, defaults and limits.

Every key's meaning, unit and limit stands in its ``description``; docs/configuration.md is generated from them.
Unknown keys, wrong types and missing files become one ``ConfigError`` line each. Paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from responder.config_crl import CRLConfig, check_profile
from responder.config_types import DAY_S as DAY_S
from responder.config_types import HOUR_S as HOUR_S
from responder.config_types import AnyPath as AnyPath
from responder.config_types import Duration as Duration
from responder.config_types import FilePath as FilePath
from responder.config_types import Listen, Section, Start
from responder.config_types import SignerConfig as SignerConfig
from responder.config_types import parse_listen as parse_listen
from responder.errors import ConfigError

ACCEPTED_CONFIG_ENV = "REVOCAST_ACCEPTED_CONFIG"  # set by the supervisor for its roles only


class RedisUser(Section):
    """Whom a role logs in to Redis as."""

    username: str | None = Field(None, description="Redis user of the role.")
    password_file: FilePath | None = Field(None, description="File whose first line is the password.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")


class RedisRoles(Section):
    """A user for each role, so that each has the least rights; `revocast check` prints the ACL lines."""

    serve: RedisUser | None = Field(None, description="The HTTP workers: read only.")
    follow: RedisUser | None = Field(None, description="The loaders and `revocast revoke`: the writer of statuses.")
    presign: RedisUser | None = Field(None, description="The presigner: the writer of answers.")
    publish: RedisUser | None = Field(None, description="The publisher of CRLs: the writer of their numbers and texts.")


class RedisConfig(RedisUser):
    """An external Redis, 6.2 or later. Without this section Revocast starts its own private one in data_dir."""

    url: str = Field(description="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.")
    ca_certificate: FilePath | None = Field(
        None, description="PEM file of the CA that rediss:// trusts; absent: the system's."
    )
    prefix: str = Field(
        "rc:",
        min_length=1,
        max_length=32,
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="Start of every key's name.",
    )
    min_replicas: int = Field(
        0, ge=0, le=10, description="Replicas that must report a change before it counts as committed (WAIT)."
    )
    timeout: Duration = Field(2, description="How long one command may take.")
    roles: RedisRoles = Field(default_factory=RedisRoles, description="A user for each role; absent: the one above.")

    @model_validator(mode="after")
    def _known_scheme(self) -> RedisConfig:
        if not self.url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("url must start with redis://, rediss:// or unix://")
        return self


class HTTPConfig(Section):
    """The public listener. Limits cut off slow, oversized and smuggling requests."""

    listen: list[Listen] = Field(
        default_factory=lambda: [("127.0.0.1", 8080)], min_length=1, description="Addresses to serve on."
    )
    workers: int = Field(2, ge=1, le=64, description="Worker processes; one for each core that may serve.")
    max_body_bytes: int = Field(10_000, ge=256, le=1_000_000, description="Largest POST body; above it 413.")
    max_target_bytes: int = Field(
        12_000,
        ge=1_024,
        le=65_536,
        description="Longest GET target; above it 414. RFC 9112 §3 wants at least 8000.",
    )
    max_header_bytes: int = Field(16_384, ge=1_024, le=65_536, description="Largest header section; above it 431.")
    header_timeout: Duration = Field(10, description="Time for a whole request to arrive, from its first byte.")
    idle_timeout: Duration = Field(60, description="How long a connection may stay open between requests.")
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Connections a worker holds; the next one is closed at once."
    )
    max_connections_per_address: int = Field(
        1_000, ge=1, le=1_000_000, description="Connections a worker holds from one client address."
    )
    max_cert_ids: int = Field(16, ge=1, le=256, description="CertIDs in one request; above it malformedRequest.")
    table_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024 * 1024,
        le=16 * 1024 * 1024 * 1024,
        description="Memory of a worker's answer table, about 160 bytes for a P-256 answer; it is taken as it fills.",
    )
    preload: bool = Field(
        False, description="Fill the table from Redis when a worker starts, before the first queries ask for it."
    )
    express: bool = Field(
        True,
        description="Frame plain requests for ready answers on the express lane; off: all by llhttp, with the same octets, but ready answers no longer go before other work.",
    )
    drain: Duration = Field(4, ge=1, le=60, description="How long open connections may finish on SIGTERM.")


class AdminConfig(Section):
    """The operator's listener: /health and /metrics."""

    listen: Listen = Field(("127.0.0.1", 9090), description="Address; keep it off the public network.")


class LogConfig(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level written; error is what an administrator can act on."
    )
    format: Literal["json", "console"] = Field("json", description="json, a line each; console, for people.")


class AuditConfig(Section):
    """The audit log in data_dir/audit: every use of a key, every import, every change of the configuration."""

    required: bool = Field(
        True,
        description="true: while the log cannot be written nothing is signed, and ready answers last until their nextUpdate; false: signing goes on, and the log says later how many lines it lacks.",
    )
    max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=64 * 1024,
        le=4 * 1024 * 1024 * 1024,
        description="Size at which a log goes on in a new file; older ones may be moved to an archive.",
    )
    machine: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of this machine in the log and in Redis, unique among those that share a Redis; absent: its host name.",
    )

    @property
    def machine_name(self) -> str:
        """The name, or the host's with nothing in it that a name may not have."""
        return self.machine or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "localhost"


class SourceConfig(BaseModel):
    """Where a CA's statuses come from; `type` names the loader, whose own keys stand beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="The loader: an entry point of the group revocast.loaders, such as openssl.")

    @property
    def options(self) -> dict[str, Any]:
        """The loader's own keys, unchecked: the loader checks them."""
        return dict(self.model_extra or {})


class NextSignerConfig(SignerConfig):
    """The signer that takes over at a time set ahead, without a restart."""

    table: ClassVar[str] = "ocsp.next"

    start: Start = Field(
        alias="from",
        description="When it takes over, as a TOML time such as 2026-12-01T00:00:00Z; within its certificate's dates.",
    )


class OCSPConfig(SignerConfig):
    """How a CA's answers are signed."""

    validity: Duration = Field(4 * DAY_S, description="nextUpdate - thisUpdate; profiles bound it.")
    nonce: Literal["optional", "ignore", "required"] = Field(
        "optional",
        description="optional: answered live within bounds, else the ready answer; ignore: always the ready answer; required: tryLater past the bounds.",
    )
    certid: Literal["sha1", "sha256", "each", "dual"] = Field(
        "each",
        description="CertIDs of the answers made beforehand: sha1 or sha256 alone; each: SHA-1, and SHA-256 apart while asked for; dual: both in one answer, one signature. Other questions are signed live.",
    )
    unassigned: Literal["unauthorized", "unknown", "revoked", "good"] = Field(
        "unauthorized",
        description="Answer for a serial of this CA that nobody issued; revoked is RFC 6960 §4.4.8's extended form, not in webpki. good: for a source that lists the revoked alone (crl), where every serial that is not listed counts as issued; private only.",
    )
    archive_cutoff: Literal["none", "retention", "issuer"] = Field(
        "retention",
        description="archiveCutoff on answers for expired certificates: producedAt - retention, or the CA's notBefore (ETSI).",
    )
    max_blind: Duration = Field(HOUR_S, description="How long a worker cut off from Redis goes on with good answers.")
    max_source_age: Duration = Field(
        HOUR_S, description="Age of the source's last successful read above which an alarm is raised."
    )
    next: NextSignerConfig | None = Field(
        None, description="The signer that takes over from this one at a time set ahead (docs/keys.md)."
    )

    def signers_at(self, now: float) -> tuple[SignerConfig, ...]:
        """Return the signers that may be in use at a POSIX second, the one that is meant to be first."""
        return (self.next, self) if self.next is not None and now >= self.next.start else (self,)


# BR §4.9.9: 8 hours to 10 days; Microsoft's programme 3.2.2: 8 hours to 7 days, counted inclusively (TIM-06), so that
# a second is kept under it. Elsewhere: what can still be refreshed in time, and no longer than a year.
VALIDITY_BOUNDS_S = {
    "webpki": (8 * HOUR_S, 7 * DAY_S - 1),
    "etsi": (60, 366 * DAY_S),
    "private": (60, 366 * DAY_S),
}
VALIDITY_WORDS = {
    "webpki": "8h or more and less than 7d (BR §4.9.9, Microsoft 3.2.2)",
    "etsi": "1m to 366d",
    "private": "1m to 366d",
}


class CAConfig(Section):
    """One CA key: a certificate, a source of statuses, a signer. Two generations of a CA are two of these."""

    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Short name for commands, logs and metrics; unique.",
    )
    certificate: FilePath = Field(description="PEM or DER of the CA certificate.")
    profile: Literal["webpki", "etsi", "private"] = Field(
        "private",
        description="Whose rules hold: CA/B Forum BR and root programmes, ETSI EN 319 411, or RFC 6960 and 9919 alone.",
    )
    retention: Duration = Field(30 * DAY_S, description="How long a certificate is answered for after it expired.")
    source: SourceConfig = Field(description="The CA's database, or its CRLs.")
    issued: SourceConfig | None = Field(
        None,
        description="The list of what the CA issued, beside a source of type crl: a source like others (certdir, delimited, sql, ejbca, …), of which only what is listed counts. Then a serial that is not listed was not issued; absent: nobody knows.",
    )
    ocsp: OCSPConfig = Field(description="The answers' signer and terms.")
    crl: CRLConfig | None = Field(None, description="The CA's CRLs; absent: there are none here.")

    @model_validator(mode="after")
    def _profile_holds(self) -> CAConfig:
        """Refuse what the profile's standards forbid, or forbid together (each by its clause)."""
        ocsp, got = self.ocsp, f"in profile {self.profile}"
        least, most = VALIDITY_BOUNDS_S[self.profile]
        if not least <= ocsp.validity <= most:
            raise ValueError(f"ocsp.validity must be {VALIDITY_WORDS[self.profile]} {got}, and is {ocsp.validity} s")
        if self.profile != "private" and ocsp.unassigned == "good":
            # BR §4.9.9: never good for a serial that was not issued; ETSI needs the same of qualified certificates.
            raise ValueError(f'ocsp.unassigned must not be "good" {got} (BR §4.9.9): who issued what must be known')
        if self.profile == "webpki" and ocsp.unassigned == "revoked":
            # BR §7.3 with §7.2.2 and §4.9.13: the extended answer says certificateHold, which is not allowed there.
            raise ValueError(
                f'ocsp.unassigned must be "unauthorized" or "unknown" {got} (BR §4.9.13), and is "revoked"'
            )
        if self.profile == "webpki" and ocsp.archive_cutoff == "issuer":
            # EN 319 411-2 CSS-6.3.10-10 alone: the answer then promises statuses since the CA's first day.
            raise ValueError(f'ocsp.archive_cutoff must be "none" or "retention" {got}, and is "issuer"')
        if self.crl is not None:
            check_profile(self.crl, self.profile)
        return self


class Config(Section):
    """The whole file."""

    data_dir: AnyPath = Field(
        Path("state"),
        validate_default=True,
        description="Directory for the embedded Redis, metrics and locks; made if absent.",
    )
    redis: RedisConfig | None = Field(None, description="An external Redis; absent: the embedded one.")
    http: HTTPConfig = Field(default_factory=HTTPConfig, description="The public listener.")
    admin: AdminConfig = Field(default_factory=AdminConfig, description="The operator's listener.")
    log: LogConfig = Field(default_factory=LogConfig, description="Logs.")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="The audit log.")
    ca: list[CAConfig] = Field(min_length=1, description="The CAs, one table each.")

    @model_validator(mode="after")
    def _unique_names(self) -> Config:
        names = [ca.name for ca in self.ca]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"ca.name must be unique; repeated: {', '.join(repeated)}")
        if both := sorted(set(names) & {f"{name}-delta" for name in names}):
            # /crl/corp-delta.crl is corp's delta CRL.
            raise ValueError(f"ca.name must not be another CA's name and -delta: {', '.join(both)}")
        return self

    @property
    def prefix(self) -> str:
        """Start of every Redis key's name."""
        return self.redis.prefix if self.redis else "rc:"


def config_digest(path: Path) -> str:
    """Return the SHA-256 of the text that ``load_config`` reads; of nothing where there is none."""
    try:
        text = Path(os.environ.get(ACCEPTED_CONFIG_ENV, path)).read_bytes()
    except OSError:
        text = b""
    return hashlib.sha256(text).hexdigest()


def load_config(path: Path) -> Config:
    """Read and check a file; raises ConfigError, one line, for the first thing that is wrong.

    A role that a supervisor started reads the text that the supervisor accepted (ACCEPTED_CONFIG_ENV), not what the
    file holds by now: a broken edit must not stop a role that only has to be started again.
    """
    try:
        text = Path(os.environ.get(ACCEPTED_CONFIG_ENV, path)).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"cannot be read: {error}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), "", f"not TOML: {error}") from error
    try:
        return Config.model_validate(raw, context={"base": path.resolve().parent})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            str(path),
            "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip("."),
            first["msg"] if isinstance(first["input"], dict | list) else f"{first['msg']} (got {first['input']!r})",
        ) from error
