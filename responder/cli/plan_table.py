"""The plan as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from responder.cli.plan import CAPlan, Plan

MIB = 1 << 20


def print_plan(plan: Plan) -> None:
    """Print the table, what does not fit, and what would help."""
    console = Console()
    table = Table("", *(escape(one.ca) for one in plan.ca), "in all")
    for title, cells, total in _rows(plan):
        table.add_row(title, *cells, total)
    console.print(table)
    for text in plan.problems:
        console.print(f"[bold red]does not fit:[/] {escape(text)}", soft_wrap=True, highlight=False)
    for text in plan.suggestions:
        console.print(f"[yellow]would help:[/] {escape(text)}", soft_wrap=True, highlight=False)
    for text in plan.notes:
        console.print(f"[cyan]note:[/] {escape(text)}", soft_wrap=True, highlight=False)
    if plan.fits:
        unknown = "; the key was not tried" if plan.rate == "unknown" else ""
        console.print(f"[green]fits[/]{unknown}", highlight=False)


def _rows(plan: Plan) -> list[tuple[str, list[str], str]]:
    def row(title: str, cell: str, total: str = "") -> tuple[str, list[str], str]:
        return title, [_cell(one, cell) for one in plan.ca], total

    bound = {None: "", 0: ", no maxmemory"}.get(
        plan.redis_maxmemory, f" of maxmemory {_size(plan.redis_maxmemory or 0)}"
    )
    return [
        row("certificates", "certificates", f"{sum(one.certificates for one in plan.ca):,}"),
        row("signatures for each", "signatures_each"),
        row("validity", "validity"),
        row("signed again after", "refreshed"),
        row("needed, signatures/s", "needed_per_s", f"{plan.needed_per_s:,.2f}"),
        row(f"the key, signatures/s ({plan.rate})", "key_per_s"),
        row("presigned, answers/s", "presigned_per_s"),
        row("utilisation", "utilisation", _share(plan.utilisation)),
        row("first whole signing", "first_signing_s", _time(plan.first_signing_s)),
        row("catching up after half a validity", "catch_up_s", _time(plan.catch_up_s)),
        row("certificates at most", "most_certificates", _number(plan.most_certificates)),
        row("Redis, bytes for each", "redis_bytes_each"),
        row("Redis", "redis", f"{_size(plan.redis_bytes)} with journals{bound}"),
        row(
            "a worker's table, for every answer",
            "table",
            f"{_size(plan.table_bytes)}; http.table_bytes {_size(plan.table_bytes_configured)}",
        ),
    ]


def _cell(one: CAPlan, name: str) -> str:
    match name:
        case "validity":
            return _time(one.validity_s)
        case "refreshed":
            least, most = map(_time, one.refreshed_after_s)
            return least if least == most else f"{least} to {most}"
        case "needed_per_s":
            return f"{one.needed_per_s:,.2f}"
        case "utilisation":
            return _share(one.utilisation)
        case "first_signing_s" | "catch_up_s":
            return _time(getattr(one, name))
        case "redis":
            return _size(one.redis_bytes)
        case "table":
            return _size(one.table_bytes)
        case _:
            return _number(getattr(one, name))


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def _size(value: float) -> str:
    return f"{value / MIB:,.1f} MiB"


def _time(seconds: float | None) -> str:
    """Spell a duration in its two largest units."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86_400
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{days:.1f} d"
