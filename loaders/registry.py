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
from loaders.issued import WithIssuedList
from responder.clock import Clock
from responder.config import SourceConfig
from responder.errors import ConfigError
from responder.issuers import Issuer, Issuers

GROUP = "revocast.loaders"
# Of a URL, up to the last @, since a password may hold one too; and of its parameters.
_PASSWORD = re.compile(
    r"(://[^\s/:@'\"]*:).*(?=@)|((?:password|passwd|pwd|secret|token)(?:=|%3D))[^&;\s'\"]*", re.IGNORECASE
)


def loader_class(issuer: Issuer, config_file: str, key: str = "source") -> Any:
    """Return the class of a CA's loader: it makes a ``loaders.base.Loader``; raises ConfigError.

    ``key``: of which of the CA's two, ``source`` or ``issued``.
    """
    source: SourceConfig = getattr(issuer.config, key)
    name = source.type
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:  # somebody else's module may do anything
            said = f"the loader {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
            raise ConfigError(config_file, f"ca[{issuer.name}].{key}.type", " ".join(said.split())) from error
    known = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"
    raise ConfigError(
        config_file, f"ca[{issuer.name}].{key}.type", f"no loader {name!r} is installed; there are: {known}"
    )


def check_options(
    kind: type[LoaderOptions], options: Mapping[str, Any], issuer: str, config_file: str, place: str = "source"
) -> LoaderOptions:
    """Check the keys of a CA's ``source``, or ``issued``; raises ConfigError that names the first wrong one, and what is allowed."""
    try:
        return kind.model_validate(dict(options), context={"base": Path(config_file).resolve().parent, "place": place})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([f"ca[{issuer}].{place}", *(str(part) for part in first["loc"])])
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
    """Make a CA's loader, and return its options too; nothing is read yet. Raises ConfigError.

    Of a CA with a list of the issued beside its source it is one loader of both, whose max_shrink is the list's.
    """
    loader, options = _open(issuers, issuer, config_file, clock, "source")
    if issuer.config.issued is not None:
        listing, of_list = _open(issuers, issuer, config_file, clock, "issued")
        _check_beside(loader, options, listing, of_list, issuer, config_file)
        loader = WithIssuedList(loader, listing, of_list, issuer, clock)
        soonest = min(options.reconcile, of_list.reconcile)
        options = options.model_copy(update={"max_shrink": of_list.max_shrink, "reconcile": soonest, "poll": None})
    _check_unassigned(loader, issuer, config_file)
    return loader, options


def parts_of(loader: Loader, issuer: Issuer) -> list[tuple[str, Loader]]:
    """Return the loaders that a CA's loader is made of, each with its type."""
    if isinstance(loader, WithIssuedList) and issuer.config.issued is not None:
        return [(issuer.config.source.type, loader.revoked), (issuer.config.issued.type, loader.issued)]
    return [(issuer.config.source.type, loader)]


def _open(issuers: Issuers, issuer: Issuer, config_file: str, clock: Clock, key: str) -> tuple[Loader, LoaderOptions]:
    source: SourceConfig = getattr(issuer.config, key)
    factory = loader_class(issuer, config_file, key)
    options = check_options(factory.Options, source.options, issuer.name, config_file, key)
    siblings = [
        other
        for other in issuers
        if other.id != issuer.id
        and options.shared_key is not None
        and any(
            beside is not None
            and beside.type == source.type
            and check_options(factory.Options, beside.options, other.name, config_file, place).shared_key
            == options.shared_key
            for place, beside in (("source", other.config.source), ("issued", other.config.issued))
        )
    ]
    loader: Loader = factory(options, issuer, siblings, clock)
    return loader, options


def _check_beside(
    loader: Loader, options: LoaderOptions, listing: Loader, of_list: LoaderOptions, issuer: Issuer, config_file: str
) -> None:
    """Refuse a pair of sources that does not go together; raises ConfigError."""
    key, wrong = f"ca[{issuer.name}].issued", ""
    if not getattr(loader, "takes_issued_list", False):
        wrong = f"goes with a source of type crl, which lists the revoked alone, not with {issuer.config.source.type}"
    elif not listing.lists_issued:
        wrong = "lists the revoked alone, and must list what was issued"
    elif "compare" in of_list.model_fields_set:
        key, wrong = f"{key}.compare", "stands in source, and compares both"
    elif "max_shrink" in options.model_fields_set:
        key, wrong = (
            f"ca[{issuer.name}].source.max_shrink",
            "stands in issued: what is no longer on a CRL stays revoked",
        )
    if wrong:
        raise ConfigError(config_file, key, wrong)


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
