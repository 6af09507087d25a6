"""CRL numbers: each greater than all before it, and of a later instant, whatever has crashed, failed over or runs twice.

RFC 5280 §5.2.3; BR §7.2.2. The next number is one more than the largest that Redis, the machine's depot or the CA's own last CRL
knows. Redis gives it away only to whoever has seen, before reading a single status, the one that was given away last: so
of two CRLs the one with the greater number was begun after the other had its number, and has everything that the other
has. Complete CRLs, deltas and all shards of a CA share one sequence (docs/adr/0015).
"""

from __future__ import annotations

from dataclasses import dataclass

from responder.errors import PublicationRefused
from responder.store.crl_store import CRLState
from responder.store.redis_store import Store

LAST_NUMBER = (1 << 159) - 1  # RFC 5280 §5.2.3: at most 20 octets; BR §7.2.2: less than 2^159


@dataclass(frozen=True, slots=True)
class Instant:
    """Of when a snapshot is. ``as_of``: thisUpdate; ``cut``: by partition, the last journal entry that it has seen.

    ``state``: what Redis said of the CA's CRLs before anything was read, for crl.numbering.reserve; without ``regular`` where
    nothing may be left out of the CRL. ``history``: ``Store.run_id``.
    ``override``: status text that holds for every certificate of the CA then; usually "".
    ``until``: the source itself says that it holds no longer; None: it does not say.
    """

    ca: str
    as_of: int
    cut: tuple[int, ...]
    history: str
    state: CRLState
    override: str = ""
    until: int | None = None


def next_number(*known: int | None) -> int:
    """Return one more than the largest of the numbers that are known; None: there is none."""
    number = 1 + max((one for one in known if one is not None), default=0)
    if number > LAST_NUMBER:
        raise PublicationRefused("number", "RFC 5280 §5.2.3", f"after {number - 1} there is no CRL number of 20 octets")
    return number


def reserve(store: Store, instant: Instant, *floors: int | None) -> int:
    """Reserve the number of the CRL that is made of what was read at ``instant``.

    ``floors``: the largest numbers in the depot, of the CA's own last CRL and the like. Raises CommitConflict where
    another CRL has got a number since: what was read may be older than what that one says, and is to be read again. After
    StoreUnavailable it may be reserved and is lost, which leaves a gap and does no harm.
    """
    seen = instant.state.number
    number = next_number(seen, *floors)
    store.reserve_number(instant.ca, seen, number)
    return number
