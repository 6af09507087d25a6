"""Says whether a database finds by an index what changed: without one each poll costs it a scan of the whole table.

For ``revocast check``, through the entry point ``revocast.services``: responder imports no loader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from loaders.database import IncrementalDatabaseLoader
from loaders.registry import open_loader, parts_of
from responder.clock import SystemClock
from responder.config import Config
from responder.errors import SourceUnavailable
from responder.issuers import Issuers
from responder.store.redis_store import Finding

_FROM = re.compile(r"\bFROM\s+([\w.\"`\[\]]+)", re.IGNORECASE)


def source_findings(config: Config, config_file: Path) -> list[Finding]:
    """Look at the source of each CA that is asked for changes in a database; raises ConfigError."""
    findings: list[Finding] = []
    issuers = Issuers.from_config(config, str(config_file))
    for issuer in issuers:
        loader, _ = open_loader(issuers, issuer, str(config_file), SystemClock())
        for kind, part in parts_of(loader, issuer):
            if isinstance(part, IncrementalDatabaseLoader):
                subject = f"{kind} of {issuer.name}"
                try:
                    without = sorted(set(unindexed(part)))
                except SourceUnavailable as error:
                    findings.append(Finding("error", subject, str(error)))
                    continue
                if without:
                    text = f"{', '.join(without)} without an index: each poll reads the whole table; make one, or set poll to minutes"
                    findings.append(Finding("warning", subject, text))
                else:
                    findings.append(Finding("ok", subject, "can be read"))
    return findings


def unindexed(loader: IncrementalDatabaseLoader) -> Iterator[str]:
    """Yield ``table.column`` for each by which changes are looked for, and with which no index begins; raises SourceUnavailable."""
    with loader.reading() as connection:
        statement, _ = loader.statement(connection)
        narrowed = loader.changed_since(statement, int(SystemClock().now()))
        inspector = sa.inspect(connection)
        tables = {name.lower(): name for name in inspector.get_table_names()}
        already = {str(column) for column in _columns(statement.whereclause)}
        for column in _columns(narrowed.whereclause):
            table = _table_of(column, narrowed)
            if str(column) in already or table.lower() not in tables:
                continue  # nobody can tell of an expression, a view, or another schema's table
            name = tables[table.lower()]
            names = {one["name"].lower() for one in inspector.get_columns(name)}
            begins = [index["column_names"][:1] for index in inspector.get_indexes(name)]
            key = inspector.get_pk_constraint(name).get("constrained_columns", [])[:1]
            first = {str(one).lower() for one in [*key, *(one for found in begins for one in found)]}
            if column.name.lower() in names - first:
                yield f"{name}.{column.name}"


def _columns(clause: Any) -> list[sa.ColumnClause[Any]]:
    """Return the columns that a condition names."""
    found = visitors.iterate(clause) if clause is not None else ()
    return [one for one in found if isinstance(one, sa.ColumnClause) and one.table is not None]


def _table_of(column: sa.ColumnClause[Any], statement: sa.Select[Any]) -> str:
    """Return the name of a column's table; of a query of the configuration that of its first, where it has one."""
    if isinstance(column.table, sa.TableClause):
        return str(column.table.name)
    found = _FROM.search(str(statement))
    return found[1].rpartition(".")[2].strip('"`[]') if found is not None else ""
