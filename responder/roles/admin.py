"""The operator's listener: ``/health`` and ``/metrics``, on an address of its own.

``/health`` is 200 only if an in-date, verified answer can be had, which is found out as a client would: a worker is asked
over HTTP about one certificate of each CA and its answer is verified (roles/health.py). On a machine without workers it
tells whether Redis is there. ``/metrics`` adds up what every role's process has counted.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from responder.clock import Clock, SystemClock
from responder.config import Config, HTTPConfig, load_config, parse_listen
from responder.crl.depot import DIRECTORY, Depot
from responder.errors import RevocastError
from responder.http.message import Request, Response, http_error
from responder.http.server import adopt_socket, serve_sockets
from responder.issuers import Issuer, Issuers
from responder.log import configure_logging, get_logger
from responder.model import Status, serial_from_octets
from responder.process import announce_ready
from responder.roles.health import Probe, ask, crl_problem, probe_request, verify_answer
from responder.store.layout import PARTITIONS
from responder.store.redis_store import Store

log = get_logger(__name__)

HEALTH_FRESH_S = 1.0  # within it the last outcome is repeated: a monitor that asks often costs nothing
SAMPLE_FRESH_S = 30.0  # how long the same certificate is asked about
JSON = ((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store"))


class Health:
    """Finds out whether every CA's answers can be had."""

    def __init__(self, config: Config, issuers: Issuers, public: list[tuple[str, int]], clock: Clock) -> None:
        self._config = config
        self._issuers = issuers
        self._public = public
        self._clock = clock
        self._depot = Depot(config.data_dir / DIRECTORY)
        self._samples: dict[str, bytes] = {}
        self._sampled_at = float("-inf")
        self._store: Store | None = None

    async def probe(self) -> list[Probe]:
        """Ask about one certificate of each CA."""
        problem = await asyncio.to_thread(self._take_samples)
        if not self._public:
            return [Probe("redis", problem)]
        return list(await asyncio.gather(*(self._probe_ca(issuer, problem) for issuer in self._issuers)))

    async def _probe_ca(self, issuer: Issuer, store_problem: str | None) -> Probe:
        sample = self._samples.get(issuer.id)
        if sample is None:
            return Probe(issuer.name, store_problem or "no certificate of this CA is loaded")
        host, port = self._public[0]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - an address to compare with, not to listen on
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        try:
            body = await ask(host, port, probe_request(issuer, sample))
        except (OSError, TimeoutError, ValueError) as error:
            return Probe(issuer.name, f"no answer: {error or type(error).__name__}")
        now = self._clock.now()
        problem = verify_answer(issuer, serial_from_octets(sample), body, now) or crl_problem(self._depot, issuer, now)
        return Probe(issuer.name, problem)

    def _take_samples(self) -> str | None:
        """Choose a certificate of each CA now and then; while Redis is gone the last choice stays. Runs in a thread."""
        now = self._clock.monotonic()
        complete = self._public and self._samples.keys() >= {issuer.id for issuer in self._issuers}
        if complete and now - self._sampled_at < SAMPLE_FRESH_S:
            return None
        try:
            if self._store is None:
                self._store = Store.connect(self._config, "serve")
            for issuer in self._issuers:
                if (sample := self._sample(self._store, issuer)) is not None:
                    self._samples[issuer.id] = sample
            self._sampled_at = now
        except RevocastError as error:
            return str(error)
        return None

    def _sample(self, store: Store, issuer: Issuer) -> bytes | None:
        """Return a certificate that has not expired, from the first bucket that holds one."""
        info = store.ca_info(issuer.id)
        if info is None or info.bits is None:
            return None
        for bucket in range(PARTITIONS):  # these numbers exist at whatever depth the CA's buckets are
            for serial_octets, text in store.read_status_bucket(issuer.id, bucket).entries.items():
                if (Status.from_text(text).not_after or 0) > self._clock.now():
                    return serial_octets
        return None


class AdminHandler:
    """Answers the operator's requests."""

    accepted_types: frozenset[bytes] = frozenset()

    def __init__(self, health: Health, clock: Clock) -> None:
        self._health = health
        self._clock = clock
        self._last: tuple[float, Response] | None = None
        self._probing: asyncio.Task[Response] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        """Route a request."""
        match request.target.partition(b"?")[0]:
            case b"/health":
                self._spawn(self._answer_health(reply))
            case b"/metrics":
                self._spawn(self._answer_metrics(reply))
            case _:
                reply(http_error(404))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_health(self, reply: Callable[[Response], None]) -> None:
        if self._last and self._clock.monotonic() - self._last[0] < HEALTH_FRESH_S:
            reply(self._last[1])
            return
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        reply(await asyncio.shield(self._probing))

    async def _probe(self) -> Response:
        try:
            probes = await self._health.probe()
        except Exception as error:
            # A mistake of our own, or nonsense in Redis: whatever it is, nobody found out that it works.
            log.exception("health_not_found_out")
            probes = [Probe("all", f"could not be found out: {error or type(error).__name__}")]
        healthy = bool(probes) and all(probe.problem is None for probe in probes)
        outcome = {"healthy": healthy, "ca": {probe.ca: probe.problem or "ok" for probe in probes}}
        if await asyncio.to_thread(presigner_is_behind):
            outcome["presigner"] = "falls behind"  # answers are good as yet, so this alone is no reason for a 503
        if not healthy:
            log.error("unhealthy", **outcome["ca"])  # type: ignore[arg-type]
        response = Response(200 if healthy else 503, json.dumps(outcome).encode() + b"\n", JSON)
        self._last = (self._clock.monotonic(), response)
        return response

    async def _answer_metrics(self, reply: Callable[[Response], None]) -> None:
        body = await asyncio.to_thread(render_metrics)
        reply(Response(200, body, ((b"Content-Type", CONTENT_TYPE_LATEST.encode()), (b"Cache-Control", b"no-store"))))


def _registry() -> CollectorRegistry:
    """Return every role's metrics added up."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def render_metrics() -> bytes:
    """Return every role's metrics in Prometheus' text format."""
    return generate_latest(_registry())


def presigner_is_behind() -> bool:
    """Tell whether a presigner of this machine says that it cannot keep up (signing/watch.py)."""
    return _registry().get_sample_value("revocast_presigner_behind") == 1


def admin(
    config: Annotated[Path, typer.Option("-c", "--config")],
    fd: Annotated[int, typer.Option(help="The listening socket, inherited.")],
    public: Annotated[str, typer.Option(help="Where the workers serve, HOST:PORT,…; empty: none here.")] = "",
) -> None:
    """Serve /health and /metrics (started by the supervisor)."""
    settings = load_config(config)
    configure_logging("admin", settings.log.level, settings.log.format)
    issuers = Issuers.from_config(settings, str(config))
    addresses = [parse_listen(address) for address in public.split(",") if address]
    uvloop.run(_serve(settings, issuers, addresses, fd))


async def _serve(config: Config, issuers: Issuers, public: list[tuple[str, int]], fd: int) -> None:
    clock = SystemClock()
    handler = AdminHandler(Health(config, issuers, public, clock), clock)
    # A few connections of the operator's own: nothing here is for the public.
    limits = HTTPConfig.model_validate({"max_connections": 100, "max_connections_per_address": 100, "drain": "1s"})
    await serve_sockets([adopt_socket(fd)], handler, limits, clock, on_ready=announce_ready)
