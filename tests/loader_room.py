"""A CA with an index.txt, a configuration and a private Redis: what tests of loaders stand in.

``LoaderRoom`` makes them in one folder; ``lines`` builds rows; ``statuses`` is what Redis holds of a CA. Called by
tests/unit/test_runner.py, test_follow.py and test_cli_load.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaders.reading import PassReport
from loaders.registry import open_loader
from loaders.runner import CONFIRM_AFTER_S, Runner
from responder.clock import Clock, ManualClock
from responder.config import Config, load_config
from responder.issuers import Issuer, Issuers
from responder.store.redis_store import Store
from tests.pki import PKI, make_ca
from tests.redis_fixture import RedisServer

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
EXPIRY = "20301231235959Z"
EXP = "exp=2030-12-31T23:59:59Z"
REVOKED_AT = "260102030405Z"
AT = "2026-01-02T03:04:05Z"


def good(serial: str, expiry: str = EXPIRY) -> str:
    """A row of status V."""
    return f"V\t{expiry}\t\t{serial}\tunknown\t/CN={serial}.example-shop.com\n"


def revoked(serial: str, reason: str = "", expiry: str = EXPIRY, at: str = REVOKED_AT) -> str:
    """A row of status R."""
    column = at + (f",{reason}" if reason else "")
    return f"R\t{expiry}\t{column}\t{serial}\tunknown\t/CN={serial}.example-shop.com\n"


class LoaderRoom:
    """One folder, one Redis, one CA ``corp`` (or more); the clock stands until it is moved."""

    def __init__(self, directory: Path, server: RedisServer, clock: Clock | None = None) -> None:
        self.directory = directory
        self.server = server
        self.clock = clock or ManualClock(NOW)
        self.index = directory / "index.txt"
        self.config_file = directory / "revocast.toml"
        self.ca: PKI = make_ca(directory)
        self.store: Store = server.store()
        self.redis = server.client(decode_responses=True)
        self.index.write_text("")
        self.configure()

    def configure(self, source: str = "", ca: str = "", more: str = "") -> None:
        """Write the configuration: ``source`` adds keys to the source, ``ca`` to the CA, ``more`` further CAs."""
        self.config_file.write_text(
            f'data_dir = "state"\n{self.server.config_section()}\n[log]\nlevel = "info"\n'
            f'[[ca]]\nname = "corp"\ncertificate = "ca.pem"\n{ca}\n'
            f'source = {{ type = "openssl", path = "index.txt"{source} }}\nocsp = {{ key = "ca.key" }}\n{more}'
        )

    @property
    def config(self) -> Config:
        return load_config(self.config_file)

    @property
    def issuers(self) -> Issuers:
        return Issuers.from_config(self.config, str(self.config_file))

    @property
    def issuer(self) -> Issuer:
        found = self.issuers.by_name("corp")
        assert found is not None
        return found

    def write(self, *rows: str) -> None:
        """Replace the index.txt as ``openssl ca`` does: a new file, renamed. Its mtime is long ago."""
        fresh = self.index.with_suffix(".new")
        fresh.write_text("".join(rows))
        os.utime(fresh, (NOW - 1000, NOW - 1000))
        fresh.rename(self.index)

    def runner(self, *, dry_run: bool = False, is_stopped: Callable[[], bool] = lambda: False) -> Runner:
        loader, options = open_loader(self.issuers, self.issuer, str(self.config_file), self.clock)
        spool = self.directory / "state" / "spool"
        return Runner(
            self.store, self.issuer, loader, options, self.clock, spool, dry_run=dry_run, is_stopped=is_stopped
        )

    def load(self, *rows: str) -> PassReport:
        """Write the rows and read them twice, far enough apart: whatever they say is in the store then."""
        self.write(*rows)
        runner = self.runner()
        first = runner.run()
        self.pass_time(CONFIRM_AFTER_S)
        return first if first.settled else runner.run()

    def pass_time(self, seconds: float) -> None:
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)

    def statuses(self, ca: str | None = None) -> dict[str, str]:
        """Return serial (hex) → text of all that Redis holds of the CA, found through Redis alone."""
        found: dict[str, str] = {}
        for key in self.redis.keys(f"rc:*:status:{ca or self.issuer.id}:*"):
            found |= {serial: text for serial, text in self.redis.hgetall(key).items() if serial != ".bits"}
        return found

    def as_of(self) -> int | None:
        info = self.store.ca_info(self.issuer.id)
        return None if info is None else info.as_of

    def journal_kinds(self) -> list[str]:
        """Return the kinds of every journal entry."""
        return [entry.kind for entry in self.store.read_journal(dict.fromkeys(range(16), 0))]

    def dump(self) -> dict[str, Any]:
        """Return all that Redis holds, as it holds it."""
        raw = self.server.client()
        return {key: raw.dump(key) for key in sorted(raw.keys("*"))}
