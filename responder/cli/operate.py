"""``revocast run | serve | follow | presign | publish``: start roles under a supervisor."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import typer

from responder import audit
from responder.config import load_config
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.process import ConfigFile
from responder.roles.supervisor import ALL_ROLES, CHECKED_ROLES, Supervisor, is_needed


def warn_of_second_owner() -> None:
    """Say so where another distribution owns one of our import names: they exist on PyPI as other people's packages."""
    owners = packages_distributions()
    for name in ("responder", "fastpath", "loaders"):
        others = sorted(set(owners.get(name, ())) - {"revocast"})
        if others:
            print(
                f"revocast: the package {name} is also installed by {', '.join(others)}; "
                "install Revocast into an environment of its own.",
                file=sys.stderr,
            )


def check_role(role: str, config_file: Path) -> None:
    """See whether a role could work with this configuration, in a process of its own: the supervisor never holds a key.

    Its one line of complaint goes to standard error as it is; raises typer.Exit with its exit code.
    """
    done = subprocess.run(
        [sys.executable, "-m", "responder", "role", role, "--check", "-c", str(config_file)], check=False
    )
    if done.returncode != 0:
        raise typer.Exit(done.returncode)


def supervise(config_file: Path, roles: tuple[str, ...]) -> None:
    """Run the roles until a signal ends them; raises ConfigError before anything is started."""
    config = load_config(config_file)
    configure_logging("supervisor", config.log.level, config.log.format)
    warn_of_second_owner()
    Issuers.from_config(config, str(config_file))
    for role in CHECKED_ROLES:
        if role in roles and is_needed(role, config):
            check_role(role, config_file)
    with audit.opened(config, config_file, "supervisor", durable=True):
        code = asyncio.run(_supervise(config_file, roles))
    raise typer.Exit(code)


async def _supervise(config_file: Path, roles: tuple[str, ...]) -> int:
    return await Supervisor(config_file, roles).run()


def run(config: ConfigFile) -> None:
    """Run every role on this machine: follow the CAs, sign, publish CRLs, serve."""
    supervise(config, ALL_ROLES)


def serve(config: ConfigFile) -> None:
    """Run the HTTP workers alone."""
    supervise(config, ("worker",))


def follow(config: ConfigFile) -> None:
    """Follow the CAs' databases alone."""
    supervise(config, ("follow",))


def presign(config: ConfigFile) -> None:
    """Sign answers alone."""
    supervise(config, ("presign",))


def publish(config: ConfigFile) -> None:
    """Publish CRLs alone."""
    supervise(config, ("publish",))
