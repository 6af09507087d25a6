"""A CRL of a million entries, from Redis to a signed, checked and published file, against ``openssl ca -gencrl``.

    .venv/bin/python -m bench.crl [--entries 1000000] [--rounds 3] [--alone] [--beside ENTRIES] [--json FILE]

The same revoked serials lie in Redis's revoked index and in OpenSSL's index.txt; the key is the same P-256 key in a file. In each
round OpenSSL makes a CRL, then a process of the publisher issues a complete one with ``Series.now`` as ``revocast crl now``
does: snapshot, building, signing, all checks (among them the comparison with the store's records and with the CRL
before), fsync, depot. Both are measured from the outside for CPU and peak memory, and with the start of the process; the
publisher's own seconds are counted from when it begins to when the file is published, since the role runs all the
time. The first round has no CRL before; later ones compare with it. Then 100 certificates are revoked through the store,
and a delta CRL upon the last complete one is issued.

``--alone``: without OpenSSL, for ten million. ``--beside``: a CRL of another size is issued before each, so that both see the
same machine. In FILE results of other sizes stay. Targets (DESIGN): 8 × OpenSSL's speed, under 150 MB; ten million
within ten times that and the same memory; a delta of 100 within 100 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.serve.machine import describe_commit, describe_machine
from responder.clock import format_utc
from responder.store.layout import REVOKED_BITS, Layout, bucket_number, serial_hash
from tests.redis_fixture import RedisServer, start_redis
from tests.signing_room import GOOD, Room

REASONS = ("", "keyCompromise", "superseded", "cessationOfOperation", "affiliationChanged")
DELTA_ENTRIES = 100
RIVAL_OCTETS = 600  # of an entry, in OpenSSL's memory
ISSUE_OCTETS = 300  # of an entry, and more than its files take: the snapshot, the entries, this CRL and the one before
FIRST_DELTA_SERIAL = 1 << 140
CRL = 'crl = { issue = true, key = "ca.key", validity = "7d", every = "12h", delta_every = "1h", share = false, url = "http://crl.example-trust.com/corp.crl" }'
OPENSSL_CONFIG = """
[ca]
default_ca = corp
[corp]
database = index.txt
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_crl_days = 7
crl_extensions = extensions
unique_subject = no
[extensions]
authorityKeyIdentifier = keyid:always
"""


def revoked(entries: int) -> Iterator[tuple[bytes, int, str]]:
    """Yield serial, time of revocation and reason, always the same ones."""
    rng = random.Random(entries)
    now = int(time.time()) - 86_400
    for _ in range(entries):
        yield rng.randbytes(16).replace(b"\x00", b"\x01"), now - rng.randrange(300) * 86_400, rng.choice(REASONS)


def fill(server: RedisServer, ca: str, entries: int, index: Path | None) -> None:
    """Put the revoked into Redis's index, and into OpenSSL's."""
    layout, client = Layout(), server.client()
    lines = None if index is None else index.open("w")
    texts: dict[tuple[int, str], str] = {}  # there are 1500, and a million of each would be spelled
    gathered: defaultdict[str, list[str]] = defaultdict(list)
    keys = [layout.revoked(ca, number) for number in range(1 << REVOKED_BITS)]
    for count, (octets, at, reason) in enumerate(revoked(entries), 1):
        serial = (b"\x00" if octets[0] >= 0x80 else b"") + octets
        if (text := texts.get((at, reason))) is None:
            text = f"revoked {format_utc(at)}{' ' + reason if reason else ''} exp=2035-12-31T23:59:59Z"
            texts[at, reason] = text
        number = bucket_number(serial_hash(serial), REVOKED_BITS)
        gathered[keys[number]] += (serial.hex(), text)
        if lines is not None:
            utc = time.strftime("%y%m%d%H%M%SZ", time.gmtime(at))
            reason_field = f",{reason}" if reason else ""
            lines.write(f"R\t351231235959Z\t{utc}{reason_field}\t{octets.hex().upper()}\tunknown\t/CN={count}\n")
        if count % 200_000 == 0 or count == entries:
            pipeline = client.pipeline(transaction=False)
            for key, flat in gathered.items():
                pipeline.hset(key, items=flat)
            pipeline.execute()
            gathered.clear()
    if lines is not None:
        lines.close()


def touch_memory(directory: Path, octets: int) -> None:
    """Have the machine own the memory that files of so many octets are cached in.

    A virtual machine's host may take back what is free for some seconds (free page reporting), and hands it out when it is
    touched again, which takes ten times as long as writing there: 2 ms a megabyte were seen. A million's files fit into what
    the machine kept, ten million's do not. That is the host's speed, not the issue's.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        piece = bytes(1 << 20)
        for _ in range(octets >> 20):
            file.write(piece)


def measure(command: list[str | Path], directory: Path) -> tuple[dict[str, float], str]:
    """Run a command; returns wall-clock seconds, CPU seconds and peak memory, and what it wrote."""
    began = time.perf_counter()
    with (directory / "out").open("w+b") as out:
        process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=subprocess.STDOUT, env=os.environ)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {text[-2000:]}")
    used = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
    return used, text


def issued(directory: Path, kind: str) -> dict[str, Any]:
    """Have another process issue; returns what is known of it."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "bench.crl_issue", kind, directory / "revocast.toml"]
    os.environ["PYTHONPATH"] = str(root)
    used, text = measure(command, directory)
    return {**used, **json.loads(text.splitlines()[-1])}


def openssl(directory: Path) -> dict[str, Any]:
    """Have OpenSSL make a CRL of the same entries."""
    command = ["openssl", "ca", "-gencrl", "-config", "openssl.cnf", "-out", "openssl.crl"]
    used, _ = measure(list(command), directory)
    size = (directory / "openssl.crl").stat().st_size
    return {**used, "pem_bytes": size}


class Shop:
    """A CA with so many revoked in a Redis of its own; the same for OpenSSL where it is a rival."""

    def __init__(self, entries: int, directory: Path, *, rival: bool) -> None:
        self.entries = entries
        self.directory = directory
        self._server = start_redis()
        self._room = Room(self._server, directory, ca_options=CRL, now=int(time.time()) - 60)
        self._room.load(dict.fromkeys(range(FIRST_DELTA_SERIAL, FIRST_DELTA_SERIAL + DELTA_ENTRIES), GOOD))
        (directory / "openssl.cnf").write_text(OPENSSL_CONFIG)
        (directory / "crlnumber").write_text("01\n")
        fill(self._server, self._room.issuer.id, entries, directory / "index.txt" if rival else None)
        self._began = time.time() - 50

    def complete(self, at: int) -> dict[str, Any]:
        """Issue a complete CRL."""
        self._room.set_as_of(self._began + at)
        touch_memory(self.directory, self.entries * ISSUE_OCTETS)
        found = issued(self.directory, "full")
        show(f"revocast, {self.entries:,}", found)
        assert found["entries"] == self.entries
        return found

    def deltas(self, count: int) -> list[dict[str, Any]]:
        """Revoke some more, and issue delta CRLs of them."""
        for serial in range(FIRST_DELTA_SERIAL, FIRST_DELTA_SERIAL + DELTA_ENTRIES):
            self._room.change(serial, f"revoked {format_utc(time.time() - 5)} keyCompromise exp=2035-12-31T23:59:59Z")
        self._room.set_as_of(time.time() - 1)
        found = [issued(self.directory, "delta") for _ in range(count)]
        show(f"revocast, delta of {DELTA_ENTRIES} over {self.entries:,}", found[-1])
        assert all(one["entries"] == DELTA_ENTRIES for one in found)
        return found

    def close(self) -> None:
        """Stop everything."""
        self._room.close()
        self._server.stop()


def run(entries: int, rounds: int, *, rival: bool, beside: int | None) -> dict[str, Any]:
    """Measure one size; ``beside``: a smaller one, in turns with it."""
    with tempfile.TemporaryDirectory(prefix="revocast-bench-") as name, contextlib.ExitStack() as stack:

        def shop(size: int) -> Shop:
            directory = Path(name) / str(size)
            directory.mkdir()
            opened = Shop(size, directory, rival=rival)
            stack.callback(opened.close)
            return opened

        small = shop(beside) if beside else None
        return _run(shop(entries), small, rounds, rival=rival)


def _run(shop: Shop, small: Shop | None, rounds: int, *, rival: bool) -> dict[str, Any]:
    ours, theirs, smaller = [], [], []
    for at in range(rounds):
        if rival:
            touch_memory(shop.directory, shop.entries * RIVAL_OCTETS)
            theirs.append(openssl(shop.directory))
            show("openssl ca -gencrl", theirs[-1])
        if small is not None:
            smaller.append(small.complete(at))
        ours.append(shop.complete(at))
    deltas = shop.deltas(2 * rounds - 1)
    found: dict[str, Any] = {"entries": shop.entries, "revocast": ours, "delta": deltas}
    found["issue_seconds"] = statistics.median(one["issue_seconds"] for one in ours)
    found["peak_mb"] = max(one["peak_mb"] for one in ours)
    found["delta_seconds"] = statistics.median(one["issue_seconds"] for one in deltas)
    if small is not None:
        pairs = zip(ours, smaller, strict=True)
        times = sorted(one["issue_seconds"] / other["issue_seconds"] for one, other in pairs)
        found |= {"beside": small.entries, "smaller": smaller, "times_the_smaller": statistics.median(times)}
        found["spread"] = [times[0], times[-1]]
    if rival:
        found["openssl"] = theirs
        found["openssl_version"] = subprocess.run(
            ["openssl", "version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        found["openssl_seconds"] = statistics.median(one["seconds"] for one in theirs)
        found["times_as_fast"] = found["openssl_seconds"] / found["issue_seconds"]
        found["times_as_fast_by_cpu"] = statistics.median(one["cpu_seconds"] for one in theirs) / statistics.median(
            one["issue_cpu_seconds"] for one in ours
        )
        found["times_as_fast_with_start"] = found["openssl_seconds"] / statistics.median(one["seconds"] for one in ours)
    return found


def figures(sizes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures to reach (DESIGN), as bench/serve/report.py reads them."""
    found: list[dict[str, Any]] = []
    for one in sizes:
        what = f"complete CRL of {one['entries']:,} entries"
        if "times_as_fast" in one:
            times = round(one["times_as_fast"], 2)
            found.append({"what": f"{what} against openssl ca -gencrl", "value": times, "unit": "×", "at_least": 8})
            times = round(one["times_as_fast_by_cpu"], 2)
            found.append({"what": f"{what}, by CPU seconds", "value": times, "unit": "×"})
        if "beside" in one:
            times = round(one["times_the_smaller"], 2)
            what_of_both = f"{what} against {one['beside']:,} in turns"
            found.append({"what": what_of_both, "value": times, "unit": "×", "at_most": 10})
        found.append({"what": f"{what}, peak memory", "value": round(one["peak_mb"]), "unit": "MB", "at_most": 150})
        delta = round(one["delta_seconds"] * 1000, 1)
        what = f"delta CRL of {DELTA_ENTRIES} over {one['entries']:,}"
        found.append({"what": what, "value": delta, "unit": "ms", "at_most": 100})
    return found


def show(what: str, one: dict[str, Any]) -> None:
    """Print a measurement."""
    own = f", issued in {one['issue_seconds']:.3f} s" if "issue_seconds" in one else ""
    print(f"  {what}: {one['seconds']:.2f} s, {one['cpu_seconds']:.2f} s CPU, {one['peak_mb']:.0f} MB{own}", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without OpenSSL")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beside", type=int, help="in turns with a CRL of so many entries")
    options = parser.parse_args()
    one = run(options.entries, options.rounds, rival=not options.alone, beside=options.beside)
    one |= {**describe_commit(), "machine": describe_machine()}
    against = f", {one['times_as_fast']:.1f} × openssl" if "times_as_fast" in one else ""
    print(
        f"{one['entries']:,} entries in {one['issue_seconds']:.2f} s{against}, {one['peak_mb']:.0f} MB; "
        f"delta of {DELTA_ENTRIES} in {one['delta_seconds'] * 1000:.0f} ms"
    )
    if options.json:
        sizes = json.loads(options.json.read_text())["sizes"] if options.json.exists() else []
        sizes = [*(other for other in sizes if other["entries"] != options.entries), one]
        sizes.sort(key=lambda size: int(size["entries"]))
        options.json.write_text(json.dumps({"sizes": sizes, "figures": figures(sizes)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
