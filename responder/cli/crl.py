"""``revocast crl``: the group of commands about CRLs."""

from __future__ import annotations

import typer

from responder.cli.crl_diff import diff
from responder.cli.crl_issue import last, now
from responder.cli.crl_partitions import partitions
from responder.cli.crl_show import show

crl_app = typer.Typer(help="CRLs: issue, read, compare and disclose them.", no_args_is_help=True)


@crl_app.callback()
def _group() -> None:
    """Issue, read, compare and disclose CRLs."""


crl_app.command()(now)
crl_app.command()(last)
crl_app.command()(show)
crl_app.command()(diff)
crl_app.command()(partitions)
