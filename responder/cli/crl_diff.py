"""``revocast crl diff``: what came, went and changed between two CRLs (docs/crl-tools.md)."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from fastpath.crl_decode import EntryError
from responder.cli.crl_named import NamedCRL, crl_named, progress
from responder.cli.crl_show import entry_fields, entry_text
from responder.clock import format_utc
from responder.crl.diff import Difference, combined_differences, differences, idp_of, not_combinable
from responder.errors import OperatorError

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A CRL: file or URL.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The CRL to compare it with.")],
    delta: Annotated[
        str | None, typer.Option(help="A delta CRL: A combined with it, as clients do, is compared with B.")
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Only count.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; before it one for each difference, a line each.")
    ] = False,
) -> None:
    """Compare two CRLs of any size and order. Exit code 1: their entries, issuers or scopes differ."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(crl_named(where)) for where in (before, after))
        third = None if delta is None else stack.enter_context(crl_named(delta))
        if third is not None:
            for reason in not_combinable(first.head, third.head):
                raise OperatorError(f"{third.name}: cannot be combined with {first.name}: {reason} (RFC 5280 §5.2.4)")
        heads = _head_differences(first, second)
        counts: Counter[str] = Counter()
        told = stack.enter_context(progress("comparing", sum(one.size for one in (first, second, third) if one)))
        try:
            readers = [one.entries(told) for one in (first, third, second) if one is not None]
            found = differences(*readers) if third is None else combined_differences(*readers)
            for one in found:
                counts[_kind(one)] += 1
                if not summary:
                    typer.echo(json.dumps(_fields(one)) if as_json else _text(one))
        except EntryError as error:
            raise OperatorError(f"an entry cannot be read: {error}") from error
    fields = {**{kind: counts[kind] for kind in _SIGNS}, "head": heads}
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        _print_summary(fields, first, second, third)
    decisive = any(heads[key][0] != heads[key][1] for key in ("issuer", "scope"))
    raise typer.Exit(1 if counts.total() or decisive else 0)


def _head_differences(first: NamedCRL, second: NamedCRL) -> dict[str, list[Any]]:
    """Return what both heads say, side by side."""
    return {
        "issuer": [one.head.parts.issuer_der.hex() for one in (first, second)],
        "scope": [[der.hex() for der in idp_of(one.head)] for one in (first, second)],
        "crlNumber": [one.head.number for one in (first, second)],
        "thisUpdate": [format_utc(one.head.this_update) for one in (first, second)],
        "nextUpdate": [
            None if one.head.next_update is None else format_utc(one.head.next_update) for one in (first, second)
        ],
    }


def _kind(difference: Difference) -> str:
    if difference.before is None:
        return "added"
    return "removed" if difference.after is None else "changed"


def _text(difference: Difference) -> str:
    """Spell a difference in a line, as diff does; of a changed entry the old one and the new one."""
    said = [entry_text(one) for one in (difference.before, difference.after) if one is not None]
    return f"{_SIGNS[_kind(difference)]} {'  →  '.join(said)}"


def _fields(difference: Difference) -> dict[str, Any]:
    sides = {"before": difference.before, "after": difference.after}
    found = {side: entry_fields(one) for side, one in sides.items() if one is not None}
    return {"difference": _kind(difference), **found}


def _print_summary(fields: dict[str, Any], first: NamedCRL, second: NamedCRL, third: NamedCRL | None) -> None:
    before = first.name if third is None else f"{first.name} combined with {third.name}"
    typer.echo(f"before  {before}: CRL {fields['head']['crlNumber'][0]}, thisUpdate {fields['head']['thisUpdate'][0]}")
    typer.echo(
        f"after   {second.name}: CRL {fields['head']['crlNumber'][1]}, thisUpdate {fields['head']['thisUpdate'][1]}"
    )
    for key, name in (("issuer", "issuers"), ("scope", "issuingDistributionPoints")):
        one, other = fields["head"][key]
        if one != other:
            typer.echo(f"the {name} differ")
    typer.echo(", ".join(f"{fields[kind]:,} {kind}" for kind in _SIGNS))
