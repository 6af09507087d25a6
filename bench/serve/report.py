"""Write docs/performance.md and its plot from bench/results/*.json and performance.in.md; measures nothing.

    .venv/bin/python -m bench.serve.report [--results DIR] [--output FILE] [--check]

performance.in.md is written by hand; where it says ``{{name}}`` on a line of its own, a table is put. Results of other
benchmarks beside serve.json are known by what is in them. ``--check`` writes nothing and exits 1 if a file is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.serve import figures
from bench.serve.figures import TITLES, Results, Target
from bench.serve.machine import ROOT
from bench.serve.plot import draw

TEMPLATE = Path(__file__).with_name("performance.in.md")
NOTE = "<!-- Written by `python -m bench.serve.report`; edit bench/serve/performance.in.md instead. -->\n"
BUSY = 0.5  # load average from which a run was not alone on the machine
NOT_MEASURED = "Not measured yet: `make bench`.\n"


def read_results(directory: Path) -> dict[str, Any]:
    """Return every JSON file of a folder, by its name without suffix."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))}


# --- the parts --------------------------------------------------------------------------------------------------------


def machine_part(serve: Results) -> str:
    """Return where the numbers come from."""
    if not serve:
        return NOT_MEASURED
    machine, parameters = serve["machine"], serve["parameters"]
    modified = ", with changes that were not committed" if serve["modified"] else ""
    quick = " **A quick run, whose numbers mean nothing.**" if parameters["quick"] else ""
    if parameters["load_before"] > BUSY:
        quick += f" **The machine was not quiet: load {parameters['load_before']:.1f} before the start.**"
    lines = [
        f"Measured on {serve['date']} at commit `{serve['commit'][:12]}`{modified}: {machine['cpu']}, "
        f"{machine['cores']} cores{' of a virtual machine' if machine['hypervisor'] else ''}, "
        f"{machine['memory_gb']:g} GB, {machine['system']}, Linux {machine['kernel']}. {parameters['certificates']:,} "
        f"certificates, {parameters['rounds']} rounds of {parameters['seconds']:g} s, {parameters['connections']} "
        f"connections.{quick}",
        "",
        *(f"- {name}: {version}" for name, version in serve["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def targets_part(results: dict[str, Any]) -> str:
    """Return the figures to reach, and what they came to."""
    lines = ["| what | wanted | measured | |", "|---|---|---|---|"]
    for target in [*figures.targets(results.get("serve", {})), *other_targets(results)]:
        verdict = {True: "reached", False: "**missed**", None: "–"}[target.reached]
        lines.append(f"| {target.what} | {target.wanted} | {target.got} | {verdict} |")
    return "\n".join(lines) + "\n"


def rates_part(serve: Results) -> str:
    """Return a table for each load."""
    if not serve.get("loads"):
        return NOT_MEASURED
    lines: list[str] = []
    for load in serve["loads"].values():
        against = "answers per CPU second" if load["pinned"] else "answers a second"
        lines += [f"### {load['title'][0].upper()}{load['title'][1:]}", "", load["note"], ""]
        lines += [
            f"| | answers a second | cores used | per CPU second | of all processes | {against}, × nginx |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name in figures.contenders_of(load):
            ratio = figures.ratio(load, name, figures.BASE)
            cores = figures.median(load, name, lambda run: run["cpu_seconds"] / run["seconds"])
            rate, per_cpu, per_cpu_all = (
                f"{figures.median(load, name, measure):,.0f}"
                for measure in (figures.per_second, figures.per_cpu_second, figures.per_cpu_second_all)
            )
            lines.append(f"| {TITLES[name]} | {rate} | {cores:.2f} | {per_cpu} | {per_cpu_all} | {ratio or '–'} |")
        lines.append("")
    return "\n".join(lines)


def latency_part(serve: Results) -> str:
    """Return the table of latencies."""
    rows = figures.latency_rows(serve)
    if not rows:
        return NOT_MEASURED
    lines = [
        "| load | | sent a second | p50 µs | p90 µs | p99 µs | p99.9 µs | longest µs | unanswered |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for share, name, row in rows:
        columns = " | ".join(_micros(row[key]) for key in ("p50_us", "p90_us", "p99_us", "p999_us", "max_us"))
        unanswered = f"{row['unanswered'].most:.0f}"
        lines.append(f"| {share:.0%} | {TITLES[name]} | {row['rate'].median:,.0f} | {columns} | {unanswered} |")
    return "\n".join(lines) + "\n"


def _micros(spread: figures.Spread) -> str:
    return f"{spread.median:,.0f} ({spread.least:,.0f}–{spread.most:,.0f})"


def losses_part(results: dict[str, Any]) -> str:
    """Return where others are faster, and what was missed."""
    serve = results.get("serve", {})
    if not serve:
        return NOT_MEASURED
    lines = [f"- {line}" for line in figures.losses(serve)]
    every = [*figures.targets(serve), *other_targets(results)]
    lines += [f"- missed: {one.what}: {one.got}, wanted {one.wanted}" for one in every if one.reached is False]
    return "\n".join(lines or ["- Nowhere in these loads."]) + "\n"


def presigning_part(hsm: dict[str, Any]) -> str:
    """Return where the time of presigning goes."""
    columns = [name for name in ("p256-1", "p256-2", "p256-0", "rsa2048-1") if name in hsm]
    if not columns:
        return NOT_MEASURED
    titles = {
        "p256-1": "P-256, one session",
        "p256-2": "P-256, two",
        "p256-0": "P-256 in a file",
        "rsa2048-1": "RSA-2048, one",
    }
    lines = [
        "| µs of CPU an answer | " + " | ".join(titles[name] for name in columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for step in hsm[columns[0]]["phases_us"]:
        lines.append(f"| {step} | " + " | ".join(f"{hsm[name]['phases_us'][step]:.1f}" for name in columns) + " |")
    token = [f"{hsm[name]['token_us']:.1f}" if hsm[name]["sessions"] else "–" for name in columns]
    lines += [f"| the token's own process | {' | '.join(token)} |", ""]
    for name in columns:
        one = hsm[name]
        lines.append(
            f"- {titles[name]}: {one['per_second']:,.0f} answers a second, {one['per_cpu_second']:,.0f} per CPU second, "
            f"{one['ratio']:.2f} ({min(one['ratios']):.2f}–{max(one['ratios']):.2f}) × the bare loop's {one['raw_per_cpu_second']:,.0f}."
        )
    if (slow := hsm.get("slow")) is not None:
        one, many = (slow["rates"][key] for key in sorted(slow["rates"], key=int))
        lines.append(
            f"- 2 ms more a signature: {one:,.0f} a second with one session, {many:,.0f} with {slow['sessions']}."
        )
    if (whole := hsm.get("million")) is not None:
        lines.append(
            f"- A million P-256 answers, two sessions: {whole['seconds']:.0f} s; the presigner takes {whole['presigner_kb'] / 1000:.0f} MB "
            f"at most, the token's process {whole['token_kb'] / 1000:.0f} MB."
        )
    return "\n".join(lines) + "\n"


def crl_serving_part(found: dict[str, Any]) -> str:
    """Return how large files are served, and what that costs the answers beside it."""
    if "fast" not in found or "slow" not in found:
        return NOT_MEASURED

    def ratio(one: dict[str, float]) -> str:
        return f"{one['median']:.2f} ({one['least']:.2f}–{one['most']:.2f})"

    lines = ["| workers | octets a second, × nginx | per CPU second, × nginx |", "|--:|--:|--:|"]
    for workers, one in found["fast"].items():
        lines.append(f"| {workers} | {ratio(one['mb_s_ratio'])} | {ratio(one['mb_cpu_s_ratio'])} |")
    slow = found["slow"]
    lines += [
        "",
        f"{slow['clients']} clients at {slow['rate_each'] / 1e6:g} MB/s each: the worker has {slow['resident_mb']:.0f} MB, and "
        f"{slow['added_mb']:.1f} MB more while they download {slow['mb_s']['median']:.0f} MB/s. Its hot OCSP answers meanwhile:",
        "",
        "| | × alone | × beside the same downloads from nginx |",
        "|---|--:|--:|",
    ]
    titles = {"rate": "answers a second", "cpu_us": "CPU an answer", "p50_us": "p50", "p90_us": "p90", "p99_us": "p99"}
    for name, title in titles.items():
        lines.append(f"| {title} | {ratio(slow[f'{name}_to_alone'])} | {ratio(slow[f'{name}_to_nginx'])} |")
    return "\n".join(lines) + "\n"


# --- results of other benchmarks ---------------------------------------------------------------------------------------


def other_targets(results: dict[str, Any]) -> Iterator[Target]:
    """Return the figures in the other files: those we know, and those that a file lists as ``figures`` itself.

    Such an entry has ``what``, ``value``, ``unit``, and ``at_least`` or ``at_most``.
    """
    for name, result in results.items():
        if name == "serve" or not isinstance(result, dict):
            continue
        if "first_load" in result:
            seconds, rows = result["first_load"]["seconds"], result["rows"]
            yield _target(f"{rows:,} statuses from an index.txt into Redis", seconds, "s", at_most=10 * rows / 1e6)
        for size in result.get("results", ()):
            if isinstance(size, dict) and "bytes_per_certificate" in size:
                what = f"Redis memory per certificate, {size['certificates']:,} of them"
                yield _target(what, size["bytes_per_certificate"], "B", at_most=220)
        if "rate_kept" in (verdict := result.get("verdict") or {}):
            yield _target("rate of ready answers left under floods", verdict["rate_kept"], "×", at_least=0.5)
            yield _target("99th percentile under floods", verdict["p99_ms"], "ms", at_most=20)
        for entry in result.get("figures", ()):
            bounds = {key: entry[key] for key in ("at_least", "at_most") if key in entry}
            yield _target(entry["what"], entry["value"], entry["unit"], **bounds)


def _target(
    what: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Target:
    if at_least is not None:
        return Target(what, f"at least {at_least:g} {unit}", f"{value:g} {unit}", value >= at_least)
    if at_most is not None:
        return Target(what, f"at most {at_most:g} {unit}", f"{value:g} {unit}", value <= at_most)
    return Target(what, "–", f"{value:g} {unit}", None)


# --- the document -----------------------------------------------------------------------------------------------------


def render(results: dict[str, Any]) -> str:
    """Put the parts where the template wants them."""
    serve = results.get("serve", {})
    parts: dict[str, Callable[[], str]] = {
        "machine": lambda: machine_part(serve),
        "targets": lambda: targets_part(results),
        "rates": lambda: rates_part(serve),
        "latency": lambda: latency_part(serve),
        "presigning": lambda: presigning_part(results.get("hsm", {})),
        "crl_serving": lambda: crl_serving_part(results.get("crl_serve", {})),
        "losses": lambda: losses_part(results),
        "plot": lambda: "![Answers per CPU second, nginx = 1](performance.svg)\n" if serve.get("loads") else "",
    }
    text = TEMPLATE.read_text("utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}\n", part())
    return NOTE + text


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve.report")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results = read_results(options.results)
    files = {options.output: render(results)}
    if results.get("serve", {}).get("loads"):
        files[options.output.with_suffix(".svg")] = draw(results["serve"])
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if options.check:
        sys.exit(f"stale: {', '.join(path.name for path in stale)}" if stale else 0)
    for path in stale:
        path.write_text(files[path], "utf-8")


if __name__ == "__main__":
    main()
