"""``revocast check``: a table of what is right and what is not, before anything is served."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from responder import audit
from responder.clock import SystemClock, format_utc
from responder.config import Config, SignerConfig, load_config
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.size import why_large
from responder.errors import InvariantBroken, RevocastError
from responder.issuers import Issuer, Issuers
from responder.process import ConfigFile
from responder.signing.crl_signer import open_crl_signer
from responder.signing.rollover import open_configured
from responder.store.embedded import connect_or_start, find_server
from responder.store.redis_store import Finding, Store, acl_lines

MAX_CLOCK_DIFFERENCE_S = 2.0  # past it the presigner signs nothing
STYLES = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "bold red"}


def check(config: ConfigFile) -> None:
    """Check configuration, keys, certificates, Redis and clock; exit code 1 if anything is wrong."""
    settings = load_config(config)
    findings = [Finding("ok", "configuration", str(config))]
    with audit.opened(settings, config, "check"):  # each key is tried
        findings += _signers(settings, str(config))
    findings += _store(settings)
    for look in entry_points(group="revocast.services", name="check"):
        findings += look.load()(settings, config)
    table = Table("", "what", "found", show_lines=False)
    for finding in findings:
        table.add_row(f"[{STYLES[finding.level]}]{finding.level}[/]", escape(finding.subject), escape(finding.text))
    console = Console()
    console.print(table)
    if settings.redis is not None:
        version = _version(settings)
        print("\nLeast rights in Redis, a user for each role (put a password of your own into each line):\n")
        for line in acl_lines(settings.prefix, version):
            print(line)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _signers(settings: Config, config_file: str) -> list[Finding]:
    """Open every key, and have it sign."""
    findings: list[Finding] = []
    now = SystemClock().now()
    for issuer in Issuers.from_config(settings, config_file):
        ocsp = issuer.config.ocsp
        findings += _signer(f"signer of {issuer.name}", ocsp.signers_at(now)[0], issuer, settings, config_file, now)
        if ocsp.next is not None and now < ocsp.next.start:
            subject = f"next signer of {issuer.name}, from {format_utc(ocsp.next.start)}"
            findings += _signer(subject, ocsp.next, issuer, settings, config_file, now)
        if issuer.config.crl is not None and issuer.config.crl.issue:
            findings += _crl_signer(issuer, settings, config_file, now)
        findings += _large_crls(issuer, settings)
    return findings


def _large_crls(issuer: Issuer, settings: Config) -> list[Finding]:
    """Look at the CRLs that this machine serves."""
    depot, findings = Depot(settings.data_dir / DIRECTORY), []
    for slot in depot.slots(issuer.name):
        try:
            published = depot.get(issuer.name, slot)
        except InvariantBroken as error:
            findings.append(Finding("error", f"CRL of {issuer.name}", str(error)))
            continue
        if published is not None and (why := why_large(issuer, published)) is not None:
            findings.append(Finding("warning", f"CRL of {issuer.name}", why))
    return findings


def _signer(
    subject: str, using: SignerConfig, issuer: Issuer, settings: Config, config_file: str, now: float
) -> list[Finding]:
    try:
        signer = open_configured(using, issuer, settings, config_file, now)
    except RevocastError as error:
        return [Finding("error", subject, str(error))]
    signer.close()
    ends = f"signs; its certificate ends {format_utc(signer.not_after)}"
    return [Finding("ok", subject, ends), *(Finding("warning", subject, warning) for warning in signer.warnings)]


def _crl_signer(issuer: Issuer, settings: Config, config_file: str, now: float) -> list[Finding]:
    subject = f"CRL signer of {issuer.name}"
    try:
        signer = open_crl_signer(issuer, settings.data_dir, now, config_file)
    except RevocastError as error:
        return [Finding("error", subject, str(error))]
    signer.close()
    kind = "signs indirect CRLs" if signer.is_indirect else "signs"
    ends = f"{kind}; its certificate ends {format_utc(signer.not_after)}"
    return [Finding("ok", subject, ends), *(Finding("warning", subject, warning) for warning in signer.warnings)]


def _store(settings: Config) -> list[Finding]:
    """Look at Redis, and compare clocks."""
    try:
        if settings.redis is None:
            binary, version = find_server()
            with connect_or_start(settings.data_dir), Store.connect(settings, "follow") as store:
                found = Finding("ok", "embedded redis", f"{binary} {version[0]}.{version[1]}")
                # Persistence and packing are settings of our own there, which this user may not even read.
                return [found, *(finding for finding in _findings(store) if finding.level != "info")]
        with Store.connect(settings, "follow") as store:
            return _findings(store)
    except RevocastError as error:
        return [Finding("error", "redis", str(error))]


def _findings(store: Store) -> list[Finding]:
    difference = SystemClock().now() - store.time()
    level = "ok" if abs(difference) <= MAX_CLOCK_DIFFERENCE_S else "error"
    return [*store.check(), Finding(level, "clock", f"{difference:+.1f} s from Redis")]  # type: ignore[arg-type]


def _version(settings: Config) -> tuple[int, ...]:
    """Return the server's version, or the newest known where it cannot be asked."""
    try:
        with Store.connect(settings, "follow") as store:
            return store.version()
    except RevocastError:
        return (7, 0)
