"""Serving a large CRL: as fast as nginx serves the same file, and to many slow clients beside OCSP.

    .venv/bin/python -m bench.crl_serve [--part fast|slow|all] [--rounds 5] [--seconds 2] [--json FILE]

*fast*: clients that take the file as quickly as it comes (downloads.c), from nginx with sendfile and from Revocast, in turn
within each round, with as many workers of each; on all cores, client included. *slow*: one worker on a core of its own
answers hot OCSP GETs, alone and while 200 clients download at 1 MB/s each: its resident memory, its answers a second
(wrk), and their latency at a fixed rate (openloop.c). The clients themselves take their part of the two cores from the
generator, so the same is done while nginx, on the worker's core, serves the downloads instead. Targets: 0.9 × nginx's octets a second; at most 50 MB more memory; OCSP
slowed by at most 20 %. Given are medians over the rounds of ratios within a round, with the least and the most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.serve import machine, processes, verify
from bench.serve.corpus import Corpus, RequestFiles, http_request
from bench.serve.generators import run_open_loop, run_wrk
from bench.serve.ours import Ours
from bench.serve.rivals import CONNECTIONS, Job, Rival, compiled
from responder.config import load_config
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.published import Published
from responder.issuers import Issuers
from responder.process import die_with_parent

SIZE = 50_000_000
FAST_CLIENTS = 16
SLOW_CLIENTS, SLOW_RATE = 200, 1_000_000
WORKERS = (1, 2)
SETTLE_S = 1.5  # after which slow clients have filled their buffers
OPEN_LOOP_SHARE = 0.5  # of the rate that was reached alone
CERTIFICATES = 4_000
LEAST_THROUGHPUT, MOST_MEMORY_MB, MOST_SLOWED = 0.9, 50, 0.2
RESULTS = machine.ROOT / "bench" / "results" / "crl_serve.json"


class NginxFile(Rival):
    """nginx as one serves large files with: sendfile, whole packets, descriptors kept open."""

    name = "nginx"
    title = "nginx"
    CONFIG = """
daemon off;
worker_processes {workers};
pid nginx.pid;
error_log log error;
events {{ worker_connections 4096; use epoll; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    types {{ application/pkix-crl crl; }}
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port} reuseport backlog=1024; location / {{ alias {directory}/; }} }}
}}
"""

    def command(self, job: Job) -> list[str]:
        """Write file and configuration."""
        self.directory.chmod(0o755)
        (self.directory / "bench.crl").write_bytes(job.body)
        config = self.CONFIG.format(directory=self.directory, port=self.port, workers=job.workers)
        (self.directory / "nginx.conf").write_text(config)
        return ["nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf"), "-e", "log"]

    def version(self) -> str:
        """Return its version."""
        return processes.first_line(["nginx", "-v"]).removeprefix("nginx version: ")


class OursWithCRL(Ours):
    """Workers alone (`revocast serve`), with a file in the depot where the CRL would be."""

    def __init__(self, corpus: Corpus, directory: Path, body: bytes) -> None:
        """``body`` is what is served as the CRL."""
        super().__init__(corpus, directory)
        self._server.command = "serve"
        key = corpus.ca.key_path
        self._server.sections = [
            section + f'crl = {{ issue = true, key = "{key}" }}\n' for section in self._server.sections
        ]
        self._server.write_config()
        self._put(body)

    def _put(self, body: bytes) -> None:
        config = load_config(self._server.config)
        (issuer,) = Issuers.from_config(config, str(self._server.config))
        now = int(time.time())
        depot = Depot(config.data_dir / DIRECTORY)
        fresh = depot.fresh(issuer.name)
        fresh.write_bytes(body)
        sha256 = hashlib.sha256(body).hexdigest()
        terms = (
            issuer.name,
            issuer.id,
            "full",
            1,
            None,
            now,
            now + 86_400,
            now + 43_200,
            len(body),
            sha256,
            0,
            False,
            "",
        )
        depot.put(fresh, Published(*terms))


def download(binary: Path, port: int, path: str, clients: int, rate: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start downloads.c; pinned to nothing."""
    command = [str(binary), str(port), path, str(SIZE), str(clients), str(rate), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_parent())


def outcome(client: subprocess.Popen[bytes], within: float) -> dict[str, Any]:
    """Return what downloads.c printed; raises RuntimeError where a connection failed."""
    said, _ = client.communicate(timeout=within + 20)
    result: dict[str, Any] = json.loads(said)
    if result["failed"]:
        raise RuntimeError(f"downloads failed: {result}")
    return result


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def measure_fast(
    nginx: NginxFile, ours: OursWithCRL, binary: Path, body: bytes, rounds: int, seconds: float
) -> dict[str, Any]:
    """Compare octets a second, and octets a CPU second, with each number of workers."""
    found: dict[str, Any] = {}
    paths = {"nginx": "/bench.crl", "revocast": "/crl/bench.crl"}
    contenders = {"nginx": nginx, "revocast": ours}
    for workers in WORKERS:
        job = Job(body, pinned=False, workers=workers, closing=False)
        done: list[dict[str, Any]] = []
        with ExitStack() as stack:
            for contender in contenders.values():
                stack.callback(contender.stop)
                contender.start(job)
            for number in range(-1, rounds):
                one = {}
                for name in sorted(contenders, reverse=number % 2 == 0):
                    contender = contenders[name]
                    before = processes.cpu_times(contender.pids())
                    result = outcome(download(binary, contender.port, paths[name], FAST_CLIENTS, 0, seconds), seconds)
                    cpu = processes.cpu_seconds(before, processes.cpu_times(contender.pids()))
                    one[name] = {
                        "mb_s": result["octets"] / result["seconds"] / 1e6,
                        "mb_cpu_s": result["octets"] / cpu / 1e6,
                    }
                print(f"  {workers} workers, round {number + 1}: {one}", file=sys.stderr)
                if number >= 0:  # the first warms up
                    done.append(one)
        found[str(workers)] = {
            "rounds": done,
            **{
                f"{what}_ratio": spread([one["revocast"][what] / one["nginx"][what] for one in done])
                for what in ("mb_s", "mb_cpu_s")
            },
        }
    return found


def resident_mb(pid: int) -> float:
    """Return a process's resident memory, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no process {pid}")


@contextmanager
def downloads(binary: Path, port: int, path: str, seconds: float, results: list[dict[str, Any]]) -> Iterator[None]:
    """Have the slow clients download while the block runs."""
    client = download(binary, port, path, SLOW_CLIENTS, SLOW_RATE, seconds)
    processes.pin([client.pid], {processes.cores()[0]})
    time.sleep(SETTLE_S)
    try:
        yield
        results.append(outcome(client, seconds))
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()


def measure_slow(
    nginx: NginxFile,
    ours: OursWithCRL,
    binary: Path,
    open_loop: Path,
    files: RequestFiles,
    body: bytes,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Compare a worker's OCSP answers alone, beside its own slow downloads, and beside nginx's."""
    job = Job(body, pinned=True, workers=1, closing=False)
    ours.start(job)
    nginx.start(job)
    (pid,) = ours.workers()
    results: list[dict[str, Any]] = []

    def rate() -> dict[str, float]:
        before = processes.cpu_times([pid])
        said = run_wrk(ours.port, files, seconds, connections=CONNECTIONS, pinned=True)
        cpu = processes.cpu_seconds(before, processes.cpu_times([pid]))
        return {"rate": said["requests"] / said["seconds"], "cpu_us": cpu / said["requests"] * 1e6}

    def latency(at: float) -> dict[str, float]:
        said = run_open_loop(open_loop, ours.port, files, at, seconds, connections=CONNECTIONS)
        return {name: said[name] for name in said if name.startswith("p")}

    def beside(work: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
        found = {"alone": work()}
        for name, port, path in (("own", ours.port, "/crl/bench.crl"), ("nginx", nginx.port, "/bench.crl")):
            with downloads(binary, port, path, SETTLE_S + seconds + 1, results):
                if name == "own":
                    added.append(resident_mb(pid) - resident)
                found[name] = work()
        return found

    added: list[float] = []
    resident = resident_mb(pid)
    rate()
    resident = resident_mb(pid)
    done = []
    for number in range(rounds):
        rates = beside(rate)
        at = rates["alone"]["rate"] * OPEN_LOOP_SHARE
        latencies = beside(lambda at=at: latency(at))  # type: ignore[misc]
        done.append({name: rates[name] | latencies[name] for name in rates} | {"open_loop_rate": at})
        print(f"  slow, round {number + 1}: {done[-1]}, {max(added):.1f} MB more", file=sys.stderr)
    nginx.stop()
    measured = [name for name in done[0]["alone"] if name != "cpu_us"]
    return {
        "rounds": done,
        "clients": SLOW_CLIENTS,
        "rate_each": SLOW_RATE,
        "mb_s": spread([one["octets"] / one["seconds"] / 1e6 for one in results]),
        "resident_mb": resident,
        "added_mb": max(added),
        **{
            f"{name}_to_{other}": spread([one["own"][name] / one[other][name] for one in done])
            for name in ("cpu_us", *measured)
            for other in ("alone", "nginx")
        },
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("fast", "slow", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    body = random.Random(1).randbytes(SIZE)
    with tempfile.TemporaryDirectory(prefix="rc-crl-") as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        corpus = Corpus(directory / "corpus", CERTIFICATES)
        ours = OursWithCRL(corpus, directory / "ours", body)
        ours.load_and_sign(lambda _what, _done: None)
        stack.callback(ours.close)
        ours.open()
        source = Path(__file__).with_name("downloads.c")
        binary = directory / "downloads"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)], check=True)
        nginx = NginxFile(corpus, directory)
        found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
        if options.part in ("fast", "all"):
            found["fast"] = measure_fast(nginx, ours, binary, body, options.rounds, options.seconds)
        if options.part in ("slow", "all"):
            files = corpus.write("hot", corpus.hot(), range(len(corpus.hot())), "GET")
            requests = [http_request(corpus.request_der(asked), "POST") for asked in corpus.hot()[:64]]
            verify.exchange(ours.port, requests)
            open_loop = compiled("openloop", directory)
            found["slow"] = measure_slow(nginx, ours, binary, open_loop, files, body, options.rounds, options.seconds)
        found |= {
            "figures": list(figures_of(found)),
            "machine": machine.describe_machine(),
            "versions": machine.describe_versions([nginx, ours]),
            **machine.describe_commit(),
        }
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    report(found)


def figures_of(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the figures to reach, for docs/performance.md."""
    for workers, one in found.get("fast", {}).items():
        what = f"a CRL of {SIZE // 10**6} MB, octets a second, {workers} worker{'s' if workers != '1' else ''}"
        yield {
            "what": what,
            "value": round(one["mb_s_ratio"]["median"], 2),
            "unit": "× nginx",
            "at_least": LEAST_THROUGHPUT,
        }
    if slow := found.get("slow"):
        beside = f"beside {slow['clients']} downloads at {slow['rate_each'] // 10**6} MB/s"
        yield {
            "what": f"memory more {beside}",
            "value": round(slow["added_mb"], 1),
            "unit": "MB",
            "at_most": MOST_MEMORY_MB,
        }
        rate, cpu = (round(slow[f"{name}_to_alone"]["median"], 2) for name in ("rate", "cpu_us"))
        yield {"what": f"OCSP answers a second {beside}", "value": rate, "unit": "× alone", "at_least": 1 - MOST_SLOWED}
        yield {"what": f"CPU an OCSP answer {beside}", "value": cpu, "unit": "× alone", "at_most": 1 + MOST_SLOWED}


def report(found: dict[str, Any]) -> None:
    """Print the figures beside their targets."""

    def ratio(one: dict[str, float]) -> str:
        return f"{one['median']:.2f} ({one['least']:.2f} to {one['most']:.2f})"

    for workers, one in found.get("fast", {}).items():
        print(f"{workers} workers: {ratio(one['mb_s_ratio'])} × nginx, per CPU second {ratio(one['mb_cpu_s_ratio'])}")
    if slow := found.get("slow"):
        print(f"memory: {slow['added_mb']:.1f} MB more than {slow['resident_mb']:.0f} MB")
        print(f"OCSP beside {slow['clients']} downloads, against alone, and against the same downloads from nginx:")
        for name in ("rate", "cpu_us", "p50_us", "p90_us", "p99_us", "p999_us"):
            print(f"  {name}: {ratio(slow[f'{name}_to_alone'])}, {ratio(slow[f'{name}_to_nginx'])}")


if __name__ == "__main__":
    os.umask(0o022)
    main()
