"""Where a role's Redis is and whom the role logs in as, read from the configuration. Opens nothing."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from responder.config import Config, RedisConfig, RedisUser
from responder.errors import OperatorError
from responder.store import embedded
from responder.store.layout import Layout

Role = Literal["serve", "follow", "presign", "publish"]
DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class Target:
    """One Redis and one user. ``label`` names it in errors and holds no secret; nor does ``repr``."""

    label: str
    layout: Layout
    unix_path: str | None = None
    host: str = "localhost"
    port: int = DEFAULT_PORT
    tls: bool = False
    ca_certificate: str | None = None
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 2.0
    min_replicas: int = 0

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS terms: the server's certificate and name are always checked."""
        context = ssl.create_default_context(cafile=self.ca_certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def target_of(config: Config, role: Role) -> Target:
    """Return where ``role`` finds Redis; raises OperatorError, or StoreUnavailable where no embedded one was started."""
    if config.redis is None:
        password = embedded.read_passwords(config.data_dir)[role]
        return Target(
            label=f"unix:{embedded.socket_path(config.data_dir)}",
            layout=Layout(config.prefix),
            unix_path=embedded.reachable_socket_path(config.data_dir),
            username=role,
            password=password,
        )
    return external_target(config.redis, role)


def external_target(redis: RedisConfig, role: Role) -> Target:
    """Read the section ``[redis]``: the role's own user, else the section's, else the one in the URL."""
    url = urlsplit(redis.url)
    try:
        port = url.port or DEFAULT_PORT
        database = int(url.path.strip("/") or 0) if url.scheme != "unix" else 0
    except ValueError:
        raise OperatorError("redis.url: must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH") from None
    username: str | None = unquote(url.username) if url.username else None
    password: str | None = unquote(url.password) if url.password else None
    for key, user in (("redis", redis), (f"redis.roles.{role}", getattr(redis.roles, role))):
        if user is not None and (user.username or user.password_file or user.password_env):
            username, password = user.username, _password(key, user)
    common = {
        "layout": Layout(redis.prefix),
        "username": username,
        "password": password,
        "timeout_s": float(redis.timeout),
        "min_replicas": redis.min_replicas,
    }
    if url.scheme == "unix":
        return Target(label=f"unix:{unquote(url.path)}", unix_path=unquote(url.path), **common)  # type: ignore[arg-type]
    host = url.hostname or "localhost"
    return Target(
        label=f"{host}:{port}",
        host=host,
        port=port,
        tls=url.scheme == "rediss",
        ca_certificate=str(redis.ca_certificate) if redis.ca_certificate else None,
        database=database,
        **common,  # type: ignore[arg-type]
    )


def _password(key: str, user: RedisUser) -> str | None:
    if user.password_file is not None:
        try:
            return Path(user.password_file).read_text("utf-8").split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"{key}.password_file: cannot be read: {error}") from error
    if user.password_env is not None:
        if user.password_env not in os.environ:
            raise OperatorError(f"{key}.password_env: the environment has no {user.password_env}")
        return os.environ[user.password_env]
    return None
