"""One HTTP worker: puts the query path together, and serves on sockets that its supervisor holds.

Started as ``python -m responder role worker -c FILE --slot N --fds A,B``. It holds no key, and works without Redis as
far as its answers last: started without one it says tryLater, and connects when it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from fastpath.answer_table import AbsentTable, AnswerTable
from responder.clock import Clock, SystemClock
from responder.config import Config, load_config
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.endpoint import CRLEndpoint
from responder.errors import ConfigError
from responder.http.routes import Routes
from responder.http.server import adopt_socket, serve_sockets
from responder.issuers import Issuers
from responder.log import configure_logging, get_logger
from responder.metrics import Tally
from responder.ocsp.authority import Authority
from responder.ocsp.endpoint import OCSPEndpoint
from responder.ocsp.journal import Contact, JournalFollower
from responder.ocsp.on_demand import OnDemandSource
from responder.ocsp.preload import Preload
from responder.ocsp.ready import ReadyAnswers
from responder.ocsp.stored import StoredSource
from responder.process import announce_ready
from responder.store.redis_store import EdgeStore

log = get_logger(__name__)

ABSENT_SHARE = 32  # of table_bytes, one part in this many goes to serials that are not there, on top
GC_THRESHOLD = 50_000  # objects between two passes of the collector; Python's own is 700
PRELOAD_WITHIN_S = 20.0  # a successor takes over by then, preloaded or not; the supervisor waits for 30 s
FIRST_CONTACT_S = 1.0  # how long a fresh worker waits for Redis before it serves all the same


@dataclass(frozen=True, slots=True)
class Edge:
    """The query path of one process, without HTTP."""

    store: EdgeStore
    contact: Contact
    follower: JournalFollower
    on_demand: OnDemandSource
    endpoint: OCSPEndpoint
    ready: ReadyAnswers
    preload: Preload

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the journal and read live replies, for as long as the block runs."""
        tasks = [asyncio.create_task(self.follower.run()), asyncio.create_task(self.on_demand.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.store.close()


def build_edge(config: Config, issuers: Issuers, store: EdgeStore, clock: Clock) -> Edge:
    """Put the query path together."""
    contact = Contact(clock)
    cas = [issuer.id for issuer in issuers]
    table = AnswerTable(config.http.table_bytes, cas)
    absent = AbsentTable(config.http.table_bytes // ABSENT_SHARE, cas)
    stored = StoredSource(store, clock, table, absent)
    # Its stream of replies is this process's alone.
    worker_id = f"{os.getpid()}-{secrets.token_hex(8)}"
    on_demand = OnDemandSource(store, clock, worker_id, table, absent)
    preload = Preload(store, clock, issuers, table, stored)
    follower = JournalFollower(
        store, clock, contact, of_answers=(table, absent, stored, preload), of_statuses=(on_demand,)
    )
    tally = Tally()
    endpoint = OCSPEndpoint(config.http, clock, contact, Authority(issuers), table, absent, stored, on_demand, tally)
    ready = ReadyAnswers(config.http, clock, contact, issuers, table, endpoint, tally)
    return Edge(store, contact, follower, on_demand, endpoint, ready, preload)


def worker(
    config: Annotated[Path, typer.Option("-c", "--config")],
    fds: Annotated[str, typer.Option("--fds", help="Listening sockets, inherited: 5,6")],
    slot: Annotated[int, typer.Option("--slot", help="Which of the workers this is.")] = 0,
) -> None:
    """Serve OCSP, CRLs and CA certificates over HTTP."""
    settings = load_config(config)
    configure_logging(f"worker-{slot}", settings.log.level, settings.log.format)
    try:
        descriptors = [int(fd) for fd in fds.split(",")]
    except ValueError:
        raise ConfigError(str(config), "--fds", f"must be numbers with commas between (got {fds!r})") from None
    issuers = Issuers.from_config(settings, str(config))
    uvloop.run(serve(settings, issuers, descriptors))


async def serve(config: Config, issuers: Issuers, descriptors: list[int]) -> None:
    """Serve until SIGTERM, then drain."""
    clock = SystemClock()
    # What was made so far lasts; of what a query makes, next to nothing is a cycle. The collector's passes over both
    # were a tenth of a miss.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    edge = build_edge(config, issuers, EdgeStore.connect(config), clock)
    async with edge.running():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(edge.contact.first(), FIRST_CONTACT_S)
        starting: list[asyncio.Task[None]] = []

        def begin() -> None:
            starting.append(asyncio.create_task(_warm_up(edge, config.http.preload)))

        sockets = [adopt_socket(fd) for fd in descriptors]
        handler = Routes(edge.endpoint, CRLEndpoint(issuers, Depot(config.data_dir / DIRECTORY), clock))
        await serve_sockets(sockets, handler, config.http, clock, express=edge.ready, on_ready=begin)
        await edge.endpoint.drain()
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
    log.info("worker_stopped")


async def _warm_up(edge: Edge, preload: bool) -> None:
    """Preload if asked to; the supervisor keeps a predecessor at work until it is told that this worker is ready."""
    preloading = asyncio.create_task(edge.preload.run() if preload else asyncio.sleep(0))
    try:
        await asyncio.wait([preloading], timeout=PRELOAD_WITHIN_S)
        announce_ready()
        await preloading
    finally:
        preloading.cancel()
