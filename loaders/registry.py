"""Finds the loader that a CA's ``source.type`` names, checks its options, and makes it.

Loaders are entry points of the group ``revocast.loaders``, so that others can add theirs. Called by loaders/cli.py and
loaders/follow.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loaders.base import Loader, LoaderOptions
from responder.clock import Clock
from responder.errors import ConfigError
from responder.issuers import Issuer, Issuers

GROUP = "revocast.loaders"
# Of a URL, up to the last @, since a password may hold one too; and of its parameters.
_PASSWORD = re.compile(
    r"(://[^\s/:@'\"]*:).*(?=@)|((?:password|passwd|pwd|secret|token)(?:=|%3D))[^&;\s'\"]*", re.IGNORECASE
)


def loader_class(issuer: Issuer, config_file: str) -> Any:
    """Return the class of a CA's loader: it makes a ``loaders.base.Loader``; raises ConfigError."""
    name = issuer.config.source.type
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:  # somebody else's module may do anything
            said = f"the loader {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
            raise ConfigError(config_file, f"ca[{issuer.name}].source.type", " ".join(said.split())) from error
    known = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"
    raise ConfigError(
        config_file, f"ca[{issuer.name}].source.type", f"no loader {name!r} is installed; there are: {known}"
    )


def check_options(
    kind: type[LoaderOptions], options: Mapping[str, Any], issuer: str, config_file: str
) -> LoaderOptions:
    """Check the keys of a CA's ``source``; raises ConfigError that names the first wrong one, and what is allowed."""
    try:
        return kind.model_validate(dict(options), context={"base": Path(config_file).resolve().parent})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([f"ca[{issuer}].source", *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(field.alias or name for name, field in kind.model_fields.items()))
            raise ConfigError(config_file, key, f"unknown key; allowed are type, {allowed}") from error
        if first["type"] == "missing":
            raise ConfigError(config_file, key, "must be there") from error
        raise ConfigError(config_file, key, _PASSWORD.sub(r"\1\2…", first["msg"] + _shown(first["input"]))) from None


def _shown(value: object) -> str:
    """Show what an operator wrote; not a whole table, in which somebody else's key may hold a secret."""
    return f" (got {value!r})" if isinstance(value, str | int | float) else ""


def open_loader(issuers: Issuers, issuer: Issuer, config_file: str, clock: Clock) -> tuple[Loader, LoaderOptions]:
    """Make a CA's loader, and return its options too; nothing is read yet. Raises ConfigError."""
    factory = loader_class(issuer, config_file)
    options = check_options(factory.Options, issuer.config.source.options, issuer.name, config_file)
    siblings = [
        other
        for other in issuers
        if other.id != issuer.id
        and other.config.source.type == issuer.config.source.type
        and options.shared_key is not None
        and _shared_key(factory, other, config_file) == options.shared_key
    ]
    loader: Loader = factory(options, issuer, siblings, clock)
    _check_unassigned(loader, issuer, config_file)
    return loader, options


def _check_unassigned(loader: Loader, issuer: Issuer, config_file: str) -> None:
    """Refuse an answer for unassigned serials that this source cannot justify; raises ConfigError."""
    unassigned, allowed = issuer.config.ocsp.unassigned, ""
    if loader.lists_issued and unassigned == "good":
        allowed = "what it does not list was not issued, and is not good"
    elif not loader.lists_issued and unassigned in ("unknown", "revoked"):
        allowed = 'it lists the revoked alone, so that others may well be issued: "unauthorized", or in private "good"'
    if allowed:
        key = f"ca[{issuer.name}].ocsp.unassigned"
        raise ConfigError(config_file, key, f"must not be {unassigned!r} with this source ({loader.name}): {allowed}")


def _shared_key(factory: Any, issuer: Issuer, config_file: str) -> str | None:
    return check_options(factory.Options, issuer.config.source.options, issuer.name, config_file).shared_key
