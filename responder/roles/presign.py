"""The presigning role: keeps answers in date, and answers the workers' live questions, in one process and one thread.

The keys are here and in no process that faces the network. Started by the supervisor (``revocast run | presign``), which
starts it again when it ends, also on SIGHUP with the changed configuration. ``presign_all`` is the quickstart's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from responder.clock import Clock, SystemClock
from responder.config import Config, load_config
from responder.errors import ConfigError, SignerEnded, SignerUnavailable, StoreUnavailable
from responder.issuers import Issuers
from responder.log import configure_logging, get_logger
from responder.process import ConfigFile, Stop, announce_ready
from responder.signing.clock_guard import ClockGuard
from responder.signing.delegation import ResponseSigner, open_response_signer
from responder.signing.live import LiveSigner
from responder.signing.presigner import Presigner
from responder.store.redis_store import Store

log = get_logger(__name__)

IDLE_BLOCK_MS = 50  # how long to wait for questions when nothing is due; a revocation waits no longer either
STORE_RETRY_FIRST_S = 0.05  # a connection that was cut is made anew at once: a revocation may wait for its signature
STORE_RETRY_MOST_S = 0.5
SIGNER_RETRY_S = 30.0


class _Stopped(Exception):
    """SIGTERM came while a bucket was being signed."""


def presign(
    config: ConfigFile,
    check_only: Annotated[bool, typer.Option("--check", help="Only see whether every key signs.")] = False,
) -> None:
    """Sign answers until SIGTERM.

    With ``--check`` raises ConfigError or SignerUnavailable for the first key that does not sign: the supervisor asks so
    before it starts anything. In operation one CA's signer that has ended must not keep the others' from signing.
    """
    settings = load_config(config)
    configure_logging("presign", settings.log.level, settings.log.format)
    if check_only:
        with opened_signers(settings, str(config), SystemClock()):
            return
    stop = Stop()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    clock = SystemClock()
    while not stop.is_set():
        with (
            opened_signers(settings, str(config), clock, skip_failing=True) as (issuers, signers),
            Store.connect(settings, "presign") as store,
        ):
            # With a signer missing, all are opened anew after a while: a token may be back, a certificate renewed.
            until = clock.monotonic() + SIGNER_RETRY_S if len(signers) < len(issuers) else float("inf")
            pause = STORE_RETRY_FIRST_S
            while not stop.is_set() and clock.monotonic() < until:
                began = clock.monotonic()
                try:
                    _sign(store, issuers, signers, clock, stop, until)
                except StoreUnavailable as error:
                    log.warning("store_unavailable", error=str(error))
                    worked = clock.monotonic() - began > STORE_RETRY_MOST_S
                    pause = STORE_RETRY_FIRST_S if worked else min(2 * pause, STORE_RETRY_MOST_S)
                    stop.wait(pause)
    log.info("stopped")


def _sign(
    store: Store,
    issuers: Issuers,
    signers: dict[str, ResponseSigner],
    clock: Clock,
    stop: Stop,
    until: float,
) -> None:
    """Sign until ``stop``, or the monotonic second ``until``; raises StoreUnavailable."""

    def between() -> None:
        if stop.is_set():
            raise _Stopped
        live.poll()

    guard = ClockGuard(clock, store.time)
    presigner = Presigner(store, issuers, signers, clock, guard=guard, between=between)
    live = LiveSigner(store, presigner.desks, clock, guard)
    announce_ready()
    log.info("signing", cas=sorted(desk.issuer.name for desk in presigner.desks.values()))
    try:
        while not stop.is_set() and clock.monotonic() < until:
            made = presigner.run_once()
            live.poll(None if made else IDLE_BLOCK_MS)
    except _Stopped:
        return


def presign_all(config_file: Path, progress: Callable[[int], object] = lambda _: None) -> int:
    """Sign whatever is due and return how many signatures that took; ``progress`` hears of them as they are made.

    Raises ConfigError, SignerUnavailable, StoreUnavailable, and OperatorError where the clock is wrong.
    """
    settings = load_config(config_file)
    clock = SystemClock()
    with (
        opened_signers(settings, str(config_file), clock) as (issuers, signers),
        Store.connect(settings, "presign") as store,
    ):
        return Presigner(store, issuers, signers, clock).run_until_idle(progress)


@contextmanager
def opened_signers(
    config: Config, config_file: str, clock: Clock, *, skip_failing: bool = False
) -> Iterator[tuple[Issuers, dict[str, ResponseSigner]]]:
    """Open every CA's signer, by the CA's id in the store; closes them all at the end.

    Raises ConfigError or SignerUnavailable, one line, for the first that will not do; with ``skip_failing`` it is logged
    and left out. A certificate that has expired is always left out, as long as there is another signer: after a restart
    one CA's neglect must not cost the others their answers.
    """
    issuers = Issuers.from_config(config, config_file)
    ended: SignerEnded | None = None
    with ExitStack() as opened:
        signers: dict[str, ResponseSigner] = {}
        for issuer in issuers:
            try:
                signer = open_response_signer(issuer.config, issuer, config.data_dir, clock.now(), config_file)
            except (ConfigError, SignerUnavailable) as error:
                if isinstance(error, SignerEnded):
                    ended = error
                elif not skip_failing:
                    raise
                log.error("signer_unavailable", ca=issuer.name, error=str(error))
                continue
            opened.callback(signer.close)
            signers[issuer.id] = signer
            for warning in signer.warnings:
                log.warning("signer_warning", ca=issuer.name, text=warning)
        if ended is not None and not signers and not skip_failing:
            raise ended
        yield issuers, signers
