"""The publishing role: issues CRLs, and mirrors those that CAs issue themselves, in one process, with a thread for each.

The CAs' CRL keys are here and in no process that faces the network. Started by the supervisor (``revocast run | publish``),
which starts it again when it ends, also on SIGHUP with the changed configuration.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from responder import audit
from responder.audit_anchor import command_log, role_log
from responder.clock import Clock, SystemClock
from responder.config import Config, load_config
from responder.crl.issue import Progress
from responder.crl.mirror import Mirror, open_mirrors, run_mirrors
from responder.crl.published import Published
from responder.crl.publisher import Publisher, Stopped, open_series
from responder.errors import SignerEnded, SignerUnavailable, StoreDamaged, StoreUnavailable
from responder.issuers import Issuers
from responder.log import configure_logging, get_logger
from responder.process import ConfigFile, Stop, announce_ready
from responder.signing.clock_guard import ClockGuard
from responder.signing.crl_signer import open_crl_signer
from responder.store.redis_store import Store

log = get_logger(__name__)

STORE_RETRY_S = 0.5


def publish(
    config: ConfigFile,
    check_only: Annotated[bool, typer.Option("--check", help="Only see whether every key may sign CRLs.")] = False,
) -> None:
    """Publish CRLs until SIGTERM.

    With ``--check`` raises ConfigError for the first key that may not sign CRLs: the supervisor asks so before it starts
    anything. A token that is not there, and a certificate that has expired, are no reason to start nothing.
    """
    settings = load_config(config)
    configure_logging("publish", settings.log.level, settings.log.format)
    if check_only:
        with audit.opened(settings, config, "check"):
            check_keys(settings, str(config), SystemClock())
        return
    with role_log(settings, config, "publish"):
        _publish(settings, str(config))
    log.info("stopped")


def check_keys(settings: Config, config_file: str, clock: Clock) -> None:
    """Try every CRL key once; raises ConfigError for the first key or mirror that an operator must mend."""
    open_mirrors(settings, config_file, Issuers.from_config(settings, config_file), clock)
    for issuer in Issuers.from_config(settings, config_file):
        if issuer.config.crl is None or not issuer.config.crl.issue:
            continue
        try:
            open_crl_signer(issuer, settings.data_dir, clock.now(), config_file).close()
        except (SignerEnded, SignerUnavailable) as error:
            log.error("crl_signer_unavailable", ca=issuer.name, error=str(error))


def publish_all(config_file: Path, progress: Progress = lambda _what, _done: None) -> list[Published]:
    """Issue the first CRLs of every CA that has none yet; returns what is published then of complete ones.

    Raises ConfigError, SignerUnavailable, StoreUnavailable, PublicationRefused.
    """
    settings, clock = load_config(config_file), SystemClock()
    found: list[Published] = []
    with Store.connect(settings, "publish") as store, command_log(settings, config_file, store):
        for issuer in Issuers.from_config(settings, str(config_file)):
            if issuer.config.crl is None or not issuer.config.crl.issue:
                continue
            with closing(open_series(settings, str(config_file), issuer, store, clock, progress)) as series:
                series.look()
                if not series.has_crls:
                    series.now(full=True)
                slots = issuer.config.crl.complete_slots
                found += [one for slot in slots if (one := series.office.published(slot)) is not None]
    return found


def _publish(settings: Config, config_file: str) -> None:
    stop = Stop()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    clock = SystemClock()
    issuers = Issuers.from_config(settings, config_file)
    if mirrors := open_mirrors(settings, config_file, issuers, clock):
        # Of its own: a slow server must not hold up what is issued. A daemon: nor the end.
        threading.Thread(target=_mirror, args=(mirrors, stop), name="mirror", daemon=True).start()
    while not stop.is_set():
        try:
            with Store.connect(settings, "publish") as store:
                _keep_in_date(settings, config_file, issuers, store, clock, stop)
        except StoreUnavailable as error:
            log.warning("store_unavailable", error=str(error))
            stop.wait(STORE_RETRY_S)
        except Stopped:
            return


def _mirror(mirrors: Sequence[Mirror], stop: Stop) -> None:
    try:
        run_mirrors(mirrors, stop)
    except BaseException:
        # A bug of ours: the process ends, and its supervisor starts it again.
        log.exception("mirror_died")
        stop.set()
        raise


def _keep_in_date(settings: Config, config_file: str, issuers: Issuers, store: Store, clock: Clock, stop: Stop) -> None:
    def hear(_what: str, _done: int) -> None:
        if stop.is_set():  # what is half made is thrown away, as after a crash
            raise Stopped

    with ExitStack() as opened:
        series = []
        for issuer in issuers:
            if issuer.config.crl is not None and issuer.config.crl.issue:
                series.append(open_series(settings, config_file, issuer, store, clock, hear))
                opened.callback(series[-1].close)
            else:
                with suppress(StoreDamaged):  # of no use then, either
                    store.forget_bases(issuer.id)
        publisher = Publisher(series, store, clock, ClockGuard(clock, store.time))
        announce_ready()
        log.info("publishing", cas=[one.office.issuer.name for one in series])
        while not stop.is_set():
            stop.wait(publisher.turn())
