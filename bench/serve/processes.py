"""What the harness knows of processes: their CPU time, their cores, their ports, and their end by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tests.server import wait_until

T = TypeVar("T")

STOP_WITHIN_S = 3.0
QUIET_SHARE = 0.03  # of one core
QUIET_FOR_S = 0.5
QUIET_WITHIN_S = 300.0  # a first reading of a million rows takes its time


def cores() -> tuple[int, int]:
    """Return the core of the load generator and the core of the servers; the same one where there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pin(pids: Iterable[int], allowed: Iterable[int]) -> None:
    """Bind processes, with all their threads, to these cores."""
    wanted = set(allowed)
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), wanted)


def descendants(pid: int) -> list[int]:
    """Return a process and everything that it started and that still runs."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        if not Path(f"/proc/{current}").exists():
            continue
        found.append(current)
        for children in Path(f"/proc/{current}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += map(int, children.read_text().split())
    return found


def command_line(pid: int) -> list[str]:
    """Return the words a process was started with; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def cpu_times(pids: Iterable[int]) -> dict[tuple[int, int], int]:
    """Return the nanoseconds on a CPU of every thread, by process and thread (DESIGN §8: schedstat's first number)."""
    times: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                times[pid, int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
    return times


def cpu_seconds(before: dict[tuple[int, int], int], after: dict[tuple[int, int], int]) -> float:
    """Return what was used in between; a thread that is new used all of its time in between."""
    return sum(value - before.get(key, 0) for key, value in after.items()) / 1e9


def wait_until_quiet(pids: Callable[[], list[int]]) -> None:
    """Wait until these processes hardly use any CPU: what they do at their start must not fall into a measurement."""

    def quiet() -> bool:
        before = cpu_times(pids())
        time.sleep(QUIET_FOR_S)
        return cpu_seconds(before, cpu_times(pids())) < QUIET_SHARE * QUIET_FOR_S

    wait_until("a server to be at rest", quiet, QUIET_WITHIN_S)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Say whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it started: politely first, for whoever is left not; each by its own id."""
    family = descendants(process.pid) if process.poll() is None else []
    if family:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S)
    for pid in family:
        # `openssl ocsp -multi` has been seen to leave children behind that spin for ever.
        if Path(f"/proc/{pid}").exists() and (pid != process.pid or process.poll() is None):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN_S)


def first_line(command: list[str]) -> str:
    """Return the first line that a command prints, on whichever of its outputs."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""
