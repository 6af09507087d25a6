"""A running Revocast with a CA of each kind, and certificates of every status in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

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
    """One CA, the responder, and a certificate of each kind."""

    server: Revocast
    ca: PKI
    certid: str
    good: Leaf
    revoked: Leaf
    revoked_at: int
    unknown: Leaf  # of this CA, but in no list
    stranger: PKI  # a CA that the responder does not know
    foreign: Leaf  # of the stranger


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    """Give the world of each kind, all of them with one responder."""
    directory = tmp_path_factory.mktemp("worlds")
    cas, sections = {}, []
    for kind, (ca_key, signer_key, certid) in KINDS.items():
        ca = make_ca(directory / kind, ca_key, name=f"Example {kind} CA", label=kind)
        cas[kind] = PKI(**{**vars(ca), "signer": make_signer(ca, signer_key)}) if signer_key else ca
        write_index(directory / kind / "index.txt", [])
        terms = f', unassigned = "unknown", certid = "{certid}"'
        sections.append(ca_section(kind, cas[kind], directory / kind / "index.txt", extra_ocsp=terms))
    with Revocast(directory / "server", sections) as server:
        made = {kind: _world(server, kind, ca) for kind, ca in cas.items()}
        for world in made.values():
            server.wait_for(world.good, world.ca, ocsp.OCSPCertStatus.GOOD)
            server.wait_for(world.revoked, world.ca, ocsp.OCSPCertStatus.REVOKED)
        yield made


def _world(server: Revocast, kind: str, ca: PKI) -> World:
    ca_key, _, certid = KINDS[kind]
    stranger = make_ca(ca.directory / "stranger", ca_key, name="Example Stranger CA", label="stranger")
    # The certificates name the responder (NSS asks nobody else), so its port has to be known first.
    good, revoked, unknown = (make_leaf(ca, host=f"{n}.example-shop.com", ocsp_url=server.url) for n in "abc")
    foreign = make_leaf(stranger, host="d.example-shop.com", ocsp_url=server.url)
    revoked_at = int(time.time()) - 7200
    write_index(ca.directory / "index.txt", [index_line(good), index_line(revoked, revoked_at, "keyCompromise")])
    return World(server, ca, certid, good, revoked, revoked_at, unknown, stranger, foreign)


@pytest.fixture(params=sorted(KINDS))
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    """Each kind of CA in turn."""
    return worlds[request.param]
