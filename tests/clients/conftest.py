"""A running Revocast for each kind of CA, and certificates of every status in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from cryptography.x509 import ocsp

from tests.pki import PKI, Leaf, make_ca, make_leaf, make_signer
from tests.server import Revocast, ca_section, index_line, write_index

# A key type for the CA and one for its delegated signer (None: the CA signs answers itself), and ocsp.certid, which has
# nothing to do with the keys.
KINDS = {
    "rsa-delegated-each": ("rsa2048", "rsa2048", "each"),
    "rsa-direct-sha1": ("rsa2048", None, "sha1"),
    "ecdsa-delegated-dual": ("p256", "p256", "dual"),
    "ecdsa-direct-sha256": ("p384", None, "sha256"),
}


@dataclass(frozen=True)
class World:
    """One CA, its responder, and a certificate of each kind."""

    server: Revocast
    ca: PKI
    certid: str
    good: Leaf
    revoked: Leaf
    revoked_at: int
    unknown: Leaf  # of this CA, but in no list
    stranger: PKI  # a CA that the responder does not know
    foreign: Leaf  # of the stranger


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """Give the world of a kind, started when first asked for."""
    started: list[Revocast] = []

    @cache
    def world(kind: str) -> World:
        ca_key, signer_key, certid = KINDS[kind]
        directory = tmp_path_factory.mktemp(kind)
        ca = make_ca(directory / "ca", ca_key, name=f"Example {kind} CA")
        if signer_key:
            ca = PKI(**{**vars(ca), "signer": make_signer(ca, signer_key)})
        stranger = make_ca(directory / "stranger", ca_key, name="Example Stranger CA", label="stranger")
        index = directory / "index.txt"
        write_index(index, [])
        section = ca_section("corp", ca, index, extra_ocsp=f', unassigned = "unknown", certid = "{certid}"')
        server = Revocast(directory / "server", [section])
        started.append(server)
        server.start()
        # The certificates name the responder (NSS asks nobody else), so its port has to be known first.
        good, revoked, unknown = (make_leaf(ca, host=f"{n}.example-shop.com", ocsp_url=server.url) for n in "abc")
        foreign = make_leaf(stranger, host="d.example-shop.com", ocsp_url=server.url)
        revoked_at = int(time.time()) - 7200
        write_index(index, [index_line(good), index_line(revoked, revoked_at, "keyCompromise")])
        server.wait_for(good, ca, ocsp.OCSPCertStatus.GOOD)
        server.wait_for(revoked, ca, ocsp.OCSPCertStatus.REVOKED)
        return World(server, ca, certid, good, revoked, revoked_at, unknown, stranger, foreign)

    yield world
    for server in started:
        server.stop()


@pytest.fixture(params=sorted(KINDS))
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> World:
    """Each kind of CA in turn."""
    return worlds(request.param)
