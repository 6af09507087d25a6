"""Measure Revocast and its rivals, and print what came out.

    .venv/bin/python -m bench.serve [--rounds 5] [--seconds 5] [--certificates N] [--loads A,B] [--contenders A,B] [--quick]

Each round runs every contender of a load in turn, another one first each time, so that what disturbs the machine for a
while disturbs all. Before that, each contender's answers are checked; a wrong one ends the run, as does any error while
measuring. Raw results go to ``--json``; ``python -m bench.serve.report`` makes docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.serve import figures, loads, machine, processes, verify
from bench.serve.corpus import Corpus, RequestFiles, http_request
from bench.serve.generators import run_closed_loop, run_open_loop, run_wrk
from bench.serve.loads import Load, Plan
from bench.serve.ours import Ours
from bench.serve.rivals import CONNECTIONS, Cfssl, Contender, Floor, Job, NginxFile, OpensslMulti, OpensslOCSP, compiled

RIVALS = {rival.name: rival for rival in (Floor, NginxFile, Cfssl, OpensslOCSP, OpensslMulti)}
RESULTS = machine.ROOT / "bench" / "results" / "serve.json"
UNAUTHORIZED = bytes.fromhex("30030a0106")  # RFC 6960 §4.2.1: an OCSPResponse of responseStatus unauthorized
SIZE_TOLERANCE = 0.02  # mean octets of a response, measured against checked
SIZE_TOLERANCE_ONE = 0.05  # where one answer is asked for alone, against the mean of the checked
LATENCY_LOADS = (0.5, 0.9)  # of the capacity
LATENCY_OF = ("nginx", "revocast")
WARM_UP_S = 1.0
FULL = {"rounds": 5, "seconds": 5.0, "certificates": 1_000_000}
QUICK = {"rounds": 1, "seconds": 1.0, "certificates": 5_000}

console = Console(stderr=True)


class Bench:
    """One run of the harness: the corpus, the contenders, and what was measured."""

    def __init__(self, corpus: Corpus, plan: Plan, contenders: dict[str, Contender], directory: Path) -> None:
        """``directory`` is for compiled programs."""
        self.corpus = corpus
        self.plan = plan
        self.contenders = contenders
        self.directory = directory
        self.answer = b""  # one of Revocast's, which the file servers serve

    def fetch_answers(self, port: int) -> None:
        """Take the hot answers from Revocast: the rivals serve the same octets."""
        requests = [http_request(self.corpus.request_der(asked), "POST") for asked in self.corpus.hot()]
        answers = [body for _, body in verify.exchange(port, requests)]
        self.corpus.write_answers(answers)
        self.answer = sorted(answers, key=len)[len(answers) // 2]

    def job(self, load: Load) -> Job:
        """Return what a load wants of a server."""
        body = UNAUTHORIZED if load.is_error else self.answer
        return Job(body, load.pinned, load.workers, load.closing, load.express)

    def measure(self, load: Load) -> dict[str, Any]:
        """Run one load: start its contenders, check them, measure them round by round, stop them."""
        names = [name for name in load.contenders if name in self.contenders]
        files, job = dict.fromkeys(names, load.prepare(self.corpus, self.plan, load.name)), self.job(load)
        if load.nginx_by_get and "nginx" in names:
            files["nginx"] = loads.BY_NAME["get-hot"].prepare(self.corpus, self.plan, f"{load.name}-by-get")
        rounds: list[dict[str, Any]] = []
        with ExitStack() as stack:
            sizes = {}
            for name in names:
                contender = self.contenders[name]
                stack.callback(contender.stop)
                contender.start(job)
                sizes[name] = verify.check(contender, self.corpus, files[name], job)
                if not load.cold:
                    warm_up = self._stretch(load, files[name], 0)
                    seconds = self.plan.seconds if load.stretches else min(WARM_UP_S, self.plan.seconds)
                    self._run(load, contender, files[name], warm_up, seconds)
            for number in range(self.plan.rounds):
                turn = number % len(names)
                done = {}
                for name in names[turn:] + names[:turn]:
                    contender = self.contenders[name]
                    if load.cold:
                        contender.forget()
                    stretch = self._stretch(load, files[name], number + 1)
                    done[name] = self._run(load, contender, files[name], stretch, self.plan.seconds)
                    _refuse_errors(load, contender, done[name], sizes[name])
                    console.print(f"  {number + 1}/{self.plan.rounds} {contender.title:<24}{_line(done[name])}")
                rounds.append({name: done[name] for name in names})
        return {
            "title": load.title,
            "note": load.note,
            "pinned": load.pinned,
            "workers": load.workers,
            "answer_bytes": sizes,
            "rounds": rounds,
        }

    def _stretch(self, load: Load, files: RequestFiles, number: int) -> tuple[int, int] | None:
        if not load.stretches:
            return None
        length = files.sent // (self.plan.rounds + 1)
        return number * length, length

    def _run(
        self,
        load: Load,
        contender: Contender,
        files: RequestFiles,
        stretch: tuple[int, int] | None,
        seconds: float,
    ) -> dict[str, Any]:
        """Run the generator once, and count the server's CPU meanwhile."""
        pids, everything = contender.pids(), contender.all_pids()
        before, before_all = processes.cpu_times(pids), processes.cpu_times(everything)
        where = {"connections": CONNECTIONS, "pinned": load.pinned, "mark": load.mark}
        if load.wrk and contender.bears_wrk:
            result = run_wrk(
                contender.port, files, seconds, stretch=stretch, once=load.cold, single=load.single, **where
            )
        else:
            result = run_closed_loop(compiled("openloop", self.directory), contender.port, files, seconds, **where)
        result["answers"] = result["marked"] if load.mark else result["requests"]
        result["cpu_seconds"] = processes.cpu_seconds(before, processes.cpu_times(pids))
        result["cpu_seconds_all"] = processes.cpu_seconds(before_all, processes.cpu_times(everything))
        return result

    def measure_latency(self, capacities: dict[str, float]) -> dict[str, Any]:
        """Send hot GETs at fixed shares of each contender's own capacity."""
        load = loads.BY_NAME["get-hot"]
        names = [name for name in LATENCY_OF if name in self.contenders]
        files, job = load.prepare(self.corpus, self.plan, load.name), self.job(load)
        binary = compiled("openloop", self.directory)
        runs: list[dict[str, Any]] = []
        with ExitStack() as stack:
            for name in names:
                stack.callback(self.contenders[name].stop)
                self.contenders[name].start(job)
                self._run(load, self.contenders[name], files, None, WARM_UP_S)
            for number in range(self.plan.rounds):
                for share in LATENCY_LOADS:
                    for name in names if number % 2 == 0 else reversed(names):
                        port, rate = self.contenders[name].port, capacities[name] * share
                        run = run_open_loop(binary, port, files, rate, self.plan.seconds, connections=CONNECTIONS)
                        if run["failed"]:
                            raise RuntimeError(f"{name} at {rate:.0f}/s: {run['failed']} connections failed")
                        runs.append({"round": number, "contender": name, "share": share, **run})
                        console.print(
                            f"  {number + 1}/{self.plan.rounds} {name:<10}{share:4.0%}  p99 {run['p99_us']:,.0f} µs"
                        )
        return {"capacities": capacities, "connections": CONNECTIONS, "runs": runs}

    def capacities(self, measured: dict[str, Any]) -> dict[str, float]:
        """Return what each answers a second on its core, by the wall clock, in the hot GET load."""
        rounds = measured["get-hot"]["rounds"]
        return {
            name: statistics.median(done[name]["answers"] / done[name]["seconds"] for done in rounds)
            for name in LATENCY_OF
            if name in rounds[0]
        }


def _refuse_errors(load: Load, contender: Contender, result: dict[str, Any], size: float) -> None:
    """End where anything but the checked answers came: a wrong answer may not make a number."""
    where = f"{contender.title}, {load.title}"
    if any(result["errors"].values()) or not result["answers"]:
        raise RuntimeError(f"{where}: errors, or no answers: {result}")
    mean = result["bytes"] / result["requests"]
    if not load.mark and abs(mean / size - 1) > (SIZE_TOLERANCE_ONE if load.single else SIZE_TOLERANCE):
        raise RuntimeError(f"{where}: responses of {mean:.1f} octets, and {size:.1f} when they were checked")


def _line(result: dict[str, Any]) -> str:
    rate, cpu = result["answers"] / result["seconds"], result["cpu_seconds"]
    return f"{rate:>9,.0f}/s {result['answers'] / cpu:>9,.0f}/CPU s {cpu / result['seconds']:>5.0%} of a core"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description="Revocast and its rivals, side by side.")
    parser.add_argument("--rounds", type=int, help="5 unless --quick")
    parser.add_argument("--seconds", type=float, help="of each run, 5 unless --quick; wrk takes whole seconds")
    parser.add_argument("--certificates", type=int, help="1 000 000 unless --quick")
    parser.add_argument("--loads", default=",".join([*loads.BY_NAME, "latency"]), help="with commas between")
    parser.add_argument("--contenders", default=",".join(["revocast", *RIVALS]), help="with commas between")
    parser.add_argument("--quick", action="store_true", help="one round of a second, 5 000 certificates: does it work?")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the raw results go")
    parser.add_argument(
        "--merge", action="store_true", help="keep the other loads that the JSON holds; each has its commit"
    )
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.loads, options.contenders = options.loads.split(","), options.contenders.split(",")
    for name in {*options.loads} - {*loads.BY_NAME, "latency"} | {*options.contenders} - {"revocast", *RIVALS}:
        parser.error(f"no load or contender {name}")
    return options


def main() -> None:
    """Measure what was asked for, write the JSON after each load, and print the tables."""
    options = _arguments()
    plan = Plan(options.rounds, options.seconds)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rc-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        console.print(f"a CA with {options.certificates:,} certificates")
        corpus = Corpus(directory, options.certificates)
        ours = Ours(corpus, directory / "revocast")
        with console.status("") as status:
            ours.load_and_sign(lambda phase, done: status.update(f"{phase} {done:,} of {options.certificates:,}"))
        stack.callback(ours.close)
        ours.open()
        contenders: dict[str, Contender] = {"revocast": ours} if "revocast" in options.contenders else {}
        contenders |= {name: RIVALS[name](corpus, directory) for name in options.contenders if name in RIVALS}
        bench = Bench(corpus, plan, contenders, directory)
        bench.fetch_answers(ours.port)
        result: dict[str, Any] = {
            "machine": machine.describe_machine(),
            "versions": machine.describe_versions(list(contenders.values())),
            **machine.describe_commit(),
            "parameters": {
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "certificates": options.certificates,
                "serials": corpus.fingerprint(),
                "connections": CONNECTIONS,
                "quick": options.quick,
                "load_before": load_before,  # runnable processes of others, over the minute before
            },
            "loads": {},
        }
        if options.merge:
            kept = json.loads(options.json.read_text())
            for kept_load in kept["loads"].values():
                kept_load.setdefault("commit", kept["commit"])
            result = kept | {"loads": kept["loads"]}
        for load_name in options.loads:
            if load_name == "latency":
                continue
            load = loads.BY_NAME[load_name]
            console.print(f"[bold]{load.title}[/bold]")
            result["loads"][load_name] = bench.measure(load) | machine.describe_commit()
            _write(options.json, result)
        if "latency" in options.loads and "get-hot" in result["loads"]:
            console.print("[bold]latency[/bold]")
            result["latency"] = bench.measure_latency(bench.capacities(result["loads"]))
            _write(options.json, result)
    figures.print_tables(result, Console(width=None if sys.stdout.isatty() else 120))


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
