"""Puts the sub-commands together. A role's process builds only its own command, so that it starts quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import typer

# Public commands and where they live, in the order of the help text.
COMMANDS = {
    "quickstart": "responder.cli.quickstart:quickstart",
    "run": "responder.cli.operate:run",
    "serve": "responder.cli.operate:serve",
    "follow": "responder.cli.operate:follow",
    "presign": "responder.cli.operate:presign",
    "publish": "responder.cli.operate:publish",
    "check": "responder.cli.check:check",
    "plan": "responder.cli.plan:plan",
    "revoke": "responder.cli.revoke:revoke",
    "get": "responder.cli.query:get",
    "inspect": "responder.cli.query:inspect",
}
GROUPS = {
    "signer": "responder.cli.signer:signer",
    "audit": "responder.cli.audit:audit_app",
    "crl": "responder.cli.crl:crl_app",
}
# What the supervisor starts: ``python -m responder role NAME -c FILE``.
ROLES = {
    "worker": "responder.roles.worker:worker",
    "presign": "responder.roles.presign:presign",
    "depot": "responder.roles.depot:depot",
    "publish": "responder.roles.publish:publish",
    "admin": "responder.roles.admin:admin",
}


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def _role_command(name: str) -> Callable[..., Any]:
    if name in ROLES:
        role: Callable[..., Any] = _load(ROLES[name])
        return role
    for point in entry_points(group="revocast.roles", name=name):
        found: Callable[..., Any] = point.load()
        return found
    raise SystemExit(f"revocast: no such role: {name}")


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Build the command line that ``arguments`` need."""
    app = typer.Typer(
        name="revocast",
        help="An OCSP responder that signs every answer before it is asked for.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    if len(arguments) >= 2 and arguments[0] == "role":
        roles = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        roles.command(arguments[1])(_role_command(arguments[1]))
        roles.callback()(lambda: None)
        app.add_typer(roles, name="role", hidden=True)
        app.callback()(lambda: None)
        return app
    for name, reference in COMMANDS.items():
        app.command(name)(_load(reference))
    for point in sorted(entry_points(group="revocast.commands"), key=lambda point: point.name):
        app.command(point.name)(point.load())
    for name, reference in GROUPS.items():
        app.add_typer(_load(reference), name=name)
    return app
