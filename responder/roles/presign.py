"""The presigning role: keeps answers in date, and answers the workers' live questions, in one process and one thread.

The keys are here and in no process that faces the network. Started by the supervisor (``revocast run | presign``), which
starts it again when it ends, also on SIGHUP with the changed configuration. ``presign_all`` is the quickstart's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from responder import audit
from responder.audit_anchor import command_log, role_log
from responder.clock import Clock, SystemClock
from responder.config import Config, load_config
from responder.errors import SignerEnded, SignerUnavailable, StoreUnavailable
from responder.issuers import Issuer, Issuers
from responder.log import configure_logging, get_logger
from responder.process import ConfigFile, Stop, announce_ready
from responder.signing.clock_guard import ClockGuard
from responder.signing.delegation import ResponseSigner
from responder.signing.desk import put_desk
from responder.signing.live import LiveSigner
from responder.signing.presigner import WAIT_S, Presigner
from responder.signing.rollover import SignerWatch, open_configured
from responder.store.redis_store import Store

log = get_logger(__name__)

IDLE_S = 0.05  # how long to answer questions alone when nothing is due; a revocation waits no longer either
STORE_RETRY_FIRST_S = 0.05  # a connection that was cut is made anew at once: a revocation may wait for its signature
STORE_RETRY_MOST_S = 0.5


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
        with audit.opened(settings, config, "check"), opened_signers(settings, str(config), SystemClock()):
            return
    with role_log(settings, config, "presign"):
        _presign(settings, str(config))
    log.info("stopped")


def _presign(settings: Config, config_file: str) -> None:
    stop = Stop()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    clock = SystemClock()
    with SignerWatch(settings, config_file, clock) as watch, Store.connect(settings, "presign") as store:
        pause = STORE_RETRY_FIRST_S
        while not stop.is_set():
            began = clock.monotonic()
            try:
                _sign(store, watch, clock, stop)
            except StoreUnavailable as error:
                log.warning("store_unavailable", error=str(error))
                worked = clock.monotonic() - began > STORE_RETRY_MOST_S
                pause = STORE_RETRY_FIRST_S if worked else min(2 * pause, STORE_RETRY_MOST_S)
                stop.wait(pause)


def _sign(store: Store, watch: SignerWatch, clock: Clock, stop: Stop) -> None:
    """Sign until ``stop``, at each moment with the signers that the watch has open; raises StoreUnavailable."""
    watch.look()
    guard = ClockGuard(clock, store.time)
    presigner = Presigner(store, watch.issuers, watch.signers, clock, guard=guard)
    live = LiveSigner(store, presigner.desks, clock, guard)
    announce_ready()
    log.info("signing", cas=sorted(desk.issuer.name for desk in presigner.desks.values()))
    while not stop.is_set():
        for issuer, signer in watch.look(presigner.signs_with):
            put_desk(presigner.desks, store, issuer, signer, clock)
        presigner.turn()
        live.serve(IDLE_S if presigner.is_idle else 0.0)
        presigner.wait(WAIT_S)
    presigner.give_back()


def presign_all(config_file: Path, progress: Callable[[int], object] = lambda _: None) -> int:
    """Sign whatever is due and return how many signatures that took; ``progress`` hears of them as they are made.

    Raises ConfigError, SignerUnavailable, StoreUnavailable, and OperatorError where the clock is wrong.
    """
    settings = load_config(config_file)
    clock = SystemClock()
    with (
        Store.connect(settings, "presign") as store,
        command_log(settings, config_file, store),
        opened_signers(settings, str(config_file), clock) as (issuers, signers),
    ):
        return Presigner(store, issuers, signers, clock).run_until_idle(progress)


@contextmanager
def opened_signers(
    config: Config, config_file: str, clock: Clock
) -> Iterator[tuple[Issuers, dict[str, ResponseSigner]]]:
    """Open every CA's signer, by the CA's id in the store; closes them all at the end.

    Raises ConfigError or SignerUnavailable, one line, for the first that will not do; also for one that is configured
    ahead and could never work. A certificate that has expired is left out, as long as there is another signer: after a
    restart one CA's neglect must not cost the others their answers.
    """
    issuers = Issuers.from_config(config, config_file)
    ended: SignerEnded | None = None
    with ExitStack() as opened:
        signers: dict[str, ResponseSigner] = {}
        for issuer in issuers:
            ocsp, now = issuer.config.ocsp, clock.now()
            for using in ocsp.signers_at(now):
                try:
                    signer = open_configured(using, issuer, config, config_file, now)
                except SignerEnded as error:
                    ended = error
                    log.error("signer_unavailable", ca=issuer.name, error=str(error))
                    continue
                opened.callback(signer.close)
                signers[issuer.id] = signer
                _log_warnings(issuer, signer)
                break
            if ocsp.next is not None and now < ocsp.next.start:
                try:
                    with closing(open_configured(ocsp.next, issuer, config, config_file, now)) as signer:
                        _log_warnings(issuer, signer)
                except SignerUnavailable as error:  # its token may be there in time
                    log.warning("next_signer_unusable", ca=issuer.name, error=str(error))
        if ended is not None and not signers:
            raise ended
        yield issuers, signers


def _log_warnings(issuer: Issuer, signer: ResponseSigner) -> None:
    for warning in signer.warnings:
        log.warning("signer_warning", ca=issuer.name, text=warning)
