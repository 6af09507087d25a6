"""`revocast run` on a CA of which there is nothing but its CRLs: answers from them, and the CRL itself, as it was."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from tests.crl_made import make_crl
from tests.pki import PKI, make_ca, make_leaf
from tests.server import Revocast, wait_until
from tests.web_folder import WebFolder

HOUR_S = 3_600
STATUS = ocsp.OCSPCertStatus


@pytest.fixture
def shop(tmp_path: Path) -> PKI:
    return make_ca(tmp_path / "ca", delegated=True)


def test_a_ca_that_only_publishes_crls(tmp_path: Path, web_folder: WebFolder, shop: PKI) -> None:
    """Revoked is presigned; what is on no list is good, until the next CRL names it; nothing lasts beyond the CRL."""
    revoked, other = make_leaf(shop, serial_number=0x11), make_leaf(shop, serial_number=0x12)
    now = int(time.time())
    terms = {"this_update": now - HOUR_S, "next_update": now + 5 * HOUR_S}
    web_folder.files["/corp.crl"] = first = make_crl(shop, [(0x11, now - HOUR_S, "superseded")], number=7, **terms)
    url = f"{web_folder.url}/corp.crl"
    assert shop.signer is not None
    section = (
        f'[[ca]]\nname = "corp"\ncertificate = "{shop.certificate_path}"\n'
        f'source = {{ type = "crl", url = "{url}", poll = "1s" }}\n'
        f'ocsp = {{ certificate = "{shop.signer.certificate_path}", key = "{shop.signer.key_path}", unassigned = "good" }}\n'
        f'crl = {{ mirror = "{url}", every = "1s" }}\n'
    )
    with Revocast(tmp_path / "revocast", [section], environment={"NO_PROXY": "127.0.0.1"}) as server:
        server.wait_for(revoked, shop, STATUS.REVOKED)
        server.wait_for(other, shop, STATUS.GOOD)
        for leaf in (revoked, other):
            (single,) = server.query(leaf, shop).responses
            assert single.this_update_utc.timestamp() == now - HOUR_S
            assert single.next_update_utc is not None
            assert single.next_update_utc.timestamp() == now + 5 * HOUR_S
        wait_until("the mirrored CRL", lambda: server.get("/crl/corp.crl")[2] == first)
        terms["this_update"] = now - 60
        entries = [(0x11, now - HOUR_S, "superseded"), (0x12, now - 60, "key_compromise")]
        web_folder.files["/corp.crl"] = second = make_crl(shop, entries, number=8, **terms)
        server.wait_for(other, shop, STATUS.REVOKED)
        wait_until("the next CRL", lambda: server.get("/crl/corp.crl")[2] == second)
