"""Clients fetch the CRL that a certificate names from a running Revocast, and believe it; so do our own commands.

One server for all: a CA with a full and a delta CRL, and one with shards. Its port is known beforehand, since the certificates and
the CRLs name it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from responder.cli.crl import crl_app
from tests import crl_oracles as oracles
from tests.crl_oracles import REVOKED, pem_of
from tests.pki import PKI, Leaf, make_ca, make_leaf
from tests.server import Revocast, ca_section, index_line, wait_until, write_index

SHARDS = 3
REVOKED_AT = int(time.time()) - 7200


class AtPort(Revocast):
    """A server at a port that somebody holds for it."""

    port = 0

    def write_config(self) -> None:
        super().write_config()
        text = self.config.read_text()
        self.config.write_text(text.replace('listen = ["127.0.0.1:0"]', f'listen = ["127.0.0.1:{self.port}"]'))


@dataclass
class Site:
    """A server, its CAs and their certificates."""

    server: Revocast
    url: str
    corp: PKI
    parts: PKI
    leaves: dict[str, Leaf]
    index: Path

    def write(self, *revoked: str) -> None:
        """Write corp's index.txt: these are revoked."""
        lines = [
            index_line(leaf, *((REVOKED_AT, "keyCompromise") if name in revoked else ()))
            for name, leaf in self.leaves.items()
            if not name.startswith("shard")
        ]
        write_index(self.index, lines)

    def get(self, path: str) -> bytes | None:
        """Return a CRL, or None where there is none yet."""
        try:
            status, headers, body = self.server.get(path)
        except TimeoutError:  # no worker is at work yet
            return None
        assert status in (200, 503)
        assert status == 503 or headers["content-type"] == "application/pkix-crl"
        return body if status == 200 else None

    def lists(self, path: str, name: str) -> bool:
        """Say whether a CRL has an entry for a certificate."""
        body = self.get(path)
        if body is None:
            return False
        return (
            x509.load_der_x509_crl(body).get_revoked_certificate_by_serial_number(self.leaves[name].serial_number)
            is not None
        )

    def openssl(self, ca: PKI, name: str, *crls: Path) -> int:
        """Ask OpenSSL, which fetches the CRL unless it is given."""
        return oracles.openssl_verify(
            ca.certificate_path, self.leaves[name].certificate_path, crls, int(time.time()), download=not crls
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, when every CRL is there."""
    directory = tmp_path_factory.mktemp("site")
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        corp = make_ca(directory / "corp", "rsa2048", name="Example Fetching CA")
        parts = make_ca(directory / "parts", "p256", name="Example Sharded CA")
        leaves = {
            name: make_leaf(corp, host=f"{name}.example-shop.com", crl_url=f"{url}/crl/corp.crl", file_name=name)
            for name in ("good", "revoked", "later")
        }
        for shard in range(SHARDS):
            leaves[f"shard{shard}"] = make_leaf(
                parts,
                crl_url=f"{url}/crl/parts/{shard}.crl",
                serial_number=(1 << 100) - (1 << 100) % SHARDS + shard,
                file_name=f"shard{shard}",
            )
        index = directory / "parts.txt"
        write_index(
            index,
            [index_line(leaves[f"shard{n}"], *((REVOKED_AT, "superseded") if n == 1 else ())) for n in range(SHARDS)],
        )
        each = 'issue = true, key = "{key}", debounce = "0s", url = "{url}"'
        sections = [
            ca_section(
                "corp",
                corp,
                directory / "corp.txt",
                extra=f'crl = {{ {each.format(key=corp.key_path, url=f"{url}/crl/corp.crl")}, delta_every = "1h" }}\n',
            ),
            ca_section(
                "parts",
                parts,
                index,
                extra=f"crl = {{ {each.format(key=parts.key_path, url=url + '/crl/parts/{shard}.crl')}, shards = {SHARDS} }}\n",
            ),
        ]
        server = AtPort(directory / "server", sections)
        server.port = port
        made = Site(server, url, corp, parts, leaves, directory / "corp.txt")
        made.write("revoked")
        with server:
            wait_until("the full CRL", lambda: made.lists("/crl/corp.crl", "revoked"))
            for shard in range(SHARDS):
                wait_until("a shard", lambda: made.get(f"/crl/parts/{shard}.crl"))  # noqa: B023
            yield made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(crl_app, list(map(str, arguments)))


@pytest.mark.clause("RFC 5280", "4.2.1.13", "SHOULD")
@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_openssl_and_java_fetch(site: Site, tmp_path: Path) -> None:
    """DST-01, IDP-02: OpenSSL and the JDK fetch the CRL that the certificate names, a shard too, and find what is revoked."""
    expected = {"good": 0, "revoked": REVOKED, "shard0": 0, "shard1": REVOKED, "shard2": 0}
    plan = []
    for name, result in expected.items():
        ca = site.parts if name.startswith("shard") else site.corp
        assert site.openssl(ca, name) == result, name
        plan.append(["validate", name, ca.certificate_path, site.leaves[name].certificate_path, int(time.time())])
    found = oracles.java(plan, tmp_path, "com.sun.security.enableCRLDP=true")
    assert found.pop("revoked").startswith("REVOKED KEY_COMPROMISE")
    assert found.pop("shard1").startswith("REVOKED SUPERSEDED")
    assert set(found.values()) == {"GOOD"}, found


def test_a_delta_tells_first(site: Site, tmp_path: Path) -> None:
    """A revocation is in the delta first: with it OpenSSL knows, and with the base that it goes with alone it does not."""
    site.write("revoked", "later")
    # A publisher rests twenty times as long as its last CRL took, which on a busy machine may be seconds.
    wait_until("the delta", lambda: site.lists("/crl/corp-delta.crl", "later"), within_s=120)
    paths = []
    for name in ("corp", "corp-delta"):
        body = site.get(f"/crl/{name}.crl")
        assert body is not None
        paths.append(tmp_path / f"{name}.pem")
        paths[-1].write_text(pem_of(body))
    base, delta = paths
    assert not site.lists("/crl/corp.crl", "later")
    assert site.openssl(site.corp, "later", base) == 0
    assert site.openssl(site.corp, "later", base, delta) == REVOKED
    assert site.openssl(site.corp, "good", base, delta) == 0
    assert site.openssl(site.corp, "revoked", base, delta) == REVOKED


@pytest.mark.clause("Mozilla", "6.1.2", "MUST")
def test_our_own_commands_fetch(site: Site) -> None:
    """RTP-02: show finds nothing wrong with what is served, and CCADB's array names shards that name themselves."""
    for path, ca in (("corp.crl", site.corp), ("corp-delta.crl", site.corp), ("parts/1.crl", site.parts)):
        wait_until(path, lambda: site.get(f"/crl/{path}"))  # noqa: B023
        shown = run("show", f"{site.url}/crl/{path}", "--issuer", ca.certificate_path)
        assert shown.exit_code == 0, shown.output
        assert "no problems found" in shown.output
    array = run("partitions", "-c", site.server.config, "--ca", "parts", "--check")
    assert array.exit_code == 0, array.output
    assert json.loads(array.output) == [f"{site.url}/crl/parts/{shard}.crl" for shard in range(SHARDS)]
