"""Presigning end to end against the bare token: from statuses in Redis to packed answers in Redis.

    .venv/bin/python -m bench.hsm [--rounds 5] [--answers 60000] [--million] [--json FILE]

Rivals run in turn, in the same rounds: a C loop over C_SignInit and C_Sign of the same SoftHSM token with as many sessions
(raw.c), and for software keys a loop of ``cryptography``. Compared are signatures per second of CPU of the processes
that sign: the presigner and the process that holds the token's sessions, or the C loop. Redis's own time is not counted.
A token whose signatures take 2 ms longer each (tests/pkcs11_spy.c) is measured by the wall, with 1 session and with 32.
``--million`` presigns a million P-256 answers with two sessions, and says how long and in how much memory. Nothing else
may run meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from bench.serve.machine import describe_commit, describe_machine
from responder.config import load_config
from responder.full_pass import HashedRow, PassTerms, apply_pass, map_buckets
from responder.issuers import Issuers
from responder.store.layout import bucket_number
from tests.pki import key_of, make_ca, make_signer
from tests.redis_fixture import RedisServer, start_redis
from tests.softhsm import SoftHSMToken, make_token, module_path

GOOD = "good exp=2049-12-31T23:59:59Z"
RAW_SECONDS = 3.0
SLOW_US = 2_000
SLOW_SESSIONS = 32
GROUP_BITS = 4
MECHANISMS = {"p256": (0x1041, 32), "rsa2048": (0x40, 220)}  # CKM_ECDSA of a digest, CKM_SHA256_RSA_PKCS of a message
TARGETS = {
    ("p256", 1): 0.8,
    ("p256", 2): 0.7,
    ("rsa2048", 1): 0.9,
    ("rsa2048", 2): 0.9,
    ("p256", 0): 0.7,
    ("rsa2048", 0): 0.7,
}
SLOW_TARGET = 24.0


class Bench:
    """A CA, a token, a Redis, and what is measured with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token: SoftHSMToken = make_token(directory / "softhsm")
        os.environ["SOFTHSM2_CONF"] = str(self.token.configuration)
        self.ca = make_ca(directory)
        self.raw = directory / "raw"
        self.spy = directory / "spy.so"
        tests = Path(__file__).parents[2] / "tests"
        for command in (
            ["gcc", "-O2", "-o", self.raw, Path(__file__).with_name("raw.c"), "-ldl", "-lpthread"],
            ["gcc", "-O2", "-shared", "-fPIC", "-o", self.spy, tests / "pkcs11_spy.c", "-ldl"],
        ):
            subprocess.run(command, check=True)
        for number, key_type in enumerate(MECHANISMS, 1):
            self.token.import_key(key_of(key_type, "ocsp"), key_type, bytes([number]))
        self.server: RedisServer = start_redis("7")

    def config(self, key_type: str, sessions: int, *, module: Path | None = None) -> Path:
        """Write the configuration of a key; ``sessions`` 0: the same key in a file."""
        make_signer(self.ca, key_type)
        key, options = "ocsp.key", ""
        if sessions:
            key = self.token.uri(key_type, module=module)
            options = f'pin_file = "{self.token.pin_file}"\nsessions = {sessions}\n'
        (self.directory / "index.txt").touch()
        path = self.directory / "revocast.toml"
        path.write_text(
            self.server.config_section()
            + '\n[[ca]]\nname = "corp"\ncertificate = "ca.pem"\nsource = { type = "openssl", path = "index.txt" }\n'
            + f'[ca.ocsp]\ncertificate = "ocsp.pem"\nkey = "{key}"\n{options}'
        )
        return path

    def load(self, config: Path, count: int) -> None:
        """Put so many good certificates into an empty Redis; they are all due."""
        self.server.client().flushall()
        (issuer,) = Issuers.from_config(load_config(config), str(config))
        grouped: list[list[HashedRow]] = [[] for _ in range(1 << GROUP_BITS)]
        for number in range(count):
            serial = b"\x5a" + hashlib.sha256(b"%d" % number).digest()[:15]
            hash_octets = hashlib.sha256(serial).digest()[-4:]
            grouped[bucket_number(hash_octets[3], GROUP_BITS)].append((hash_octets, serial, GOOD))
        with self.server.store() as store:
            now = int(time.time())
            store.ensure_ca(issuer.id, name="corp", subject="CN=corp", certificate=issuer.certificate_der)
            buckets = map_buckets(store, issuer.id, count)
            rows = [(number, GROUP_BITS, rows) for number, rows in enumerate(grouped)]
            for _ in apply_pass(store, issuer.id, buckets, rows, PassTerms(now, 0.0)):
                pass
            store.set_as_of(issuer.id, now)

    def presign(self, config: Path, *options: str) -> dict[str, Any]:
        """Presign in a process of its own."""
        command = [sys.executable, "-m", "bench.hsm.presign", str(config), *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800)
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    def loop(self, key_type: str, sessions: int) -> dict[str, Any]:
        """Run the C loop."""
        mechanism, octets = MECHANISMS[key_type]
        command = [self.raw, module_path(), self.token.pin, key_type, str(sessions)]
        command += [f"{mechanism:x}", str(octets), str(RAW_SECONDS)]
        done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, timeout=60)
        made, seconds, cpu = done.stdout.split()
        return {"made": int(made), "seconds": float(seconds), "cpu_seconds": float(cpu)}


def soft_loop(key_type: str) -> dict[str, Any]:
    """Sign with ``cryptography`` in a loop."""
    key: Any = key_of(key_type, "ocsp")
    arguments: tuple[Any, ...] = (ec.ECDSA(hashes.SHA256()),)
    if key_type == "rsa2048":
        arguments = (padding.PKCS1v15(), hashes.SHA256())
    message, made = b"m" * 220, 0
    began, cpu = time.monotonic(), time.thread_time()
    while time.monotonic() - began < RAW_SECONDS:
        key.sign(message, *arguments)
        made += 1
    return {"made": made, "seconds": time.monotonic() - began, "cpu_seconds": time.thread_time() - cpu}


def compare(bench: Bench, key_type: str, sessions: int, rounds: int, answers: int) -> dict[str, Any]:
    """Presign and loop in turn; returns the medians and the ratio of each round."""
    config = bench.config(key_type, sessions)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(bench.loop(key_type, sessions) if sessions else soft_loop(key_type))
        bench.load(config, answers)
        ours.append(bench.presign(config))
    bench.load(config, answers)
    phases = bench.presign(config, "--phases")
    ratios = [_rate(one) / _rate(other) for one, other in zip(ours, theirs, strict=True)]
    result = {
        "key": key_type,
        "sessions": sessions,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "per_cpu_second": statistics.median(map(_rate, ours)),
        "raw_per_cpu_second": statistics.median(map(_rate, theirs)),
        "per_second": statistics.median(one["made"] / one["seconds"] for one in ours),
        "raw_per_second": statistics.median(one["made"] / one["seconds"] for one in theirs),
        "phases_us": {name: 1e6 * seconds / phases["made"] for name, seconds in phases["phases"].items()},
        "token_us": 1e6 * (phases["cpu_seconds"] - phases["presigner_cpu_seconds"]) / phases["made"],
    }
    wanted = TARGETS[key_type, sessions]
    rival = f"a C loop with {sessions} session{'s' * (sessions > 1)}" if sessions else "cryptography's own loop"
    print(
        f"{key_type}: {result['per_cpu_second']:,.0f} answers per CPU second (wall {result['per_second']:,.0f}/s), "
        f"{result['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) x {rival} ({result['raw_per_cpu_second']:,.0f}; "
        f"wall {result['raw_per_second']:,.0f}/s); wanted {wanted}: {'met' if result['ratio'] >= wanted else 'MISSED'}"
    )
    for name, us in result["phases_us"].items():
        print(f"    {us:7.2f} us an answer: {name}")
    if sessions:
        print(f"    {result['token_us']:7.2f} us an answer: the token's own process")
    return result


def slow(bench: Bench, answers: int) -> dict[str, Any]:
    """Presign through a module that adds 2 ms to each C_Sign, with one session and with 32, by the wall."""
    orders = bench.directory / "orders"
    orders.mkdir(exist_ok=True)
    os.environ |= {"SPY_MODULE": str(module_path()), "SPY_DIRECTORY": str(orders)}
    (orders / "delay").write_text(f"{SLOW_US:x}")
    rates = {}
    for sessions, count in ((1, max(256, answers // 100)), (SLOW_SESSIONS, answers // 4)):
        config = bench.config("p256", sessions, module=bench.spy)
        bench.load(config, count)
        figures = bench.presign(config)
        rates[sessions] = figures["made"] / figures["seconds"]
    ratio = rates[SLOW_SESSIONS] / rates[1]
    print(
        f"2 ms more a signature: {SLOW_SESSIONS} sessions {rates[SLOW_SESSIONS]:,.0f}/s, {ratio:.1f} x one session's "
        f"{rates[1]:,.0f}/s; wanted {SLOW_TARGET}: {'met' if ratio >= SLOW_TARGET else 'MISSED'}"
    )
    return {"sessions": SLOW_SESSIONS, "rates": rates, "ratio": ratio}


def million(bench: Bench) -> dict[str, Any]:
    """Presign a million answers with two sessions."""
    config = bench.config("p256", 2)
    bench.load(config, 1_000_000)
    figures = bench.presign(config)
    print(
        f"a million P-256 answers, two sessions: {figures['seconds']:.0f} s; memory at most "
        f"{figures['presigner_kb'] / 1000:.0f} MB (presigner) and {figures['token_kb'] / 1000:.0f} MB (token's process)"
    )
    return figures


def figures(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what was wanted and what came of it, as docs/performance.md lists it."""
    for (key_type, sessions), wanted in TARGETS.items():
        if (result := results.get(f"{key_type}-{sessions}")) is not None:
            rival = f"a C loop over C_Sign, {sessions} session{'s' * (sessions > 1)}" if sessions else "cryptography"
            what = f"presigning per CPU second, {key_type.upper()}, × {rival}"
            yield {"what": what, "value": round(result["ratio"], 2), "unit": "×", "at_least": wanted}
    if (result := results.get("slow")) is not None:
        what = f"presigning with 2 ms more a signature: {SLOW_SESSIONS} sessions against one"
        yield {"what": what, "value": round(result["ratio"], 1), "unit": "×", "at_least": SLOW_TARGET}


def _rate(figures: dict[str, Any]) -> float:
    return float(figures["made"] / figures["cpu_seconds"])


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=60_000, help="in a round; RSA a tenth of it")
    parser.add_argument("--only", help="such as p256-1: one comparison; or slow")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": describe_machine(), **describe_commit()}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        try:
            runs: dict[str, Callable[[], Any]] = {
                f"{key_type}-{sessions}": lambda key_type=key_type, sessions=sessions: compare(
                    bench, key_type, sessions, options.rounds, options.answers // (1 if key_type == "p256" else 10)
                )
                for key_type, sessions in TARGETS
            }
            runs["slow"] = lambda: slow(bench, options.answers)
            if options.million:
                runs["million"] = lambda: million(bench)
            for name, run in runs.items():
                if options.only in (None, name):
                    results[name] = run()
        finally:
            bench.server.stop()
    results["figures"] = list(figures(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
