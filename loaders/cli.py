"""``revocast load``, and the follow role as the supervisor starts it. Errors become exit codes in responder/cli."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from loaders.base import Incremental, is_consistent
from loaders.discovery import issuer_lines
from loaders.follow import follow_all
from loaders.reconcile import reconcile_ca
from loaders.reconcile import report_lines as comparison_lines
from loaders.registry import open_loader, parts_of
from loaders.report import report_lines
from loaders.runner import Progress as PassProgress
from loaders.runner import load_ca
from responder.audit_anchor import command_log, role_log
from responder.cli.named import open_config, with_redis
from responder.clock import SystemClock
from responder.config import load_config
from responder.errors import OperatorError, SourceUnavailable
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.process import ConfigFile, Stop, announce_ready
from responder.store.redis_store import Store

EXIT_REJECTED = 1
EXIT_UNREADABLE = 2


def load(
    config: ConfigFile,
    ca: Annotated[str | None, typer.Option("--ca", metavar="NAME", help="Only this CA.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and write nothing.")] = False,
) -> None:
    """Read the CAs' databases once, bring in what changed, and say what it was; exit code 1 if anything was refused."""
    settings, issuers = open_config(config)
    chosen = [issuer for issuer in issuers if ca in (None, issuer.name)]
    if not chosen:
        raise OperatorError(f"--ca {ca}: no such CA; there are {', '.join(issuer.name for issuer in issuers)}")
    is_clean = True
    with (
        with_redis(settings),
        Store.connect(settings, "follow") as store,
        nullcontext() if dry_run else command_log(settings, config, store),
        _bar() as progress_of,
    ):
        for issuer in chosen:
            report = load_ca(
                store, issuers, issuer, settings, config, dry_run=dry_run, progress=progress_of(issuer.name)
            )
            for line in report_lines(report, dry_run=dry_run):
                typer.echo(line)
            is_clean = is_clean and report.is_clean
    if not is_clean:
        raise typer.Exit(EXIT_REJECTED)


def sources(config: ConfigFile) -> None:
    """Say of each CA how its source is read, and which issuers that holds, also those that are not configured.

    Exit code 2 if a source could not be read; the others are told all the same.
    """
    _, issuers = open_config(config)
    is_told = True
    for issuer in issuers:
        loader, options = open_loader(issuers, issuer, str(config), SystemClock())
        for kind, part in parts_of(loader, issuer):
            can = [
                "lists what was issued" if part.lists_issued else "lists the revoked alone",
                "by what changed" if isinstance(part, Incremental) else "as a whole",
                "one consistent view each time" if is_consistent(part) else "confirmed by a second reading",
                f"whole each {options.reconcile} s",
            ]
            typer.echo(f"{issuer.name}: {kind} {part.name}: {', '.join(can)}")
            try:
                for line in issuer_lines(part, issuers):
                    typer.echo(f"{issuer.name}:   {line}")
            except SourceUnavailable as error:
                is_told = False
                typer.echo(f"{issuer.name}:   {error}")
    if not is_told:
        raise typer.Exit(EXIT_UNREADABLE)


def reconcile(
    config: ConfigFile,
    ca: Annotated[str | None, typer.Option("--ca", metavar="NAME", help="Only this CA.")] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample", metavar="N", min=0, help="Certificates, at random, whose answers are asked for over HTTP."
        ),
    ] = 1000,
) -> None:
    """Read the CAs' databases again and compare them with Redis, with answers over HTTP and with the CRLs.

    Prints each difference; exit code 1 if there is any. Writes nothing.
    """
    settings, issuers = open_config(config)
    chosen = [issuer for issuer in issuers if ca in (None, issuer.name)]
    if not chosen:
        raise OperatorError(f"--ca {ca}: no such CA; there are {', '.join(issuer.name for issuer in issuers)}")
    is_same = True
    with with_redis(settings), Store.connect(settings, "follow") as store:
        for issuer in chosen:
            result = reconcile_ca(store, settings, config, issuers, issuer, SystemClock(), sample)
            for line in comparison_lines(result):
                typer.echo(line)
            is_same = is_same and not result.count
    if not is_same:
        raise typer.Exit(EXIT_REJECTED)


def follow(
    config: ConfigFile,
    check_only: Annotated[
        bool, typer.Option("--check", help="Only see whether every source is described rightly.")
    ] = False,
) -> None:
    """Follow the CAs' databases until SIGTERM.

    With ``--check`` raises ConfigError for the first CA whose certificate or ``source`` will not do, and reads nothing:
    the supervisor asks so before it starts anything.
    """
    settings = load_config(config)
    configure_logging("follow", settings.log.level, settings.log.format)
    if check_only:
        issuers = Issuers.from_config(settings, str(config))
        for issuer in issuers:
            open_loader(issuers, issuer, str(config), SystemClock())
        return
    stop = Stop()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    with role_log(settings, config, "follow"):
        follow_all(settings, config, SystemClock(), stop, announce_ready)


class _RateColumn(ProgressColumn):
    """Rows a second, megabytes a second while reading a file."""

    def render(self, task: Task) -> Text:
        """Return the rate."""
        speed = task.speed or 0.0
        if task.description.endswith("reading"):
            return Text(f"{speed / 1e6:.1f} MB/s")
        return Text(f"{speed:,.0f} rows/s")


@contextmanager
def _bar() -> Iterator[Callable[[str], PassProgress]]:
    """Show a progress bar for each CA on standard error, so that standard output holds the report alone."""
    columns: Sequence[ProgressColumn | str] = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),  # of "reading rows" by the count of the last pass
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def of(name: str) -> PassProgress:
            tasks: dict[str, TaskID] = {}

            def told(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(f"{name}: {what}", total=None)
                # Nobody knows how many rows there will be on a first load, and later there may be more than before.
                progress.update(tasks[what], completed=done, total=max(total, done) if total else None)

            return told

        yield of
