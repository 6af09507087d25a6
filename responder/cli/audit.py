"""``revocast audit``: prove that the audit log is whole, and read it (docs/audit.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.x509 import ocsp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from responder.audit import Head, directory_of
from responder.audit_anchor import parse_anchor
from responder.audit_verify import UNREADABLE, LogProof, compare, find_files, identify, open_file, read_fields, verify
from responder.cli.named import with_redis
from responder.clock import SystemClock, parse_utc
from responder.config import Config, load_config
from responder.errors import OperatorError, RevocastError
from responder.log import configure_logging
from responder.signing.ledger import SIGNATURE_OCTETS, name_signature
from responder.store.redis_store import Store

EXIT_BROKEN = 1
EXIT_UNPROVEN = 3  # nothing is wrong as far as it could be seen, but not all could be seen
SIGNATURE_DIGITS = 2 * SIGNATURE_OCTETS
_PLAIN = ("n", "t", "event", "prev", "hash")  # what a table shows elsewhere, or not at all

audit_app = typer.Typer(help="The audit log.", no_args_is_help=True)

OptionalConfig = Annotated[
    Path | None, typer.Option("-c", "--config", help="The configuration file: where the logs are, and their anchors.")
]
Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]...", help="Files of a log, or directories; data_dir's, unless given."),
]


@audit_app.callback()
def _group() -> None:
    """Read the audit log, and prove that it is whole."""


@audit_app.command("verify")
def verify_command(
    paths: Paths = None,
    config: OptionalConfig = None,
    part: Annotated[bool, typer.Option("--part", help="The beginning may be elsewhere, in an archive.")] = False,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MACHINE:LOG:NUMBER:HASH", help="A line noted down earlier, such as of an audit_head record."
        ),
    ] = None,
) -> None:
    """Prove that no line was changed, moved or taken away; exit code 0: proven, 1: broken, 3: not all could be checked."""
    settings = _config(config)
    noted = [_parse_head(text) for text in head or ()]
    where = _where(paths, settings)
    anchors, out_of_reach = _anchors(settings, where)  # first: the files then have at least what is anchored
    wanted: dict[tuple[str, str], list[int]] = {}
    for key, of_log in [*anchors.items(), *noted]:
        wanted.setdefault(key, []).append(of_log.number)
    proofs, stray = verify(find_files(where), wanted, part=part)
    _compare(proofs, anchors, noted, part=part, asked=settings is not None and out_of_reach is None)
    missing = [
        f"{machine} {log}: is not there; its line {of_log.number} is known"
        for (machine, log), of_log in [*anchors.items(), *noted]
        if (machine, log) not in {(proof.machine, proof.log) for proof in proofs}
    ]
    if not proofs and not missing and not stray:
        raise OperatorError(f"no audit log in {', '.join(map(str, where))}")
    for proof in proofs:
        typer.echo(_summary(proof, anchors.get((proof.machine, proof.log))))
        for problem in proof.broken:
            typer.echo(f"  BROKEN: {problem}")
        for problem in proof.unproven:
            typer.echo(f"  not proven: {problem}")
    for problem in [*stray, *missing]:
        typer.echo(f"BROKEN: {problem}")
    if out_of_reach is not None:
        typer.echo(f"not anchored: the ends of the logs were not compared with Redis: {out_of_reach}")
    if stray or missing or any(proof.broken for proof in proofs):
        raise typer.Exit(EXIT_BROKEN)
    if out_of_reach is not None or any(proof.unproven for proof in proofs):
        raise typer.Exit(EXIT_UNPROVEN)


@audit_app.command()
def show(
    paths: Paths = None,
    config: OptionalConfig = None,
    since: Annotated[str | None, typer.Option(help="From this time on, such as 2026-11-20T10:00:00Z.")] = None,
    ca: Annotated[str | None, typer.Option("--ca", help="Only of this CA.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Only these events; may be given again.")] = None,
    answer: Annotated[Path | None, typer.Option(help="An OCSP response: the line of its signature.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they are in the log.")] = False,
) -> None:
    """Show lines of the audit log; exit code 1 if there is none such."""
    where = _where(paths, _config(config))
    if since is not None:
        try:
            parse_utc(since)
        except ValueError as error:
            raise OperatorError(f"--since {since}: must be a time such as 2026-11-20T10:00:00Z") from error
    signature = _signature_of(answer) if answer is not None else None
    table = Table("time", "log", "line", "event", "what", show_lines=False)
    count = 0
    for name, line, fields in _read_all(where):
        if since is not None and str(fields.get("t", "")) < since[:-1]:
            continue
        if (ca is not None and fields.get("ca") != ca) or (event and fields.get("event") not in event):
            continue
        if signature is not None and signature not in _signatures(fields):
            continue
        count += 1
        if as_json:
            typer.echo(line.decode("utf-8", "replace"), nl=False)
        else:
            what = ", ".join(f"{key} {_spell(value)}" for key, value in fields.items() if key not in _PLAIN)
            cells = (fields.get("t"), name, fields.get("n"), fields.get("event"), what)
            table.add_row(*(escape(str(cell)) for cell in cells))
    if count and not as_json:
        Console().print(table)
    if not count:
        typer.echo("no such line", err=True)
        raise typer.Exit(1)


def _config(file: Path | None) -> Config | None:
    if file is None:
        return None
    settings = load_config(file)
    configure_logging("command", "error", "console")
    return settings


def _where(paths: list[Path] | None, settings: Config | None) -> list[Path]:
    if paths:
        for path in paths:
            if not path.exists():
                raise OperatorError(f"{path}: is not there")
        return paths
    if settings is None:
        raise OperatorError("say where the audit log is: -c with the configuration, or its directory or files")
    return [directory_of(settings)]


def _parse_head(text: str) -> tuple[tuple[str, str], Head]:
    parts = text.split(":")
    if len(parts) != 4 or not parts[2].isdecimal() or len(parts[3]) != 64:
        raise OperatorError(f"--head {text}: must be MACHINE:LOG:NUMBER:HASH with a hash of 64 hex digits")
    return (parts[0], parts[1]), Head(int(parts[2]), parts[3].lower())


def _anchors(settings: Config | None, where: list[Path]) -> tuple[dict[tuple[str, str], Head], str | None]:
    """Fetch the anchors of this machine and of those whose logs are given; or say why they cannot be had."""
    if settings is None:
        return {}, None
    found = [identify(path) for path in find_files(where)]
    machines = {settings.audit.machine_name} | {one.machine for one in found if not isinstance(one, str)}
    anchors: dict[tuple[str, str], Head] = {}
    try:
        with with_redis(settings), Store.connect(settings, "serve") as store:
            for machine in machines:
                for log, text in store.anchors(machine).items():
                    anchors[machine, log] = parse_anchor(text)
    except RevocastError as error:
        return {}, str(error)
    except ValueError as error:
        return {}, f"an anchor cannot be read: {error}"
    return anchors, None


def _compare(
    proofs: list[LogProof],
    anchors: dict[tuple[str, str], Head],
    noted: list[tuple[tuple[str, str], Head]],
    *,
    part: bool,
    asked: bool,
) -> None:
    now = SystemClock().now()
    for proof in proofs:
        key = (proof.machine, proof.log)
        heads = [head for one, head in noted if one == key]
        for head in heads:
            compare(proof, head, "the line noted down", now, is_newest=False)
        if key in anchors:
            compare(proof, anchors[key], "the anchor in Redis", now, is_newest=True)
        elif asked:
            proof.unproven.append("not anchored: Redis knows no line of it, so its last lines may have been taken away")
        elif not part and not heads:
            proof.unproven.append(
                "not anchored: its last lines may have been taken away; -c compares with Redis, --head with a line noted down, --part does without"
            )


def _summary(proof: LogProof, anchor: Head | None) -> str:
    text = f"{proof.machine} {proof.log}: "
    if proof.broken:
        return f"{text}{proof.lines} lines read, {proof.first} to {proof.last}"
    text += f"lines {proof.first} to {proof.last}, {proof.began} to {proof.ended}: each as it was written, none missing"
    if anchor is not None and anchor.number <= proof.last:
        text += f"; anchored up to line {anchor.number}"
    if proof.recovered:
        text += f"; {proof.recovered} torn by a crash"
    if proof.gaps:
        text += f"; {proof.gaps} events could not be written, and are missing by the log's own account"
    return text


def _read_all(where: list[Path]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    for path in find_files(where):
        found = identify(path)
        name = path.name if isinstance(found, str) else found.log
        try:
            with open_file(path) as file:
                for line in file:
                    yield name, line, read_fields(line)
        except UNREADABLE as error:
            raise OperatorError(f"{path}: cannot be read: {error}") from error


def _signature_of(file: Path) -> str:
    try:
        response = ocsp.load_der_ocsp_response(file.read_bytes())
        return name_signature(response.signature).hex()
    except (OSError, ValueError) as error:
        raise OperatorError(f"--answer {file}: cannot be read as an OCSP response: {error}") from error


def _signatures(fields: dict[str, Any]) -> list[str]:
    text = str(fields.get("signatures", ""))
    return [text[at : at + SIGNATURE_DIGITS] for at in range(0, len(text), SIGNATURE_DIGITS)]


def _spell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 64 else text[:61] + "..."
