"""The query path of a worker on a real Redis, with a real presigner beside it: what the tests of the edge work in.

``EdgeRoom`` wraps a ``signing_room.Room``. Its pipelines to Redis are counted, its clock is the room's, and the journal is
polled when the test says so. ``presigning`` has live questions answered from a thread while a block runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import uvloop
from cryptography.x509 import ocsp

from responder.http.message import Request, Response
from responder.model import CertStatus, serial_to_octets
from responder.ocsp.endpoint import Result
from responder.ocsp.journal import JournalFollower
from responder.roles.worker import Edge, build_edge
from responder.store.redis_store import EdgeStore
from tests.reference import request_builder as build
from tests.signing_room import Room


async def until(what: str, check: Callable[[], object], within_s: float = 10.0) -> None:
    """Poll ``check`` until it returns something true; fails naming ``what``."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


class EdgeRoom:
    """One worker's query path. Make it inside a running loop."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.edge: Edge = build_edge(room.config, room.issuers, EdgeStore.connect(room.config), room.clock)
        self.pipelines: list[Sequence[Any]] = []
        link = self.edge.store._link
        real = link.pipeline

        async def counted(commands: Sequence[Any], extra_s: float = 0.0, commands_each: int = 1) -> list[Any]:
            self.pipelines.append(commands)
            return await real(commands, extra_s, commands_each)

        link.pipeline = counted  # type: ignore[method-assign]

    @property
    def follower(self) -> JournalFollower:
        return self.edge.follower

    async def see_journal(self) -> None:
        """Poll until the journal was seen to its end."""
        while await self.follower.poll():
            pass

    @contextlib.asynccontextmanager
    async def presigning(self, **options: Any) -> AsyncIterator[None]:
        """Answer live questions, from a thread, as the presigning role does."""
        live = self.room.live(**options)
        stopping = False

        def work() -> None:
            while not stopping:
                live.poll(20)

        reader = asyncio.create_task(self.edge.on_demand.run())
        worker = asyncio.create_task(asyncio.to_thread(work))
        try:
            yield
        finally:
            stopping = True
            await worker
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def cert_id(self, serial: int | bytes, hash_name: str = "sha1", parameters: bytes = build.NULL) -> bytes:
        """Encode a CertID of the room's CA."""
        issuer = self.room.issuer
        return build.cert_id(
            serial,
            hash_name,
            parameters,
            name_hash=issuer.name_hashes[hash_name],
            key_hash=issuer.key_hashes[hash_name],
        )

    def request(
        self,
        *serials: int | bytes,
        hash_name: str = "sha1",
        nonce: bytes | None = None,
        parameters: bytes = build.NULL,
        **options: Any,
    ) -> bytes:
        """Encode a request about serials of the room's CA."""
        extensions = [] if nonce is None else [build.nonce(nonce)]
        return build.request(
            [build.single(self.cert_id(serial, hash_name, parameters)) for serial in serials],
            extensions=[*extensions, *options.pop("extensions", ())],
            **options,
        )

    async def decide(self, request_der: bytes) -> Result:
        """Answer a request, waiting where a source has to be asked."""
        result = await self.edge.endpoint.ask(request_der)
        self.check_ready(request_der, result)
        return result

    async def ask(self, *serials: int | bytes, **options: Any) -> Result:
        """Answer a request about serials of the room's CA."""
        return await self.decide(self.request(*serials, **options))

    def ask_at_once(self, *serials: int, **options: Any) -> Result:
        """Answer a request that must not wait for anything."""
        results: list[Result] = []
        request_der = self.request(*serials, **options)
        self.edge.endpoint.decide(request_der, results.append)
        assert results, "the answer was not ready"
        self.check_ready(request_der, results[0])
        return results[0]

    def check_ready(self, request_der: bytes, result: Result) -> None:
        """Compare a result with the short way's message: where there is one, it is the same octet for octet."""
        message = self.edge.ready.ready(True, b"/", request_der)
        if message is not None:
            second = int(self.room.clock.now())
            response = result.response.for_request(Request(b"POST", b"/"), second)
            assert message == response.wire(second)

    def handle(self, method: bytes, target: bytes, body: bytes = b"") -> Response:
        """Have the HTTP handler answer what needs no waiting."""
        replies: list[Response] = []
        self.edge.endpoint.handle(Request(method, target, body), replies.append)
        (reply,) = replies
        return reply

    async def close(self) -> None:
        """End the connections."""
        await self.edge.endpoint.drain()
        await self.edge.store.close()

    # --- what answers say -----------------------------------------------------------------------------------------

    def read(self, result: Result, *serials: int) -> ocsp.OCSPResponse:
        """Parse a successful result; its signature must verify, and it must be about exactly these serials."""
        response = self.room.read(result.response.body)
        assert [single.serial_number for single in response.responses] == list(serials)
        return response

    def good(self, result: Result, serial: int, source: str) -> ocsp.OCSPResponse:
        """Expect good, from a source."""
        assert (result.outcome.value, result.source, result.cert_status) == ("answered", source, CertStatus.GOOD)
        response = self.read(result, serial)
        assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
        return response

    def revoked(self, result: Result, serial: int, source: str) -> ocsp.OCSPResponse:
        """Expect revoked, from a source."""
        assert (result.outcome.value, result.source, result.cert_status) == ("answered", source, CertStatus.REVOKED)
        response = self.read(result, serial)
        assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
        return response


def octets(serial: int) -> bytes:
    """Return a serial's contents octets."""
    return serial_to_octets(serial)


def in_edge(room: Room) -> Callable[[Callable[[EdgeRoom], Any]], None]:
    """Run the decorated coroutine function at once, in a worker's query path that has seen the journal; then close both."""

    async def run(body: Callable[[EdgeRoom], Any]) -> None:
        edge = EdgeRoom(room)
        try:
            await edge.see_journal()
            edge.pipelines.clear()
            await body(edge)
        finally:
            await edge.close()
            room.close()

    return lambda body: uvloop.run(run(body))
