"""``revocast revoke``: for the hour when the CA itself cannot be reached, or its own key is lost.

What is revoked here stays revoked: a later good row of the CA's database never undoes it (responder/revocation.py).
"""

from __future__ import annotations

from typing import Annotated

import typer

from responder import audit, revocation
from responder.audit_anchor import command_log
from responder.cli.named import certificate_named, open_config, with_redis
from responder.clock import SystemClock, parse_utc
from responder.errors import OperatorError
from responder.issuers import Issuer, Issuers
from responder.model import REASON_NAMES, REASONS_BY_NAME, CertStatus, CRLReason, Status, serial_to_text
from responder.process import ConfigFile
from responder.store.redis_store import Store

REASONS = ", ".join(name for reason, name in REASON_NAMES.items() if reason is not CRLReason.REMOVE_FROM_CRL)


def revoke(
    config: ConfigFile,
    serial: Annotated[str, typer.Argument(metavar="SERIAL|cert.pem", help="Serial in hex, or a certificate.")] = "",
    reason: Annotated[str, typer.Option(help=f"One of {REASONS}.")] = "unspecified",
    ca: Annotated[str | None, typer.Option("--ca", help="The CA, by its name in the configuration.")] = None,
    at: Annotated[str | None, typer.Option(help="When, such as 2026-11-20T10:00:00Z; now, unless given.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The CA's key is compromised: all its certificates.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="End a hold (certificateHold) instead.")] = False,
) -> None:
    """Revoke a certificate, or all of a CA; a later good row of the CA's database does not undo it."""
    settings, issuers = open_config(config)
    now = SystemClock().now()
    revoked_at, crl_reason = _time(at, now), _reason(reason)
    if everything == bool(serial):
        raise OperatorError("name one certificate, or --all with --ca; not both")
    with (
        with_redis(settings),
        Store.connect(settings, "follow") as store,
        command_log(settings, config, store),
    ):
        if everything:
            _revoke_all(store, _one(issuers, ca), crl_reason, revoked_at)
            return
        issuer, octets = certificate_named(serial, issuers, ca)
        if crl_reason is CRLReason.CERTIFICATE_HOLD and issuer.profile == "webpki":
            # BR §4.9.13: a certificate in scope is never suspended.
            raise OperatorError(f"--reason {reason}: CA {issuer.name} has profile webpki, where nothing may be held")
        if release and issuer.profile == "webpki":
            # BR §4.10.1: an entry stays until the certificate has expired; what was held before has been listed as revoked since.
            raise OperatorError(f"--release: CA {issuer.name} has profile webpki, where nothing is held or released")
        if release:
            outcome = revocation.release(store, issuer.id, octets, now=now)
        else:
            outcome = revocation.revoke(store, issuer.id, octets, crl_reason, revoked_at, now=now)
        stands = outcome.status.to_text() if outcome.status else "not known"
        audit.record(
            "release" if release else "revoke",
            **audit.operator(),
            ca=issuer.name,
            serial=serial_to_text(octets),
            status=stands,
            refused=outcome.refused.value if outcome.refused is not None else None,
        )
    typer.echo(f"{issuer.name} {serial_to_text(octets)}: {stands}")
    if outcome.refused is not None:
        typer.echo(f"refused: {outcome.refused.value}")
        raise typer.Exit(1)
    if not release:
        typer.echo("A later good row of the CA's database does not undo this.")


def _revoke_all(store: Store, issuer: Issuer, reason: CRLReason | None, at: int) -> None:
    """Set the override under which every certificate of the CA is revoked (RFC 6960 §2.7)."""
    status = Status(CertStatus.REVOKED, revoked_at=at, reason=reason, by_operator=True)
    store.set_override(issuer.id, status.to_text())
    audit.record("override", **audit.operator(), ca=issuer.name, status=status.to_text())
    typer.echo(f"{issuer.name}: every certificate is {status.to_text()}")


def _one(issuers: Issuers, name: str | None) -> Issuer:
    issuer = issuers.by_name(name) if name else None
    if issuer is None:
        raise OperatorError(f"--all needs --ca, one of {', '.join(issuer.name for issuer in issuers)}")
    return issuer


def _reason(name: str) -> CRLReason | None:
    reason = REASONS_BY_NAME.get(name)
    if reason is None or reason is CRLReason.REMOVE_FROM_CRL:
        raise OperatorError(f"--reason {name}: must be one of {REASONS}")
    return None if reason is CRLReason.UNSPECIFIED else reason


def _time(text: str | None, now: float) -> int:
    if text is None:
        return int(now)
    try:
        revoked_at = parse_utc(text)
    except ValueError as error:
        raise OperatorError(f"--at {text}: must be a time such as 2026-11-20T10:00:00Z") from error
    if revoked_at < 0:
        raise OperatorError(f"--at {text}: is before 1970, which no OCSP response can say")
    return revoked_at
