"""CRLs from outside: `revocast run` issues and serves them, a revocation arrives, and a publisher that is killed harms nothing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import need
from tests.crl_office import Listed, read_crl
from tests.pki import PKI, Leaf, make_ca, make_leaf
from tests.server import Revocast, ca_section, index_line, wait_until, write_index

CRL = 'issue = true, key = "{key}", every = "1s", validity = "1h", debounce = "1s", url = "http://crl.example.test/corp.crl"'


class Shop:
    """A CA with some certificates, and a `revocast run` that issues its CRLs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca: PKI = make_ca(directory / "ca", delegated=True)
        self.leaves: list[Leaf] = [make_leaf(self.ca, host=f"{number}.example-shop.com") for number in range(4)]
        self.index = directory / "index.txt"
        self.revoked: set[int] = set()
        self.write()
        section = ca_section("corp", self.ca, self.index, extra="crl = { " + CRL.format(key=self.ca.key_path) + " }\n")
        self.server = Revocast(directory / "run", [section])
        self.seen: list[Listed] = []

    def write(self, *revoked: Leaf) -> None:
        """Write index.txt as `openssl ca -revoke` would leave it."""
        self.revoked |= {leaf.serial_number for leaf in revoked}
        at = int(time.time())
        lines = [index_line(leaf, at if leaf.serial_number in self.revoked else None) for leaf in self.leaves]
        write_index(self.index, lines)

    def fetch(self) -> Listed | None:
        """Fetch the CRL: its signature verifies, and its number is not smaller than any before; None: there is none yet."""
        try:
            status, headers, body = self.server.get("/crl/corp.crl")
        except TimeoutError:  # no worker is at work yet
            assert not self.seen
            return None
        if status != 200:
            assert status == 503
            return None
        assert headers["content-type"] == "application/pkix-crl"
        found = read_crl(body)
        assert found.crl.is_signature_valid(self.ca.certificate.public_key())  # type: ignore[arg-type]
        if not self.seen or self.seen[-1].number != found.number:
            assert not self.seen or self.seen[-1].number < found.number
            assert not self.seen or self.seen[-1].serials.keys() <= found.serials.keys()
            self.seen.append(found)
        return found

    def publisher(self) -> int | None:
        """Return the process id of the publishing role."""
        assert self.server.process is not None
        pid = self.server.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if "role" in words and words[words.index("role") + 1] == "publish":
                return int(child)
        return None


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("crl"))
    with made.server:
        wait_until("the first CRL", made.fetch)
        yield made


def test_a_revocation_arrives(shop: Shop, tmp_path: Path) -> None:
    """BR-07: revoked in the CA's database, it is on the CRL that clients fetch, which OpenSSL verifies."""
    need("openssl")
    leaf = shop.leaves[0]
    shop.write(leaf)
    wait_until("the revocation", lambda: (found := shop.fetch()) and leaf.serial_number in found.serials)
    (tmp_path / "corp.crl").write_bytes(shop.server.get("/crl/corp.crl")[2])
    said = subprocess.run(
        ["openssl", "crl", "-inform", "DER", "-in", tmp_path / "corp.crl", "-CAfile", shop.ca.certificate_path, "-noout", "-text"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "verify OK" in said.stderr
    assert re.search(rf"Serial Number: 0*{leaf.serial_number:X}\n", said.stdout)
    status, headers, _ = shop.server.get("/ca/corp.cer")
    assert (status, headers["content-type"]) == (200, "application/pkix-cert")


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_a_publisher_that_is_killed_at_random(shop: Shop) -> None:
    """CRL-07, DST-05: kill -9 while it issues one CRL after the other: every one that is served is whole, none goes back."""
    moments = random.Random(7)
    for leaf in shop.leaves[1:]:
        shop.write(leaf)
        killed = wait_until("the publisher", shop.publisher)
        number = shop.seen[-1].number
        wait_until("a CRL of its own", lambda: (found := shop.fetch()) and found.number > number)  # noqa: B023
        until = time.monotonic() + moments.random()
        while time.monotonic() < until:
            shop.fetch()
        os.kill(killed, signal.SIGKILL)
        wait_until("another publisher", lambda: shop.publisher() not in (None, killed))  # noqa: B023
    listed = {leaf.serial_number for leaf in shop.leaves}
    wait_until("all revocations", lambda: (found := shop.fetch()) and found.serials.keys() == listed)
    numbers = [one.number for one in shop.seen]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > len(shop.leaves)


def test_what_is_said_of_it(shop: Shop) -> None:
    """Each use of the key is in the audit log, by the number of the CRL, and the metrics tell what is published."""
    state = shop.server.directory / "state"
    lines = [
        json.loads(line) for path in (state / "audit").glob("publish*.log") for line in path.read_text().splitlines()
    ]
    signed = {line["number"] for line in lines if line["event"] == "sign" and line.get("why") == "crl"}
    assert {one.number for one in shop.seen} <= signed
    text = shop.server.get("/metrics", shop.server.admin)[2].decode()
    assert re.search(r'^revocast_crl_entries\{ca="corp",kind="full"\} 4\.0$', text, re.MULTILINE)
    assert re.search(r'^revocast_crl_overdue_seconds\{ca="corp"\} ', text, re.MULTILINE)


def test_sigterm_ends_it_in_time(shop: Shop) -> None:
    """The publisher ends with the others, and what it has published stays."""
    assert shop.server.process is not None
    publisher = wait_until("the publisher", shop.publisher)
    began = time.monotonic()
    assert shop.server.stop() == 0
    assert time.monotonic() - began < 6
    assert not Path(f"/proc/{publisher}").exists()
