"""``revocast crl show``: what a CRL says, and what is wrong with it (docs/crl-tools.md)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from asn1crypto import algos
from asn1crypto import x509 as asn1_x509
from cryptography import x509

from fastpath.crl_decode import Entry, EntryError
from responder.cli.crl_named import NamedCRL, crl_named, progress
from responder.cli.named import parse_serial, read_certificate
from responder.clock import SystemClock, format_utc
from responder.crl.diff import Revocation
from responder.crl.head import Head, extension_name
from responder.crl.lint import Problem, lint_head
from responder.crl.lint_entries import EntryLint
from responder.crl.lint_signer import lint_signer
from responder.crl.reader import CRLFile
from responder.errors import CRLError, OperatorError
from responder.model import CRLReason

REASONS = {int(reason): reason.asn1_name for reason in CRLReason}
Where = Annotated[str, typer.Argument(metavar="FILE|URL", help="A CRL: a file, or an http, https or ldap URL.")]


def show(
    where: Where,
    issuer: Annotated[
        Path | None, typer.Option(help="Certificate of the CA, or of its CRL signer: the signature is verified.")
    ] = None,
    profile: Annotated[
        Literal["private", "webpki", "etsi"],
        typer.Option(help="Whose rules hold besides RFC 5280: webpki has the BR and the root programmes'."),
    ] = "private",
    certificates: Annotated[
        Literal["users", "cas"] | None,
        typer.Option(
            help="Whom the CRL is about, where its issuingDistributionPoint does not say so; users by default."
        ),
    ] = None,
    entries: Annotated[bool, typer.Option("--entries", help="List the entries too.")] = False,
    serial: Annotated[
        str | None, typer.Option(help="Only say what stands there of this serial (hex); exit code 1: nothing.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; with --entries one for each entry before it, a line each.")
    ] = False,
) -> None:
    """Show a CRL of any size, and what is wrong with it by which clause. Exit code 1: an error was found."""
    signer = None if issuer is None else _certificate(issuer)
    wanted = None if serial is None else parse_serial(serial)
    with crl_named(where) as crl:
        if wanted is not None:
            raise typer.Exit(0 if _print_serial(crl, wanted, as_json) else 1)
        about = certificates or _certificates(crl.head)
        now = SystemClock().now()
        with EntryLint(crl.head, profile, about) as lint:
            problems = [*_lint_file(crl), *lint_head(crl.head, profile, about, now, crl.size)]
            was_verified = _verify(crl, signer, problems)
            problems += _read_entries(crl, lint, print_each=entries, as_json=as_json)
            problems += lint.problems()
            fields = _fields(crl, lint, was_verified)
    fields["problems"] = [{"level": one.level, "text": one.text, "clause": one.clause} for one in problems]
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        _print(fields, crl.head, now)
    raise typer.Exit(1 if any(one.level == "error" for one in problems) else 0)


def _certificate(path: Path) -> x509.Certificate:
    try:
        found = read_certificate(path.read_bytes(), str(path))
    except OSError as error:
        raise OperatorError(f"--issuer {path}: cannot be read: {error.strerror}") from error
    if found is None:
        raise OperatorError(f"--issuer {path}: is not a certificate")
    return found


def _lint_file(crl: NamedCRL) -> Iterator[Problem]:
    if crl.is_armored:
        yield Problem(
            "error", "the file is PEM or base64; what clients fetch must be DER", "RFC 5280 §4.2.1.13; RFC 2585 §3"
        )


def _verify(crl: NamedCRL, signer: x509.Certificate | None, problems: list[Problem]) -> bool | None:
    """Verify the signature where a signer is given, by the reader that our own checks use; adds what is wrong."""
    try:
        with CRLFile.open(crl.path) as strictly:
            if signer is None:
                return None
            was_verified, found = lint_signer(crl.head, strictly, signer)
            problems += found
            return was_verified
    except CRLError as error:
        if not any(problem.level == "error" for problem in problems):
            said = str(error).removeprefix(f"{crl.path}: ")
            problems.append(Problem("error", f"not strictly DER: {said}", "RFC 5280 §5.1; X.690 §10"))
        return None if signer is None else False


def _certificates(head: Head) -> str:
    return "cas" if head.scope is not None and "onlyContainsCACerts" in head.scope.only else "users"


# --- entries ----------------------------------------------------------------------------------------------------------


def _read_entries(crl: NamedCRL, lint: EntryLint, *, print_each: bool, as_json: bool) -> Iterator[Problem]:
    """Go through the entries; yields what the reader says of them."""
    with progress(crl.name, crl.size) as told:
        reader = crl.entries(told)
        try:
            for batch in reader:
                lint.see(batch)
                if print_each:
                    _print_entries(batch, as_json=as_json)
        except EntryError as error:
            said = f"entry {reader.count + 1} cannot be read: {error.code} at octet {error.offset}"
            yield Problem("error", said, error.clause)
    for fault in sorted(reader.faults):
        text, _, clause = fault.rpartition(" (")
        yield Problem("error", text, clause.rstrip(")"))


def _print_serial(crl: NamedCRL, wanted: bytes, as_json: bool) -> bool:
    with progress(crl.name, crl.size) as told:
        found = [entry for batch in crl.entries(told) for entry in batch if entry.serial_octets == wanted]
    _print_entries(found, as_json=as_json)
    if not found:
        typer.echo(f"{wanted.hex()}: not on this CRL", err=True)
    return bool(found)


def _print_entries(batch: list[Entry], *, as_json: bool) -> None:
    spell = (lambda entry: json.dumps(entry_fields(entry))) if as_json else entry_text
    if batch:
        typer.echo("\n".join(map(spell, batch)))


def entry_fields(entry: Entry | Revocation) -> dict[str, Any]:
    """Return an entry's fields as JSON has them; what is absent is left out."""
    fields: dict[str, Any] = {
        "serial": entry.serial_octets.hex(),
        "revocationDate": format_utc(entry.revocation_date),
    }
    if entry.reason is not None:
        fields["reason"] = REASONS[entry.reason]
    if entry.invalidity_date is not None:
        fields["invalidityDate"] = format_utc(entry.invalidity_date)
    if entry.certificate_issuer is not None:
        fields["certificateIssuer"] = name_text(entry.certificate_issuer)
    return fields


def entry_text(entry: Entry | Revocation) -> str:
    """Spell an entry in a line: serial, date, reason, and what else it has."""
    serial, date, *rest = entry_fields(entry).items()
    words = [value if key == "reason" else f"{key}={value}" for key, value in rest]
    return "  ".join([f"{serial[1]:<40}", date[1], *words]).rstrip()


def name_text(name_der: bytes) -> str:
    """Spell a Name as RFC 4514 does; in hex where it is none."""
    try:
        return str(asn1_x509.Name.load(name_der, strict=True).human_friendly)
    except (ValueError, TypeError):
        return name_der.hex()


# --- the summary ------------------------------------------------------------------------------------------------------


def _fields(crl: NamedCRL, lint: EntryLint, was_verified: bool | None) -> dict[str, Any]:
    """Return what is said of the CRL, as JSON has it; what is absent is left out."""
    head = crl.head
    fields: dict[str, Any] = {
        "file": crl.name,
        "bytes": crl.size,
        "sha256": _sha256(crl),
        "issuer": name_text(head.parts.issuer_der),
        "kind": "delta" if head.is_delta else "full",
        "crlNumber": head.number,
        "baseCRLNumber": head.base_number,
        "thisUpdate": format_utc(head.this_update),
        "nextUpdate": None if head.next_update is None else format_utc(head.next_update),
        "nextPublication": None if head.next_publication is None else format_utc(head.next_publication),
        "expiredCertsOnCRL": None if head.expired_since is None else format_utc(head.expired_since),
        "authorityKeyIdentifier": None if head.authority_key is None else head.authority_key.hex(),
        "signatureAlgorithm": _algorithm_text(head.parts.signature_algorithm_der),
        "scope": _scope_fields(head),
        "freshestCRL": list(head.freshest) or None,
        "extensions": [
            {"oid": one.oid, "name": extension_name(one.oid), "critical": one.critical} for one in head.parts.extensions
        ],
        "entries": lint.count,
        "reasons": {_reason_text(reason): count for reason, count in _sorted(lint.reasons)},
        "earliestRevocation": None if lint.earliest is None else format_utc(lint.earliest),
        "latestRevocation": None if lint.latest is None else format_utc(lint.latest),
    }
    if was_verified is not None:
        fields["signatureVerified"] = was_verified
    return {key: value for key, value in fields.items() if value is not None}


def _sorted(reasons: Counter[int | None]) -> list[tuple[int | None, int]]:
    return sorted(reasons.items(), key=lambda item: -1 if item[0] is None else item[0])


def _reason_text(reason: int | None) -> str:
    return "none given" if reason is None else REASONS[reason]


def _scope_fields(head: Head) -> dict[str, Any] | None:
    scope = head.scope
    if scope is None:
        return None
    fields: dict[str, Any] = {"urls": list(scope.urls), "only": list(scope.only), "indirect": scope.indirect}
    if scope.reasons is not None:
        fields["reasons"] = [REASONS[reason] for reason in sorted(scope.reasons)]
    return fields


def _algorithm_text(algorithm_der: bytes) -> str:
    try:
        return str(algos.SignedDigestAlgorithm.load(algorithm_der)["algorithm"].native)
    except (ValueError, TypeError):
        return algorithm_der.hex()


def _print(fields: dict[str, Any], head: Head, now: float) -> None:
    """Print the summary for a person."""

    def line(label: str, value: object) -> None:
        typer.echo(f"{label:<18}{value}")

    line("file", f"{fields['file']}, {fields['bytes']:,} octets")
    line("SHA-256", fields["sha256"])
    line("issuer", fields["issuer"])
    base = f" for base {head.base_number} and later" if head.is_delta else ""
    line("kind", f"{fields['kind']} CRL{base}")
    line("cRLNumber", "none" if head.number is None else f"{head.number} ({head.number:x} in hex)")
    line("thisUpdate", f"{fields['thisUpdate']}, {_ago(now - head.this_update)}")
    if head.next_update is None:
        line("nextUpdate", "none")
    else:
        line("nextUpdate", f"{fields['nextUpdate']}, {_ago(now - head.next_update)}")
    if head.next_publication is not None:
        line("next publication", f"{fields['nextPublication']}, {_ago(now - head.next_publication)}")
    if head.expired_since is not None:
        line("expired kept", f"those that expired since {fields['expiredCertsOnCRL']} too")
    line("scope", _scope_text(fields.get("scope")))
    for url in (fields.get("scope") or {}).get("urls", ()):
        line("  at", url)
    for url in head.freshest:
        line("deltas at", url)
    line("signature", f"{fields['signatureAlgorithm']}, {_verified_text(fields)}")
    if head.authority_key is not None:
        line("key identifier", head.authority_key.hex())
    line(
        "extensions",
        ", ".join(one["name"] + (" (critical)" if one["critical"] else "") for one in fields["extensions"]) or "none",
    )
    line("entries", f"{fields['entries']:,}")
    for reason, count in fields["reasons"].items():
        line("", f"{count:>12,}  {reason}")
    if fields["entries"]:
        line("revoked", f"{fields['earliestRevocation']} to {fields['latestRevocation']}")
    for problem in fields["problems"]:
        typer.echo(f"{problem['level']}: {problem['text']} ({problem['clause']})")
    if not fields["problems"]:
        typer.echo("no problems found")


def _verified_text(fields: dict[str, Any]) -> str:
    match fields.get("signatureVerified"):
        case None:
            return "not verified (--issuer names the certificate to verify it with)"
        case True:
            return "verified"
    return "DOES NOT VERIFY"


def _scope_text(scope: dict[str, Any] | None) -> str:
    if scope is None:
        return "all certificates of its issuer"
    words = [*scope["only"], *(["indirectCRL"] if scope["indirect"] else [])]
    if "reasons" in scope:
        words.append(f"onlySomeReasons: {', '.join(scope['reasons'])}")
    return ", ".join(words) or "the certificates that name it"


def _ago(seconds: float) -> str:
    """Spell how long ago a moment was; negative: how far it lies ahead."""
    size = abs(seconds)
    for unit, of_unit in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if size >= 2 * of_unit:
            text = f"{size / of_unit:.0f} {unit}"
            break
    else:
        text = f"{size:.0f} seconds"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def _sha256(crl: NamedCRL) -> str:
    digest = hashlib.sha256()
    for block in crl.blocks(0, crl.size):
        digest.update(block)
    return digest.hexdigest()
