"""What floods leave of the ready answers: their rate and their latency, undisturbed and with four floods at once.

    .venv/bin/python -m bench.isolation [--seconds 5] [--rounds 3] [--json FILE] [--profile FILE]

One worker has a core to itself; everything else (Redis, presigner, supervisor, wrk, the probe, the floods) shares the other
one. The floods are programs of a process each, as fast as their closed loop lets them be (flood.c):

- nonces: eight connections ask with a nonce, each another one, which has to be signed live;
- foreign: eight connections ask about another CA's certificates;
- garbage: eight connections at a time send random octets, broken HTTP, or huge heads, and are ended by the server;
- trickle: ten thousand connections send an octet every ten seconds. The server ends each after ``http.header_timeout`` (10 s
  by default), and it is opened again at once.

Rate: wrk, 64 connections, hot GET. Latency: a probe at a constant rate, from the moment a request was due, which sleeps
in between. wrk and the probe have a better priority (nice -10 for root, else 0) than the floods (nice 10), since a generator
that waits for its core would be counted as a slow server; how long it waited all the same is reported. Every flood runs alone, too: what the worker's time goes to. Target: all at once,
at least half of the undisturbed rate, and a 99th percentile under 20 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.serve import processes
from bench.serve.corpus import Corpus, RequestFiles
from bench.serve.machine import describe_commit, describe_machine
from tests.server import Revocast, ca_section

WAITED_MOST = 0.02  # of the time, that the worker may wait for its core; above it the figures mean little
RATE_SHARE = 0.5  # of the undisturbed rate that must be left
P99_MS = 20.0
CERTIFICATES = 4_000
NONCES = 50_000
PIECES = 2_000
FLOOD_CONNECTIONS = 8
TRICKLE_CONNECTIONS = 10_000
WRK_CONNECTIONS = 64
PROBE_CONNECTIONS = 32
PROBE_RATE = 2_000
FLOOD_NICE = 10
# Only root may do better than 0; nobody else is refused for that.
PREFERRED = ("nice", "-n", "-10") if os.geteuid() == 0 else ()
SETTLE_S = 1.0  # from a flood's start until it is measured
HERE = Path(__file__).parent
FLOODS = {"nonces": "requests", "foreign": "requests", "garbage": "pieces", "trickle": "trickle"}


# --- what is sent ---------------------------------------------------------------------------------------------------


def write_pieces(prefix: Path) -> None:
    """Write garbage in the form of a RequestFiles: a third each of random octets, broken HTTP and huge heads."""
    chance = random.Random(5)
    broken = (
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    )
    kinds = (
        # An empty line at its end, so that what looks like a request line by chance is not waited for.
        lambda: chance.randbytes(chance.randrange(1, 2_000)) + b"\r\n\r\n",
        lambda: chance.choice(broken),
        lambda: (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: %s\r\n" % (b"a" * 100) * chance.randrange(120, 400) + b"\r\n"
        ),
    )
    offsets = array("I", [0])
    with prefix.with_suffix(".requests").open("wb") as file:
        for number in range(PIECES):
            file.write(kinds[number % len(kinds)]())
            offsets.append(file.tell())
    prefix.with_suffix(".offsets").write_bytes(offsets.tobytes())
    prefix.with_suffix(".order").write_bytes(array("I", range(PIECES)).tobytes())


def write_all(corpus: Corpus) -> dict[str, RequestFiles]:
    """Write the requests of the ready answers and of each flood."""
    hot, nonces, foreign = corpus.hot(), corpus.with_nonces(NONCES), corpus.foreign()
    files = {
        "hot": corpus.write("hot", hot, range(len(hot)), "GET"),
        "nonces": corpus.write("nonces", nonces, range(len(nonces)), "POST"),
        "foreign": corpus.write("foreign", foreign, range(len(foreign)), "POST"),
        "trickle": corpus.write("trickle", hot[:1], range(1), "GET"),
    }
    write_pieces(corpus.directory / "garbage")
    files["garbage"] = RequestFiles(corpus.directory / "garbage", PIECES, ())
    return files


# --- who sends it ---------------------------------------------------------------------------------------------------


class Isolated(Revocast):
    """With room for all connections of the floods, in a configuration that is as by default otherwise."""

    def write_config(self) -> None:
        """Write the configuration."""
        super().write_config()
        text = self.config.read_text()
        self.config.write_text(text.replace("[http]\n", f"[http]\nmax_connections = {TRICKLE_CONNECTIONS + 5_000}\n"))


class Room:
    """The server, and the programs beside it, each on its core."""

    def __init__(self, corpus: Corpus, directory: Path, flood: Path) -> None:
        section = ca_section("bench", corpus.ca, corpus.index)
        self._server = Isolated(directory, [section], head='[log]\nlevel = "warning"\n')
        self.files = write_all(corpus)
        self._flood = flood
        self.worker_core, self.other_core = processes.cores()

    def start(self) -> None:
        """Start it, put everything on its core, and have every certificate in the worker's table."""
        self._server.start()
        processes.wait_until_quiet(self._family)
        (self.worker,) = [pid for pid in self._family() if "worker" in processes.command_line(pid)]
        processes.pin([pid for pid in self._family() if pid != self.worker], [self.other_core])
        processes.pin([self.worker], [self.worker_core])
        os.sched_setaffinity(0, [self.other_core])  # and all that is started from here
        self.wrk(2)

    def _family(self) -> list[int]:
        assert self._server.process is not None
        return processes.descendants(self._server.process.pid)

    @property
    def log(self) -> str:
        """What the server wrote."""
        return self._server.log

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    def worker_seconds(self) -> float:
        """Return the seconds that the worker has had on its core so far."""
        return sum(processes.cpu_times([self.worker]).values()) / 1e9

    def worker_waited(self) -> float:
        """Return the seconds that the worker has waited for its core so far: somebody else is on it."""
        return int(Path(f"/proc/{self.worker}/schedstat").read_text().split()[1]) / 1e9

    def wrk(self, seconds: int) -> dict[str, Any]:
        """Ask for ready answers as fast as they come."""
        port, files = self._server.http[1], self.files["hot"]
        before = self.worker_seconds()
        done = subprocess.run(
            [
                *PREFERRED,
                *("wrk", "-t", "1", "-c", str(WRK_CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s"),
                *("-s", str(HERE / "serve" / "wrk.lua"), f"http://127.0.0.1:{port}/", "--"),
                *(str(files.prefix), "0", str(files.sent), "again", ""),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 30,
        )
        used = self.worker_seconds() - before
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
        return result | {
            "rate": result["requests"] / result["seconds"],
            "worker_seconds": used,
            "worker_share": used / result["seconds"],
            "rate_per_worker_second": result["requests"] / used,
        }

    def program(self, mode: str, files: RequestFiles, connections: int, seconds: float, *more: str) -> list[str]:
        """Return the command of a flood, or of the probe."""
        port = self._server.http[1]
        return [str(self._flood), mode, str(port), str(files.prefix), str(connections), f"{seconds:g}", *more]

    def probe(self, seconds: float) -> dict[str, Any]:
        """Ask for ready answers at a constant rate."""
        command = self.program("probe", self.files["hot"], PROBE_CONNECTIONS, seconds, str(PROBE_RATE))
        done = subprocess.run([*PREFERRED, *command], capture_output=True, text=True, check=True, timeout=seconds + 30)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    @contextmanager
    def flooded(self, names: Sequence[str], most_seconds: float) -> Iterator[Callable[[], dict[str, Any]]]:
        """Have these floods run during the block, which is given a function that tells what they came to so far."""
        running: dict[str, subprocess.Popen[str]] = {}
        try:
            for name in names:
                count = TRICKLE_CONNECTIONS if name == "trickle" else FLOOD_CONNECTIONS
                command = [
                    "nice",
                    "-n",
                    str(FLOOD_NICE),
                    *self.program(FLOODS[name], self.files[name], count, most_seconds),
                ]
                running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for name, flood in running.items():
                if name != "garbage":  # whose connections are perhaps never all open
                    read_line(flood, "ready")
            time.sleep(SETTLE_S)

            def so_far() -> dict[str, Any]:
                for flood in running.values():
                    flood.send_signal(signal.SIGUSR1)
                return {name: json.loads(read_line(flood, "{")) for name, flood in running.items()}

            yield so_far
            for name, flood in running.items():
                assert flood.poll() is None, f"{name} was over too early"
        finally:
            for flood in running.values():
                flood.terminate()
            for flood in running.values():
                flood.communicate(timeout=30)


def read_line(flood: subprocess.Popen[str], start: str) -> str:
    """Read a flood's lines up to the one that begins like this."""
    assert flood.stdout is not None
    for line in flood.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"{flood.args} ended before it printed {start}")


# --- what is measured -----------------------------------------------------------------------------------------------


def measure(room: Room, names: Sequence[str], seconds: int, profile: Path | None = None) -> dict[str, Any]:
    """Measure ready answers, by rate and by latency, and the worker's time without them, under these floods."""
    with room.flooded(names, 4 * seconds + 60) as so_far:
        counts = [so_far()]
        waited = room.worker_waited()
        before, began = room.worker_seconds(), time.monotonic()
        time.sleep(max(1.0, seconds / 2))
        used = (room.worker_seconds() - before) / (time.monotonic() - began)
        counts.append(so_far())
        with profiled(room.worker, seconds, profile):
            rate = room.wrk(seconds)
        counts.append(so_far())
        latency = room.probe(seconds)
        counts.append(so_far())
        waited = room.worker_waited() - waited
    floods = {
        name: {
            when: per_second(name, counts[at][name], counts[at + 1][name])
            for at, when in enumerate(("alone", "beside_wrk", "beside_probe"))
        }
        | {"in_all": counts[-1][name]}
        for name in names
    }
    return {
        "floods": floods,
        "worker_share_without_ready": used,
        "worker_waited_share": waited / (time.monotonic() - began),
        "rate": rate,
        "latency": latency,
    }


def per_second(name: str, before: dict[str, Any], after: dict[str, Any]) -> float:
    """Return the requests, pieces or octets a second of a flood between two of its reports."""
    what = {"trickle": "octets_sent", "garbage": "ended"}.get(name, "answered")
    return float((after[what] - before[what]) / (after["seconds"] - before["seconds"]))


@contextmanager
def profiled(pid: int, seconds: int, file: Path | None) -> Iterator[None]:
    """Have py-spy look at a process meanwhile, where a file is given."""
    if file is None:
        yield
        return
    command = ["py-spy", "record", "--native", "-r", "200", "-d", str(seconds), "-f", "raw", "-o", str(file)]
    spy = subprocess.Popen([*command, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    spy.wait(60)


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of what a row of the table says."""
    return {
        "rate": statistics.median(one["rate"]["rate"] for one in rounds),
        "rate_per_worker_second": statistics.median(one["rate"]["rate_per_worker_second"] for one in rounds),
        "worker_share": statistics.median(one["rate"]["worker_share"] for one in rounds),
        "worker_share_without_ready": statistics.median(one["worker_share_without_ready"] for one in rounds),
        "wrk_p99_ms": statistics.median(one["rate"]["p99_us"] for one in rounds) / 1e3,
        **{
            f"probe_{name}_ms": statistics.median(one["latency"][f"{name}_us"] for one in rounds) / 1e3
            for name in ("p50", "p99", "max")
        },
        "worker_waited_share": statistics.median(one["worker_waited_share"] for one in rounds),
        "probe_waited_share": statistics.median(one["latency"]["waited"] / one["latency"]["seconds"] for one in rounds),
        "probe_failed": sum(one["latency"]["due"] - one["latency"]["answered"] for one in rounds),
    }


def flood_rate(rounds: Sequence[dict[str, Any]], name: str, when: str) -> float:
    """Return what a flood came to a second."""
    return statistics.median(one["floods"][name][when] for one in rounds)


def print_table(results: dict[str, Any], console: Console) -> None:
    """Print a row for each case."""
    table = Table(title="Ready answers under floods", title_justify="left")
    columns = (
        "answers/s",
        "kept",
        "per worker s",
        "p50 ms",
        "p99 ms",
        "wrk's p99",
        "waited: worker",
        "probe",
        "worker without",
        "floods/s without",
        "beside wrk",
    )
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="left" if "s without" in column or "beside" in column else "right")
    base = results["summary"]["undisturbed"]
    for name, row in results["summary"].items():
        rounds = results["rounds"][name]
        floods = {
            when: "\n".join(f"{flood} {flood_rate(rounds, flood, when):,.0f}" for flood in rounds[0]["floods"])
            for when in ("alone", "beside_wrk")
        }
        table.add_row(
            name,
            f"{row['rate']:,.0f}",
            f"{row['rate'] / base['rate']:.2f}",
            f"{row['rate_per_worker_second']:,.0f}",
            f"{row['probe_p50_ms']:.2f}",
            f"{row['probe_p99_ms']:.2f}",
            f"{row['wrk_p99_ms']:.2f}",
            f"{row['worker_waited_share']:.1%}",
            f"{row['probe_waited_share']:.1%}",
            f"{row['worker_share_without_ready']:.0%}",
            floods["alone"],
            floods["beside_wrk"],
        )
    console.print(table)


def main() -> None:
    """Measure, print, and say whether the targets were met."""
    parser = argparse.ArgumentParser(description="Ready answers under four floods at once.")
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="", help="floods to measure alone, with commas; absent: each")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", type=Path, help="py-spy's raw stacks of the worker, under all floods at once")
    arguments = parser.parse_args()
    console = Console(stderr=True, width=170)
    cases = {"undisturbed": (), **{name: (name,) for name in FLOODS}, "all": tuple(FLOODS)}
    if arguments.cases:
        wanted = {"undisturbed", "all", *arguments.cases.split(",")}
        cases = {name: names for name, names in cases.items() if name in wanted}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rc-bench-")))
        flood = directory / "flood"
        subprocess.run(["gcc", "-O2", "-o", str(flood), str(HERE / "flood.c")], check=True)
        room = Room(Corpus(directory, CERTIFICATES), directory / "run", flood)
        stack.callback(room.stop)
        room.start()
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
        try:
            for number in range(arguments.rounds):
                for name, names in cases.items():
                    console.print(f"round {number + 1}: {name}")
                    profile = arguments.profile if name == "all" and number == 0 else None
                    rounds[name].append(measure(room, names, arguments.seconds, profile))
        except Exception:
            console.print(room.log[-4000:])
            raise
    base, under = summary(rounds["undisturbed"]), summary(rounds["all"])
    verdict = {
        "rate_kept": under["rate"] / base["rate"],
        "rate_wanted": RATE_SHARE,
        "p99_ms": under["probe_p99_ms"],
        "p99_ms_wanted_below": P99_MS,
    }
    results = {
        "machine": describe_machine(),
        **describe_commit(),
        "python": sys.version.split()[0],
        "worker_core": room.worker_core,
        "core_of_all_else": room.other_core,
        "connections": {
            "wrk": WRK_CONNECTIONS,
            "probe": PROBE_CONNECTIONS,
            "each flood": FLOOD_CONNECTIONS,
            "trickle": TRICKLE_CONNECTIONS,
        },
        "probe_rate": PROBE_RATE,
        "flood_nice": FLOOD_NICE,
        "verdict": verdict,
        "summary": {name: summary(done) for name, done in rounds.items()},
        "rounds": rounds,
    }
    print_table(results, console)
    waited = max(row["worker_waited_share"] for row in results["summary"].values())
    if waited > WAITED_MOST:
        console.print(f"The worker had to wait for its core {waited:.0%} of the time: the machine is not quiet enough.")
    rate_met, latency_met = verdict["rate_kept"] >= RATE_SHARE, verdict["p99_ms"] < P99_MS
    console.print(f"rate kept {verdict['rate_kept']:.2f}, wanted {RATE_SHARE}: {'met' if rate_met else 'MISSED'}")
    console.print(f"p99 {verdict['p99_ms']:.2f} ms, wanted under {P99_MS:g}: {'met' if latency_met else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
