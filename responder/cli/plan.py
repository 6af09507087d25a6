"""``revocast plan``: what the policy needs, what the key gives, what memory it takes, and whether that fits.

Looks only. The key is tried with messages that could be nobody's answer or certificate (signing/trial.py), which the audit log
counts; a Redis that does not run is not started. The arithmetic is in signing/capacity.py and memory.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from responder import audit
from responder.cli.named import open_config
from responder.cli.plan_table import print_plan
from responder.clock import SystemClock
from responder.config import DAY_S, VALIDITY_BOUNDS_S, Config
from responder.errors import OperatorError, StoreUnavailable
from responder.issuers import Issuer, Issuers, load_certificate
from responder.memory import FIXED_BYTES, JOURNALS_BYTES, Certificates, in_redis, in_table
from responder.process import ConfigFile
from responder.signing.answers import Terms
from responder.signing.capacity import (
    ROUTINE_SHARE,
    Kinds,
    Need,
    Refresh,
    answers_per_second,
    kinds_of,
    longer_validity,
    utilisation,
)
from responder.signing.census import Census
from responder.signing.ledger import key_fingerprint
from responder.signing.rollover import open_configured
from responder.signing.trial import TRIAL_S, Trial, try_pace, usual_signature_bytes
from responder.store.fitness import MEMORY_ALARM
from responder.store.layout import PARTITIONS
from responder.store.redis_store import Store

SAMPLE_BUCKETS = 2  # of each partition: some thousands of certificates


@dataclass(frozen=True, slots=True)
class Loaded:
    """What Redis says of one CA. ``serial_bytes`` is a mean, ``revoked`` a part of one; both of a sample."""

    count: int
    buckets: int
    sha256_asked: bool
    serial_bytes: float
    revoked: float


@dataclass(frozen=True, slots=True)
class CAPlan:
    """One CA's part of the plan. Times in seconds; None: without a key's rate it is not known."""

    ca: str
    certificates: int
    signatures_each: int
    validity_s: int
    refreshed_after_s: tuple[int, int]
    needed_per_s: float
    key_per_s: float | None
    presigned_per_s: float | None
    utilisation: float | None
    first_signing_s: float | None
    catch_up_s: float | None
    outage_s: float
    most_certificates: int | None
    redis_bytes: int
    redis_bytes_each: float
    table_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan, as ``--json`` prints it."""

    fits: bool
    rate: str  # measured, assumed, unknown
    needed_per_s: float
    utilisation: float | None
    routine_share: float
    first_signing_s: float | None
    catch_up_s: float | None
    most_certificates: int | None
    redis_bytes: int
    redis_maxmemory: int | None  # None: not known; 0: no bound
    table_bytes: int  # of one worker, for every answer
    table_bytes_configured: int
    workers: int
    ca: list[CAPlan]
    problems: list[str]
    suggestions: list[str]
    notes: list[str]


def plan(
    config: ConfigFile,
    certificates: Annotated[
        list[str] | None,
        typer.Option("--certificates", help="How many: N in all, or CA=N (repeatable). Absent: asked from Redis."),
    ] = None,
    sign_rate: Annotated[
        float | None, typer.Option("--sign-rate", help="Signatures a second to reckon with, instead of trying the key.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Try the key for about a second, and no longer.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say how much signing and memory the CAs need, and whether it fits; exit code 1 if it does not.

    Nothing is changed, and what the key is tried with can be nobody's answer.
    """
    settings, issuers = open_config(config)
    if sign_rate is not None and sign_rate <= 0:
        raise OperatorError(f"--sign-rate {sign_rate:g}: must be more than 0")
    loaded, maxmemory, problem = _ask_redis(settings, issuers)
    counts = _counts(certificates or [], issuers, loaded, problem)
    rate = "assumed" if sign_rate is not None else "measured" if measure else "unknown"
    if rate == "measured":
        trials = _tried(settings, issuers, str(config))
    else:
        trials = _untried(issuers, str(config), sign_rate or 0.0)
    made = _make(settings, issuers, counts, loaded, trials, maxmemory, rate)
    if problem is not None:
        made.notes.append(f"Redis was not asked: {problem}")
    if as_json:
        print(json.dumps(asdict(made), indent=1))
    else:
        print_plan(made)
    if not made.fits:
        raise typer.Exit(1)


# --- what is known ----------------------------------------------------------------------------------------------------


def _ask_redis(settings: Config, issuers: Issuers) -> tuple[dict[str, Loaded], int | None, str | None]:
    """Return what Redis has of each CA (by id), its maxmemory, and why it could not be asked (None: it was)."""
    now = SystemClock().now()
    try:
        with Store.connect(settings, "serve") as store:
            census = Census(store)
            census.take()
            return (
                {issuer.id: _loaded(store, census, issuer, now) for issuer in issuers},
                store.memory()[1],
                None,
            )
    except StoreUnavailable as error:
        return {}, None, str(error)


def _loaded(store: Store, census: Census, issuer: Issuer, now: float) -> Loaded:
    info = store.ca_info(issuer.id)
    asked = info is not None and info.sha256_asked is not None and now - info.sha256_asked < issuer.config.ocsp.validity
    octets = revoked = seen = 0
    for partition in range(PARTITIONS):
        mine = [bucket for ca, bucket in store.due_slice(partition, 0, 100) if ca == issuer.id][:SAMPLE_BUCKETS]
        for found in store.read_status_buckets(issuer.id, mine):
            seen += len(found.entries)
            octets += sum(map(len, found.entries))
            revoked += sum(text.startswith("revoked ") for text in found.entries.values())
    usual = Certificates(0, 1, 0)
    return Loaded(
        census.certificates(issuer.id),
        census.buckets(issuer.id),
        asked,
        octets / seen if seen else usual.serial_bytes,
        revoked / seen if seen else usual.revoked,
    )


def _counts(told: Sequence[str], issuers: Issuers, loaded: dict[str, Loaded], problem: str | None) -> dict[str, int]:
    """Return the number of certificates to plan for, by the CA's name."""
    counts = {issuer.name: loaded[issuer.id].count for issuer in issuers if issuer.id in loaded}
    for text in told:
        name, separator, number = text.rpartition("=")
        if not number.isascii() or not number.isdigit():
            raise OperatorError(f"--certificates {text}: must be N or CA=N with a whole number N")
        names = [issuer.name for issuer in issuers]
        if not separator:
            counts = _shared(int(number), names, counts)
        elif name not in names:
            raise OperatorError(f"--certificates {text}: no such CA; there are {', '.join(names)}")
        else:
            counts[name] = int(number)
    missing = [issuer.name for issuer in issuers if issuer.name not in counts]
    if missing:
        raise OperatorError(f"say how many certificates of {', '.join(missing)} with --certificates: {problem}")
    if not any(counts.values()):
        raise OperatorError("no certificates are loaded: say how many with --certificates")
    return counts


def _shared(total: int, names: Sequence[str], known: dict[str, int]) -> dict[str, int]:
    """Share a total as Redis has the CAs now, or evenly."""
    weights = known if known.keys() >= set(names) and any(known.values()) else dict.fromkeys(names, 1)
    whole = sum(weights[name] for name in names)
    shares = {name: total * weights[name] // whole for name in names}
    shares[names[0]] += total - sum(shares.values())
    return shares


def _tried(settings: Config, issuers: Issuers, config_file: str) -> dict[str, Trial]:
    """Try each CA's key for a while; by the CA's name. What it was tried with is in the audit log."""
    trials: dict[str, Trial] = {}
    clock = SystemClock()
    with audit.opened(settings, Path(config_file), "command"):
        for issuer in issuers:
            using = issuer.config.ocsp.signers_at(clock.now())[0]
            opened = open_configured(using, issuer, settings, config_file, clock.now())
            try:
                made = trials[issuer.name] = try_pace(opened.signer, clock, TRIAL_S)
                fingerprint = key_fingerprint(opened.signer.public_key_der)
            finally:
                opened.close()
            audit.record("sign", ca=issuer.name, key=fingerprint, why="trial", count=made.count)
    return trials


def _untried(issuers: Issuers, config_file: str, sign_rate: float) -> dict[str, Trial]:
    """Return what is reckoned with where keys are left alone, at a rate (0: unknown); by the CA's name."""
    trials: dict[str, Trial] = {}
    for issuer in issuers:
        using = issuer.config.ocsp.signers_at(SystemClock().now())[0]
        file = using.certificate
        der = load_certificate(file, config_file, f"ca[{issuer.name}].{using.table}.certificate") if file else None
        public_key = x509.load_der_x509_certificate(der or issuer.certificate_der).public_key()
        trials[issuer.name] = Trial(sign_rate, usual_signature_bytes(public_key), 0)
    return trials


# --- what follows -----------------------------------------------------------------------------------------------------


def _make(
    settings: Config,
    issuers: Issuers,
    counts: dict[str, int],
    loaded: dict[str, Loaded],
    trials: dict[str, Trial],
    maxmemory: int | None,
    rate: str,
) -> Plan:
    needs: dict[str, Need] = {}
    of_cas: list[CAPlan] = []
    for issuer in issuers:
        known = loaded.get(issuer.id)
        kinds = kinds_of(issuer.config.ocsp, sha256_asked=known is not None and known.sha256_asked)
        needs[issuer.name] = Need(counts[issuer.name], kinds, Refresh(Terms.of(issuer)))
        of_cas.append(_of_ca(issuer.name, needs[issuer.name], kinds, trials[issuer.name], known))
    load = _total([one.utilisation for one in of_cas])
    redis_bytes = FIXED_BYTES + JOURNALS_BYTES + sum(one.redis_bytes for one in of_cas)
    problems: list[str] = []
    if load is not None and load > ROUTINE_SHARE:
        problems.append(
            f"routine signing takes {load:.0%} of the time; more than {ROUTINE_SHARE:.0%} leaves too little for "
            "revocations, new certificates, live answers and catching up"
        )
    if maxmemory and redis_bytes > MEMORY_ALARM * maxmemory:
        problems.append(
            f"Redis needs about {redis_bytes:,} bytes and maxmemory is {maxmemory:,}; above {MEMORY_ALARM:.0%} of it only revocations are signed"
        )
    table_bytes = sum(one.table_bytes for one in of_cas)
    notes = []
    if table_bytes > settings.http.table_bytes:
        notes.append(
            f"a worker's table (http.table_bytes {settings.http.table_bytes:,}) holds "
            f"{settings.http.table_bytes / table_bytes:.0%} of the answers; the others are read from Redis when asked for"
        )
    return Plan(
        fits=not problems,
        rate=rate,
        needed_per_s=sum(one.needed_per_s for one in of_cas),
        utilisation=load,
        routine_share=ROUTINE_SHARE,
        first_signing_s=_total([one.first_signing_s for one in of_cas]),
        catch_up_s=_total([one.catch_up_s for one in of_cas]),
        most_certificates=int(sum(counts.values()) * ROUTINE_SHARE / load) if load else None,
        redis_bytes=redis_bytes,
        redis_maxmemory=maxmemory,
        table_bytes=table_bytes,
        table_bytes_configured=settings.http.table_bytes,
        workers=settings.http.workers,
        ca=of_cas,
        problems=problems,
        suggestions=_suggestions(issuers, needs, of_cas, load),
        notes=notes,
    )


def _of_ca(name: str, need: Need, kinds: Kinds, trial: Trial, known: Loaded | None) -> CAPlan:
    key_rate = trial.per_second or None
    rate = answers_per_second(key_rate) if key_rate else None
    outage_s = need.refresh.terms.validity / 2
    some = Certificates(need.certificates, kinds.answers, trial.signature_bytes)
    if known is not None and known.count:
        some = Certificates(
            need.certificates, kinds.answers, trial.signature_bytes, known.serial_bytes, known.revoked,
            known.buckets if known.count == need.certificates else None,
        )  # fmt: skip
    redis_bytes = in_redis(some).total
    return CAPlan(
        ca=name,
        certificates=need.certificates,
        signatures_each=kinds.signatures,
        validity_s=need.refresh.terms.validity,
        refreshed_after_s=(min(need.refresh.intervals), max(need.refresh.intervals)),
        needed_per_s=need.per_second,
        key_per_s=key_rate,
        presigned_per_s=rate,
        utilisation=utilisation([(need, rate)]) if rate else None,
        first_signing_s=need.whole_s(rate) if rate else None,
        catch_up_s=need.catch_up_s(rate, outage_s) if rate else None,
        outage_s=outage_s,
        most_certificates=int(ROUTINE_SHARE * rate / (kinds.signatures * need.refresh.per_second)) if rate else None,
        redis_bytes=round(redis_bytes),
        redis_bytes_each=round(redis_bytes / max(1, need.certificates), 1),
        table_bytes=round(in_table(some)),
    )


def _total(parts: Sequence[float | None]) -> float | None:
    """Add up; None where a part is not known."""
    return None if None in parts else sum(part for part in parts if part is not None)


def _suggestions(issuers: Issuers, needs: dict[str, Need], of_cas: Sequence[CAPlan], load: float | None) -> list[str]:
    """Say what would make signing fit."""
    if load is None or load <= ROUTINE_SHARE:
        return []
    found: list[str] = []
    for issuer, one in zip(issuers, of_cas, strict=True):
        assert one.utilisation is not None  # noqa: S101 - load is known
        assert one.presigned_per_s is not None  # noqa: S101
        left = ROUTINE_SHARE - (load - one.utilisation)
        most = VALIDITY_BOUNDS_S[issuer.config.profile][1]
        if left > 0 and one.certificates:
            longer = longer_validity(needs[one.ca], one.presigned_per_s, left, most)
            if longer is not None:
                text = f"{longer // DAY_S}d" if longer % DAY_S == 0 else f"{longer // 3600}h"
                found.append(f'ca {one.ca}: validity = "{text}" or longer')
        if one.signatures_each > 1:
            found.append(f'ca {one.ca}: certid = "dual" halves the signatures')
    found.append(f"a key {load / ROUTINE_SHARE:.1f} times as fast: more sessions, another HSM, ECDSA instead of RSA")
    return found
