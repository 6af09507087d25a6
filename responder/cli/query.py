"""``revocast get`` and ``revocast inspect``: what would be answered, and what Redis holds.

``get`` sends one query through the very endpoint and sources of a worker, without a server. ``inspect`` reads the store
and puts the stored answers together.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from cryptography.x509 import ocsp

from fastpath.http_target import TargetError, decode_target
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, assemble, unpack_answer
from responder.cli.named import certificates_named, issuer_of, open_config, read_certificate, with_redis
from responder.clock import SystemClock, format_utc
from responder.config import Config
from responder.errors import OperatorError
from responder.issuers import Issuer, Issuers
from responder.model import OCSPResponseStatus, serial_to_octets
from responder.ocsp.answer import Outcome
from responder.ocsp.endpoint import DECISIONS, Result, refused
from responder.process import ConfigFile
from responder.roles.health import probe_request, verify_answer
from responder.roles.worker import FIRST_CONTACT_S, build_edge
from responder.store import layout
from responder.store.redis_store import EdgeStore, Store

CAName = Annotated[str | None, typer.Option("--ca", help="Only this CA, by its name in the configuration.")]


def get(
    config: ConfigFile,
    query: Annotated[str, typer.Argument(metavar="URLPATH|request.der|cert.pem", help="What to ask.")],
    ca: CAName = None,
) -> None:
    """Answer one query without a server, and say which source answered.

    A certificate is asked about with a SHA-1 CertID and no nonce. Exit code 1: there is no answer but an error.
    """
    settings, issuers = open_config(config)
    with with_redis(settings):
        result = asyncio.run(_ask(settings, issuers, query, ca))
    decision = DECISIONS[result.outcome]
    typer.echo(f"response status  {_camel(decision.response_status)}")
    typer.echo(f"outcome          {result.outcome.value}: {decision.when}")
    if result.source:
        typer.echo(f"source           {result.source}")
        _print_answer(result.response.body, issuers)
    raise typer.Exit(0 if decision.response_status is OCSPResponseStatus.SUCCESSFUL else 1)


def inspect(
    config: ConfigFile,
    serial: Annotated[str, typer.Argument(metavar="SERIAL|cert.pem", help="Serial in hex, or a certificate.")],
    ca: CAName = None,
) -> None:
    """Print what Redis holds for a certificate, and decode and verify its stored answers. Exit code 1: nothing."""
    settings, issuers = open_config(config)
    found = certificates_named(serial, issuers, ca)
    with with_redis(settings), Store.connect(settings, "serve") as store:
        known = [_inspect_one(store, issuer, octets) for issuer, octets in found]
    raise typer.Exit(0 if any(known) else 1)


# --- get ------------------------------------------------------------------------------------------------------------


async def _ask(config: Config, issuers: Issuers, query: str, ca: str | None) -> Result:
    try:
        request_der = _request(query, issuers, ca)
    except TargetError:
        return refused(Outcome.BAD_TARGET)
    edge = build_edge(config, issuers, EdgeStore.connect(config), SystemClock())
    async with edge.running():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(edge.contact.first(), FIRST_CONTACT_S)
        return await edge.endpoint.ask(request_der)


def _request(query: str, issuers: Issuers, ca: str | None) -> bytes:
    """Return the request to answer; raises TargetError for a path that holds none."""
    path = Path(query)
    if len(query) < 1024 and path.is_file():
        data = path.read_bytes()
        certificate = read_certificate(data, query)
        if certificate is None:
            return data
        return probe_request(issuer_of(certificate, issuers, ca), serial_to_octets(certificate.serial_number))
    if query.startswith(("http://", "https://")):
        query = urlsplit(query).path
    elif query.endswith((".pem", ".der", ".crt", ".cer", ".req")):
        raise OperatorError(f"{query}: no such file")
    return decode_target(b"/" + query.removeprefix("/").encode())


def _camel(status: OCSPResponseStatus) -> str:
    head, *rest = status.name.lower().split("_")
    return head + "".join(word.capitalize() for word in rest)


def _print_answer(body: bytes, issuers: Issuers) -> None:
    """Print a successful answer's fields, each SingleResponse, and whether the signature verifies."""
    response = ocsp.load_der_ocsp_response(body)
    for single in response.responses:
        typer.echo(f"serial           {single.serial_number:x}")
        typer.echo(f"  CertID hash    {single.hash_algorithm.name}")
        typer.echo(f"  certStatus     {single.certificate_status.name.lower()}")
        if single.revocation_time_utc is not None:
            typer.echo(f"  revokedAt      {format_utc(single.revocation_time_utc.timestamp())}")
        if single.revocation_reason is not None:
            typer.echo(f"  reason         {single.revocation_reason.value}")
        typer.echo(f"  thisUpdate     {format_utc(single.this_update_utc.timestamp())}")
        if single.next_update_utc is not None:
            typer.echo(f"  nextUpdate     {format_utc(single.next_update_utc.timestamp())}")
        problem = _verify(issuers, single, body)
        typer.echo(f"  verified       {'yes' if problem is None else f'NO: {problem}'}")
    typer.echo(f"producedAt       {format_utc(response.produced_at_utc.timestamp())}")
    typer.echo(f"signer           {_signer_text(response)}")


def _verify(issuers: Issuers, single: ocsp.OCSPSingleResponse, body: bytes) -> str | None:
    issuer = issuers.find(single.hash_algorithm.name, single.issuer_name_hash, single.issuer_key_hash)
    if issuer is None:
        return "the CertID names no CA of the configuration"
    return verify_answer(issuer, single.serial_number, body, SystemClock().now(), single.hash_algorithm.name)


def _signer_text(response: ocsp.OCSPResponse) -> str:
    if not response.certificates:
        return "the CA itself"
    certificate = response.certificates[0]
    return f"{certificate.subject.rfc4514_string()}, until {format_utc(certificate.not_valid_after_utc.timestamp())}"


# --- inspect --------------------------------------------------------------------------------------------------------


def _inspect_one(store: Store, issuer: Issuer, serial_octets: bytes) -> bool:
    """Print what the store holds for one serial of one CA; returns whether it knows the serial."""
    typer.echo(f"ca               {issuer.name} ({issuer.id})")
    info = store.ca_info(issuer.id)
    if info is None or info.bits is None:
        typer.echo("  not loaded into this Redis yet")
        return False
    located = store.locate(issuer.id, [serial_octets], info.bits)[0]
    bucket, names = located.bucket, store.layout
    override = store.override(issuer.id, layout.partition_of(bucket))
    typer.echo(f"  as of          {'never' if info.as_of is None else format_utc(info.as_of)}")
    typer.echo(f"  serial         {serial_octets.hex()}")
    typer.echo(f"  bucket         {bucket:x} of {located.bits} bits ({names.status(issuer.id, bucket)})")
    typer.echo(f"  status         {located.text or 'none: never issued, or purged'}")
    if override is not None:
        typer.echo(f"  override       {override} (for every certificate of the CA)")
    typer.echo(f"  due            {_due_text(store.due_at(issuer.id, bucket))}")
    for hash_name in layout.STORED_HASHES:
        _print_stored(store, issuer, bucket, hash_name, serial_octets)
    return located.text is not None


def _due_text(score: float | None) -> str:
    match score:
        case None:
            return "not in the due set"
        case layout.DUE_REVOKED:
            return "now, before all else (a revocation or release)"
        case layout.DUE_ASKED_FOR:
            return "now (asked for)"
        case layout.NEVER_DUE:
            return "never (holds nothing to sign)"
    return format_utc(score)


def _print_stored(store: Store, issuer: Issuer, bucket: int, hash_name: str, serial_octets: bytes) -> None:
    """Print and verify the stored answer for one CertID hash algorithm."""
    held = store.read_answer_bucket(issuer.id, bucket, hash_name)
    slots = ", ".join(f"{slot:x}" for slot in sorted(held.headers)) or "none"
    typer.echo(f"answer {hash_name:9} {len(held.answers)} in the bucket, headers: {slots}")
    packed = held.answers.get(serial_octets)
    if packed is None:
        typer.echo("  none for this serial")
        return
    try:
        answer = unpack_answer(packed)
        header = AnswerHeader.from_bytes(held.headers[answer.slot])
        record = store.get_signer(header.signer_id)
        typer.echo(f"  header         {answer.slot:x}, signer {header.signer_id}")
        if record is None:
            typer.echo("  verified       NO: Redis does not know its signer")
            return
        both = (
            issuer.both_cert_ids(serial_octets) if answer.is_dual else (issuer.cert_id(hash_name, serial_octets), None)
        )
        body = assemble(ResponseTemplate.from_bytes(record.template), header, both[0], packed, both[1])
    except (ValueError, KeyError) as error:
        typer.echo(f"  verified       NO: it cannot be put together: {error}")
        return
    _print_answer(body, Issuers([issuer]))
