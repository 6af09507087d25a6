"""Races and lies at the edge: what is known of a CA while an override arrives, and what /health may call healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from responder.clock import SystemClock, format_utc
from responder.config import load_config
from responder.http.message import Request, Response
from responder.issuers import Issuer, Issuers
from responder.log import configure_logging
from responder.ocsp.answer import Outcome
from responder.roles.admin import AdminHandler
from responder.roles.health import Probe, verify_answer
from tests.edge_room import EdgeRoom, in_edge
from tests.pki import PKI, make_ca, make_leaf, make_signer, utc
from tests.redis_fixture import RedisServer
from tests.server import ca_section
from tests.signing_room import GOOD, Room

NOBODYS = 0x7777


@pytest.fixture(autouse=True)
def _quiet() -> None:
    configure_logging("test", "critical")


def test_an_override_that_overtakes_the_reading_of_a_ca_is_not_forgotten(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """STS-07: what was read of a CA before the journal named it is not kept: its unassigned serials are revoked now."""
    room = Room(redis_server(), tmp_path / "ca")
    room.load({0x1000: GOOD})
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        store = edge.edge.store
        real = store.ca_info
        arrived, gate = asyncio.Event(), asyncio.Event()

        async def gated(ca: str) -> Any:
            info = await real(ca)
            arrived.set()
            await gate.wait()
            return info

        store.ca_info = gated  # type: ignore[method-assign]
        async with edge.presigning():
            asked = asyncio.ensure_future(edge.ask(NOBODYS))
            await arrived.wait()  # no override, as it stood until now
            room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now() - 10)} cACompromise")
            await edge.see_journal()
            gate.set()
            first = await asked
            assert first.outcome is not Outcome.UNASSIGNED
            edge.revoked(await edge.ask(NOBODYS), NOBODYS, "on_demand")


def test_health_that_cannot_be_found_out_is_no_health() -> None:
    """A mistake of our own while looking is 503 at once, not a monitor that waits."""

    class Broken:
        async def probe(self) -> list[Probe]:
            raise ValueError("somebody wrote nonsense into Redis")

    async def ask() -> Response:
        replied: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        handler = AdminHandler(Broken(), SystemClock())  # type: ignore[arg-type]
        handler.handle(Request(b"GET", b"/health"), replied.set_result)
        return await asyncio.wait_for(replied, 2)

    response = asyncio.run(ask())
    assert response.status == 503
    assert b"nonsense" in response.body


def answer(signer: Any, about: PKI) -> tuple[int, bytes]:
    leaf = make_leaf(about)
    now = SystemClock().now()
    built = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            leaf.certificate,
            about.certificate,
            hashes.SHA1(),
            ocsp.OCSPCertStatus.GOOD,
            utc(int(now) - 10),
            utc(int(now) + 1000),
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
        .certificates([signer.certificate])
        .sign(signer.key, hashes.SHA256())
    )
    return leaf.serial_number, built.public_bytes(Encoding.DER)


def issuer_of(ca: PKI, directory: Path) -> Issuer:
    config = directory / "revocast.toml"
    config.write_text('data_dir = "state"\n' + ca_section("corp", ca, directory / "index.txt"))
    (issuer,) = Issuers.from_config(load_config(config), str(config))
    return issuer


def test_health_believes_what_a_client_would_and_no_more(tmp_path: Path) -> None:
    """The CertID is the CA's own, and a delegate may sign answers and is in date (RFC 6960 §4.2.2.2)."""
    ca = make_ca(tmp_path / "ca", delegated=True)
    (tmp_path / "index.txt").touch()
    issuer, now = issuer_of(ca, tmp_path), SystemClock().now()
    assert ca.signer is not None
    serial, body = answer(ca.signer, ca)
    assert verify_answer(issuer, serial, body, now) is None

    serial, body = answer(ca.signer, make_ca(tmp_path / "other", name="Example Other CA", label="other"))
    assert verify_answer(issuer, serial, body, now) == "the answer is for a certificate of another CA"

    usage = (ExtendedKeyUsageOID.SERVER_AUTH,)
    web = make_signer(ca, directory=tmp_path, file_name="web", label="web", extended_key_usage=usage)
    serial, body = answer(web, ca)
    assert verify_answer(issuer, serial, body, now) == "the signer's certificate is not for OCSPSigning"

    ended = make_signer(ca, directory=tmp_path, file_name="ended", label="ended", not_after=int(now) - 5)
    serial, body = answer(ended, ca)
    assert verify_answer(issuer, serial, body, now) == "the signer's certificate is not in date"
