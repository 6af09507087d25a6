"""A CA with a CRL and an issued list beside it: what tests of the pair stand in. Called by tests/unit/test_issued_list.py."""

from __future__ import annotations

from pathlib import Path

from loaders.follow import CAFollower
from loaders.reading import PassReport
from loaders.runner import CONFIRM_AFTER_S
from tests.crl_source_room import CRLSourceRoom
from tests.redis_fixture import RedisServer

CSV = '"delimited", path = "issued.csv", serial = "serial", serial_base = "hex", not_after = "expires"'


class BothRoom(CRLSourceRoom):
    """A CA in the profile webpki with ``corp.crl``, and a list beside it; followed step by step."""

    def __init__(self, directory: Path, server: RedisServer, issued: str = CSV, **more: str) -> None:
        self.issued = issued
        self._follower: CAFollower | None = None
        super().__init__(directory, server, **({"profile": "webpki"} | more))
        self.publish()
        self.list()

    def configure(self, source: str = "", ca: str = "", more: str = "") -> None:
        super().configure(source, ca or f"issued = {{ type = {self.issued} }}", more)

    def list(self, *serials: str) -> None:
        """Replace the list."""
        rows = "".join(f"{serial},2030-12-31T23:59:59Z\n" for serial in serials)
        self.put("issued.csv", f"serial,expires\n{rows}".encode())

    def read_twice(self) -> PassReport:
        """Read until a second reading has confirmed the first, by one runner."""
        runner = self.runner()
        first = runner.run()
        self.pass_time(CONFIRM_AFTER_S)
        return first if first.settled else runner.run()

    @property
    def follower(self) -> CAFollower:
        if self._follower is None:
            self._follower = CAFollower(self.issuer, self.config, str(self.config_file), self.issuers, self.clock)
        return self._follower

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.pass_time(self.follower.step())

    def restart(self) -> None:
        self.close()
        self._follower = None

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
