"""The depot role: on a machine of workers alone, keeps a copy of the CRLs that another machine publishes.

Started by the supervisor of ``revocast serve`` where there is an external Redis. It holds no key, and reads Redis as the
workers do. Without Redis the workers go on serving what is on the disk.
"""

from __future__ import annotations

import signal

from responder.clock import Clock, SystemClock
from responder.config import load_config
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.replica import Replica
from responder.errors import StoreUnavailable
from responder.issuers import Issuers
from responder.log import configure_logging, get_logger
from responder.process import ConfigFile, Stop, announce_ready
from responder.store.redis_store import Store

log = get_logger(__name__)

LOOK_EVERY_S = 1.0
SHARE = 20  # a look that takes long, with thousands of shards, is followed by a pause of as many times as much
RETRY_S = 5.0  # while Redis is out of reach


def depot(config: ConfigFile) -> None:
    """Fetch published CRLs until SIGTERM."""
    settings = load_config(config)
    configure_logging("depot", settings.log.level, settings.log.format)
    issuers = Issuers.from_config(settings, str(config))
    stop, clock = Stop(), SystemClock()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    with Store.connect(settings, "serve") as store:
        replica = Replica(store, Depot(settings.data_dir / DIRECTORY), issuers)
        replica.sweep()
        announce_ready()
        while not stop.is_set():
            stop.wait(look(replica, clock))
    log.info("stopped")


def look(replica: Replica, clock: Clock) -> float:
    """Look once; returns how long to wait until the next time."""
    began = clock.monotonic()
    try:
        replica.look()
    except StoreUnavailable as error:
        log.warning("store_unavailable", error=str(error))
        return RETRY_S
    return max(LOOK_EVERY_S, SHARE * (clock.monotonic() - began))
