"""``revocast crl now | last``: issue CRLs by an operator's word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from responder import audit
from responder.audit_anchor import command_log
from responder.cli.named import open_config, parse_serial, with_redis
from responder.clock import SystemClock, format_utc
from responder.crl.last import issue_last
from responder.crl.publisher import Series, open_series
from responder.errors import OperatorError
from responder.issuers import Issuer
from responder.process import ConfigFile
from responder.store.redis_store import Store

PATIENCE_S = 1.0  # what takes longer shows how far it is
CAName = Annotated[
    str | None, typer.Option("--ca", help="The CA's name in the configuration; else every CA that has [ca.crl] issue.")
]


def now(
    config: ConfigFile,
    ca: CAName = None,
    delta: Annotated[bool, typer.Option("--delta", help="Delta CRLs, not complete ones.")] = False,
    let_go: Annotated[
        list[str] | None,
        typer.Option(
            "--let-go",
            metavar="SERIAL",
            help="A serial in hex that the published CRL lists and the new one need not: its certificate never existed, or its database is lost. May be repeated; recorded in the audit log.",
        ),
    ] = None,
) -> None:
    """Issue CRLs at once, whether or not one is due; the plan of regular ones stays as it is."""
    gone = frozenset(parse_serial(serial) for serial in let_go or ())
    if gone and ca is None:
        raise OperatorError("--let-go: say of which CA with --ca")
    with _opened(config, ca) as all_series:
        for series in all_series:
            crl = series.office.crl
            if delta and crl.delta_every is None:
                raise OperatorError(f"ca {series.office.issuer.name}: crl.delta_every is absent: it has no delta CRLs")
            if gone:
                serials = sorted(serial.hex() for serial in gone)
                audit.record("crl_let_go", **audit.operator(), ca=series.office.issuer.name, serials=serials)
            series.now(full=not delta, let_go=gone)
            _print(series)


def last(
    config: ConfigFile,
    ca: Annotated[str, typer.Option("--ca", help="The CA's name in the configuration.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Issue a CA's last CRL: nextUpdate is 99991231235959Z, and nothing is issued after it. Not in profile webpki.

    Refused while one of its certificates is neither expired nor revoked (EN 319 411-1 CSS-6.3.9-06).
    """
    with _opened(config, ca) as (series,):
        if not yes and not series.is_ended:
            typer.confirm(f"No CRL of {ca} can ever be issued after this. Go on?", abort=True)
        issue_last(series)
        audit.record("crl_last", **audit.operator(), ca=ca)
        _print(series)


@contextlib.contextmanager
def _opened(config: ConfigFile, ca: str | None) -> Iterator[list[Series]]:
    """Open what is needed to issue the CRLs of a CA, or of all that have any."""
    settings, issuers = open_config(config)
    chosen = [issuer for issuer in issuers if ca in (None, issuer.name) and _issues(issuer)]
    if not chosen:
        names = ", ".join(issuer.name for issuer in issuers if _issues(issuer)) or "none"
        raise OperatorError(f"--ca {ca}: no such CA with [ca.crl] issue = true; there are: {names}")
    with (
        with_redis(settings),
        Store.connect(settings, "publish") as store,
        command_log(settings, config, store),
        contextlib.ExitStack() as stack,
    ):
        told = stack.enter_context(_Told())
        found = []
        for issuer in chosen:
            found.append(open_series(settings, str(config), issuer, store, SystemClock(), told))
            stack.callback(found[-1].close)
            found[-1].look()
        yield found


def _issues(issuer: Issuer) -> bool:
    return issuer.config.crl is not None and issuer.config.crl.issue


def _print(series: Series) -> None:
    office = series.office
    for slot in office.depot.slots(office.issuer.name):
        one = office.published(slot)
        if one is None:
            continue
        until = format_utc(one.next_update) if one.next_update is not None else "-"
        typer.echo(
            f"{one.ca} {one.slot}: number {one.number}, {one.entries} entries, {one.size} octets, "
            f"{format_utc(one.this_update)} to {until}, {office.depot.path(one)}"
        )


class _Told(contextlib.ExitStack):
    """Shows how far it is, on standard error, once it has taken a second."""

    def __init__(self) -> None:
        super().__init__()
        self._began = monotonic()
        self._progress: Progress | None = None

    def __call__(self, what: str, done: int) -> None:
        """Hear how far it is: per cent of reading, entries of a slot's CRL."""
        if self._progress is None:
            if monotonic() - self._began < PATIENCE_S:
                return
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._progress = self.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
            self._task = self._progress.add_task("")
        text = f"reading what is revoked: {done} %" if what == "reading" else f"{what}: {done:,} entries"
        self._progress.update(self._task, description=text)
