"""From raw rounds to figures: ratios within a round, their median and spread; the targets of DESIGN §8."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Results = dict[str, Any]
OURS = "revocast"
BASE = "nginx"
TITLES = {
    "floor": "floor (C, epoll)",
    "nginx": "nginx, a file",
    "revocast": "Revocast",
    "cfssl": "cfssl ocspserve",
    "openssl": "openssl ocsp",
    "openssl-multi": "openssl ocsp -multi 2",
}


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}–{self.most:.2f})"


def per_second(run: Results) -> float:
    """Answers by the wall clock."""
    return float(run["answers"] / run["seconds"])


def per_cpu_second(run: Results) -> float:
    """Answers for each second of the server's CPU: of Revocast, the workers'."""
    return float(run["answers"] / run["cpu_seconds"])


def per_cpu_second_all(run: Results) -> float:
    """The same with all processes of the installation."""
    return float(run["answers"] / run["cpu_seconds_all"])


def measure_of(load: Results) -> Any:
    """Return what a load is judged by: CPU where server and generator have a core each, else the clock."""
    return per_cpu_second if load["pinned"] else per_second


def contenders_of(load: Results) -> list[str]:
    """Return who took part, in the order of the table."""
    return list(load["rounds"][0])


def ratio(load: Results | None, one: str, other: str) -> Spread | None:
    """Return how one compares with another, within each round; None where they did not meet."""
    if load is None or not {one, other} <= set(contenders_of(load)):
        return None
    measure = measure_of(load)
    return Spread.of([measure(done[one]) / measure(done[other]) for done in load["rounds"]])


def median(load: Results, name: str, measure: Any) -> float:
    """Return the median of a contender's rounds."""
    return statistics.median(measure(done[name]) for done in load["rounds"])


@dataclass(frozen=True)
class Target:
    """A figure of DESIGN §8, and what it came to."""

    what: str
    wanted: str
    got: str
    reached: bool | None  # None: not measured


# What, load, against whom, at least.
RATES = (
    ("hot GET, one worker, per CPU second", "get-one", "nginx", 1.25),
    ("hot POST, one worker, per CPU second (nginx: GET)", "post-one", "nginx", 1.2),
    ("hot GET by the ordinary route, per CPU second", "ordinary", "nginx", 0.85),
    ("misses answered from Redis, per CPU second of the worker", "cold", "nginx", 0.35),
    ("hot answers a second, client on the same cores", "peers", "cfssl", 4.0),
    ("live answers (nonce) a second, all on the same cores", "nonce", "openssl-multi", 1.0),
)


def targets(results: Results) -> list[Target]:
    """Return each rate to reach, and whether it was."""
    found = []
    for what, load, other, least in RATES:
        got = ratio(results.get("loads", {}).get(load), OURS, other)
        found.append(
            Target(
                what,
                f"{least:g} × {TITLES[other]}",
                f"{got} ×" if got else "not measured",
                None if got is None else got.median >= least,
            )
        )
    return found


def losses(results: Results) -> list[str]:
    """Return a line for every contender that was faster than Revocast, and for every target that was missed."""
    lines = []
    for load in results.get("loads", {}).values():
        for name in contenders_of(load):
            got = ratio(load, OURS, name)
            if name != OURS and got is not None and got.median < 1:
                lines.append(f"{load['title']}: {got} × {TITLES[name]}")
    return lines


def latency_rows(results: Results) -> list[tuple[float, str, dict[str, Spread]]]:
    """Return for each share of capacity and contender the spread of every percentile, in microseconds."""
    runs = results.get("latency", {}).get("runs", [])
    keys = ("rate", "achieved", "p50_us", "p90_us", "p99_us", "p999_us", "max_us", "unanswered")
    rows = []
    for share, name in dict.fromkeys((run["share"], run["contender"]) for run in runs):
        mine = [run for run in runs if (run["share"], run["contender"]) == (share, name)]
        rows.append((share, name, {key: Spread.of([run[key] for run in mine]) for key in keys}))
    return rows


def print_tables(results: Results, console: Console) -> None:
    """Print rates, latency, targets and losses on the terminal."""
    for load in results["loads"].values():
        table = Table(title=load["title"], title_justify="left")
        for column in ("", "a second", "a CPU second", "of all processes", f"× {BASE}"):
            table.add_column(column, justify="left" if not column else "right", no_wrap=True)
        for name in contenders_of(load):
            against = ratio(load, name, BASE)
            columns = [median(load, name, measure) for measure in (per_second, per_cpu_second, per_cpu_second_all)]
            table.add_row(TITLES[name], *(f"{value:,.0f}" for value in columns), str(against or ""))
        console.print(table)
    for share, name, row in latency_rows(results):
        console.print(
            f"{share:.0%} of capacity, {TITLES[name]}: p50 {row['p50_us'].median:.0f} µs, p99 {row['p99_us'].median:.0f}, "
            f"p99.9 {row['p999_us'].median:.0f}, max {row['max_us'].most:.0f} (at {row['achieved'].median:,.0f}/s)"
        )
    for target in targets(results):
        verdict = {True: "reached", False: "MISSED", None: "–"}[target.reached]
        console.print(f"{target.what}: {target.got}; wanted {target.wanted}: {verdict}")
    if lost := losses(results):
        console.print("Slower than: " + "; ".join(lost))
