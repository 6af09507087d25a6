"""The truth check: a source, read again from nothing, against what Redis holds, what HTTP serves and what the CRLs list.

Serial by serial; writes nothing. What differs is looked at twice, since a source that lives changes between two looks.
Knows no cursor: a loader of its own reads the whole. Called by loaders/cli.py (``revocast reconcile``) and, on a schedule,
by loaders/follow.py. Times are POSIX seconds UTC.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography.x509 import ocsp

from loaders.base import Batch, Loader, Snapshot, signal_of
from loaders.duplicates import marked, without_duplicates, without_marked
from loaders.reading import Reading, refuse_holds
from loaders.registry import open_loader
from loaders.runner import is_ahead
from loaders.spool import SPOOL_BITS, Spool
from responder.clock import Clock, format_utc
from responder.config import Config, parse_listen
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.reader import CRLFile
from responder.errors import CRLError, InvariantBroken
from responder.issuers import Issuer, Issuers
from responder.model import CertStatus, CRLReason, Status, serial_from_octets
from responder.revocation import Refused, decide
from responder.roles.health import ask, probe_request, verify_answer
from responder.store.redis_store import Store
from responder.store.values import BucketMap

KEPT = 10_000  # differences that are named; the others are counted
LOOK_AGAIN_AFTER_S = 2.0  # by then a change is in that was made while the first look was under way
CHUNK = 5_000


class Difference(NamedTuple):
    """One serial, and what two places say of it."""

    serial_octets: bytes
    where: str
    text: str

    def __str__(self) -> str:
        return f"serial {self.serial_octets.hex()}: {self.where}: {self.text}"


@dataclass(slots=True)
class Comparison:
    """What a truth check of one CA found."""

    ca: str
    as_of: float
    rows: int = 0
    rejected: int = 0
    asked: int = 0
    crls: int = 0
    count: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be compared

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it while there are few."""
        self.count += 1
        if len(self.differences) < KEPT:
            self.differences.append(difference)


def compare_source(
    source: str | None, stored: str | None, loader: Loader, now: float, retention_s: float, *, released: bool = False
) -> str | None:
    """Say how the store's text of a serial contradicts the source's, or None. None as a text: it is not listed there.

    ``released``: the source says explicitly that it is on hold no more.
    """
    old = Status.from_text(stored) if stored is not None else None
    if source is None:
        # A revoked one that its CA deleted stays; so does what an operator revoked.
        if old is None or old.cert_status is CertStatus.REVOKED or not loader.lists_issued:
            return None
        return f"Redis says {stored!r}, the source does not list it"
    new = Status.from_text(source)
    if new.not_after is not None and new.not_after < now - retention_s:
        return None  # nobody keeps it
    if old is None:
        return f"the source says {source!r}, Redis has nothing"
    decision = decide(old, new, signal="release" if released else signal_of(loader), now=now)
    if decision.refused is Refused.OPERATOR or (decision.kind is None and decision.refused is None):
        return None
    return f"the source says {source!r}, Redis {stored!r}"


class Reconciler:
    """Compares one CA."""

    def __init__(
        self,
        store: Store,
        config: Config,
        config_file: str,
        issuers: Issuers,
        issuer: Issuer,
        clock: Clock,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ConfigError for a source that is not configured rightly."""
        self._store = store
        self._config = config
        self._issuer = issuer
        self._clock = clock
        self._sleep = sleep
        self._loader, _ = open_loader(issuers, issuer, config_file, clock)
        self._released: set[bytes] = set()  # of the last reading

    def run(self, sample: int, http: Sequence[tuple[str, int]]) -> Comparison:
        """Compare everything with Redis and with the CRLs in the depot, and ``sample`` certificates with answers.

        ``http``: where workers listen; the first is asked. Raises SourceUnavailable, StoreUnavailable, OSError for a disk
        that is full.
        """
        ca = self._issuer.id
        info = self._store.ca_info(ca)
        spool_dir = self._config.data_dir / "spool"
        spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Spool(spool_dir) as rows, Spool(spool_dir) as entries:
            result = Comparison(self._issuer.name, 0.0)
            self._read(rows, result)
            if info is None or info.bits is None:
                result.notes.append("Redis does not know this CA: load it first")
                result.count = 1
                return result
            if info.as_of is not None and is_ahead(info.as_of, self._clock, self._store):
                result.add(Difference(b"", "as_of", f"lies ahead: {format_utc(info.as_of)}"))
            crl_time = self._read_crls(entries, result)
            chosen: list[tuple[bytes, str]] = []
            spare: list[tuple[bytes, str]] = []  # where other parts hold fewer than their share
            suspects: dict[bytes, str] = {}
            buckets = self._store.bucket_map(ca, info.bits)
            bits = min(SPOOL_BITS, buckets.least_bits)
            for source, stored, listed in self._groups(rows, entries, buckets, bits):
                now = self._clock.now()
                for octets in source.keys() | stored.keys():
                    if self._contradiction(octets, source.get(octets), stored.get(octets), now) is not None:
                        suspects[octets] = source.get(octets, "")
                if crl_time is not None:
                    self._compare_crl(stored, listed, crl_time, result)
                mixed = random.sample(sorted(stored.items()), len(stored)) if sample else []
                share = -(-sample // (1 << bits))
                chosen += mixed[:share]
                spare += mixed[share : share + sample - len(spare)]
        if suspects:
            self._look_again(suspects, result)
        if info.override is not None:
            result.notes.append("the CA has an override: answers are not compared")
        elif sample and http:
            random.shuffle(chosen)
            asyncio.run(self._compare_answers([octets for octets, _ in (chosen + spare)[:sample]], http[0], result))
        return result

    # --- the source and Redis ----------------------------------------------------------------------------------------

    def _contradiction(self, octets: bytes, source: str | None, stored: str | None, now: float) -> str | None:
        retention_s, released = self._issuer.config.retention, octets in self._released
        return compare_source(source, stored, self._loader, now, retention_s, released=released)

    def _batches(self, snapshot: Snapshot) -> Iterator[Batch]:
        self._released = set()
        for batch in snapshot.batches():
            if self._issuer.profile == "webpki":
                refuse_holds(batch, self._loader.name)
            self._released.update(octets for octets, _ in batch.released)
            yield batch

    def _read(self, spool: Spool, result: Comparison) -> Reading:
        snapshot, reading = self._loader.snapshot(), Reading()
        try:
            for batch in self._batches(snapshot):
                spool.add(batch.rows)
                spool.add(batch.released)
                spool.add(marked(batch.issued))
                for row in batch.rejected:
                    reading.take(row)
            result.as_of, result.rows, result.rejected = snapshot.as_of, spool.count, reading.count
        finally:
            snapshot.close()
        self._kept, self._presumed = reading.kept, reading.presumed
        if reading.is_blind:
            result.notes.append("some rows of the source cannot be read: what is not listed may be one of them")
        return reading

    def _groups(
        self, rows: Spool, entries: Spool, buckets: BucketMap, bits: int
    ) -> Iterator[tuple[dict[bytes, str], dict[bytes, str], dict[bytes, str]]]:
        """Yield what source, Redis and CRLs say, for a part of the serials each time."""
        for number in range(1 << bits):
            plain, source = without_marked(rows.group(number, bits))
            unique, _ = without_duplicates(plain, self._loader.name, signal_of(self._loader))
            source.update((octets, text) for _, octets, text in unique)
            source = {octets: text for octets, text in source.items() if octets not in self._kept}
            wanted = [
                bucket for bucket in dict.fromkeys(buckets.leaves[number :: 1 << bits]) if bucket in buckets.buckets
            ]
            stored: dict[bytes, str] = {}
            for bucket in self._store.read_status_buckets(self._issuer.id, wanted):
                stored |= bucket.entries
            for octets in self._kept & stored.keys():
                source[octets] = stored[octets]  # a row that cannot be read counts as listed
                if octets in self._presumed and stored[octets].startswith("good"):
                    source[octets] = self._presumed[octets]  # and that it is revoked can be read
            yield source, stored, {octets: text for _, octets, text in entries.group(number, bits)}

    def _look_again(self, suspects: Mapping[bytes, str], result: Comparison) -> None:
        """Read both once more: what was changed between the first looks is equal now."""
        self._sleep(LOOK_AGAIN_AFTER_S)
        found: dict[bytes, str] = {}
        snapshot = self._loader.snapshot()
        try:
            for batch in self._batches(snapshot):
                presumed = [(row.serial_octets, row.presumed) for row in batch.rejected]
                for octets, text in [*batch.issued, *batch.rows, *batch.released, *presumed]:
                    if octets is None or text is None:
                        continue
                    if octets in suspects and not found.get(octets, "").startswith("revoked"):
                        found[octets] = text
        finally:
            snapshot.close()
        self._sleep(LOOK_AGAIN_AFTER_S)
        serials = sorted(suspects)
        for at in range(0, len(serials), CHUNK):
            part = serials[at : at + CHUNK]
            for octets, place in zip(part, self._store.locate(self._issuer.id, part), strict=True):
                problem = self._contradiction(octets, found.get(octets), place.text, self._clock.now())
                if problem is not None:
                    result.add(Difference(octets, "Redis", problem))

    # --- the CRLs ------------------------------------------------------------------------------------------------------

    def _read_crls(self, spool: Spool, result: Comparison) -> int | None:
        """Put the entries of the CA's complete CRLs into the spool; returns the oldest thisUpdate, None without CRLs."""
        depot = Depot(self._config.data_dir / DIRECTORY)
        oldest: int | None = None
        for slot in depot.slots(self._issuer.name):
            if slot.endswith("delta"):
                continue
            try:
                published = depot.get(self._issuer.name, slot)
                if published is None or published.ca_id != self._issuer.id:
                    continue
                with CRLFile.open(depot.path(published)) as crl:
                    for part in crl.entries():
                        spool.add(
                            [
                                (entry.serial_octets, f"{format_utc(entry.revocation_date)} {entry.reason or 0}")
                                for entry in part
                                if entry.certificate_issuer in (None, self._issuer.subject_der)
                            ]
                        )
            except (CRLError, InvariantBroken) as error:
                result.add(Difference(b"", f"CRL {slot}", str(error)))
                continue
            result.crls += 1
            oldest = published.this_update if oldest is None else min(oldest, published.this_update)
        return oldest

    def _compare_crl(
        self, stored: Mapping[bytes, str], listed: Mapping[bytes, str], at: int, result: Comparison
    ) -> None:
        for octets in stored.keys() | listed.keys():
            status = Status.from_text(stored[octets]) if octets in stored else None
            is_revoked = status is not None and status.cert_status is CertStatus.REVOKED
            if octets in listed:
                if status is None:
                    continue  # expired, and purged after one more CRL
                reason = status.reason if status.reason is not None else CRLReason.UNSPECIFIED
                told = f"{format_utc(status.revoked_at or 0)} {int(reason)}" if is_revoked else "good"
                if told != listed[octets] and not (
                    is_revoked and told.split()[0] == listed[octets].split()[0] and listed[octets].endswith(" 0")
                ):
                    result.add(Difference(octets, "CRL", f"it says {listed[octets]!r}, Redis {stored[octets]!r}"))
            elif (
                status is not None
                and status.revoked_at is not None
                and status.revoked_at <= at
                and (status.not_after is None or status.not_after > at)
            ):
                result.add(
                    Difference(
                        octets, "CRL", f"the CRL of {format_utc(at)} does not list it, Redis says {stored[octets]!r}"
                    )
                )

    # --- answers -------------------------------------------------------------------------------------------------------

    async def _compare_answers(self, serials: Sequence[bytes], place: tuple[str, int], result: Comparison) -> None:
        host, port = place
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where to ask, not where to listen
        for octets in serials:
            try:
                body = await ask(host, port, probe_request(self._issuer, octets))
            except (OSError, TimeoutError, ValueError) as error:
                result.notes.append(
                    f"no answer from http://{host}:{port}: {error or type(error).__name__}: answers are not compared"
                )
                return
            result.asked += 1
            problem = self._answer_problem(octets, body, self._stored(octets))
            if problem is not None:  # a change in between is through by then
                await asyncio.sleep(LOOK_AGAIN_AFTER_S)
                body = await ask(host, port, probe_request(self._issuer, octets))
                problem = self._answer_problem(octets, body, self._stored(octets))
            if problem is not None:
                result.add(Difference(octets, "HTTP", problem))

    def _stored(self, octets: bytes) -> str | None:
        return self._store.locate(self._issuer.id, [octets])[0].text

    def _answer_problem(self, octets: bytes, body: bytes, text: str | None) -> str | None:
        if text is None:
            return None  # purged meanwhile
        now = self._clock.now()
        if (problem := verify_answer(self._issuer, serial_from_octets(octets), body, now)) is not None:
            return f"{problem}, Redis says {text!r}"
        single = next(iter(ocsp.load_der_ocsp_response(body).responses))
        status = Status.from_text(text)
        is_revoked = status.at(now) is CertStatus.REVOKED
        if (single.certificate_status is ocsp.OCSPCertStatus.REVOKED) != is_revoked:
            return f"the answer says {single.certificate_status.name}, Redis {text!r}"
        at = single.revocation_time_utc
        if is_revoked and (at is None or int(at.timestamp()) != status.revoked_at):
            return f"the answer dates the revocation {at}, Redis says {text!r}"
        return None


def report_lines(result: Comparison) -> Iterator[str]:
    """Yield what was compared and every difference, a line each."""
    for difference in result.differences:
        yield f"{result.ca}: {difference}"
    if result.count > len(result.differences):
        yield f"{result.ca}: and {result.count - len(result.differences)} more"
    for note in result.notes:
        yield f"{result.ca}: {note}"
    compared = f"{result.rows} rows with Redis, {result.asked} answers, {result.crls} CRLs"
    rejected = f", {result.rejected} rows cannot be read" if result.rejected else ""
    yield f"{result.ca}: compared {compared}{rejected}: {result.count or 'no'} differences"


def http_places(config: Config) -> list[tuple[str, int]]:
    """Return where the workers of this machine listen: what the supervisor has bound, else what is configured."""
    try:
        lines = (config.data_dir / "run" / "addresses").read_text("utf-8").splitlines()
    except OSError:
        return list(config.http.listen)
    return [parse_listen(line.removeprefix("http ")) for line in lines if line.startswith("http ")]


def reconcile_ca(
    store: Store, config: Config, config_file: Path, issuers: Issuers, issuer: Issuer, clock: Clock, sample: int
) -> Comparison:
    """Compare one CA by its configuration."""
    return Reconciler(store, config, str(config_file), issuers, issuer, clock).run(sample, http_places(config))
