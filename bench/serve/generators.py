"""The load generators: wrk for rates; openloop.c for latency at a fixed rate, and for rates that wrk cannot measure.

Both read the prepared request files.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.serve import processes
from bench.serve.corpus import RequestFiles

GRACE_S = 20.0  # beyond a run's own seconds before a generator is given up
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")


def run_wrk(
    port: int,
    files: RequestFiles,
    seconds: float,
    *,
    connections: int,
    pinned: bool,
    stretch: tuple[int, int] | None = None,
    once: bool = False,
    single: bool = False,
    mark: bytes = b"",
) -> dict[str, Any]:
    """Send requests as fast as they are answered, from one thread; returns what wrk.lua prints, with what wrk says.

    ``stretch`` is a part of the files' order (start, length); ``once`` ends the run where it ends; ``single``
    sends its first request alone, again and again. Answers that hold
    the octets ``mark`` are counted. Whole seconds only, unless ``once``: wrk knows no parts of one.
    """
    start, length = stretch or (0, files.sent)
    command = [
        *("wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(WRK_SCRIPT), f"http://127.0.0.1:{port}/", "--"),
        *(str(files.prefix), str(start), str(length), "once" if once else "one" if single else "again", mark.hex()),
    ]
    printed = _run(command, seconds, pinned)
    line = next((line for line in printed.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk printed no result:\n{printed}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def run_closed_loop(
    binary: Path, port: int, files: RequestFiles, seconds: float, *, connections: int, pinned: bool, mark: bytes = b""
) -> dict[str, Any]:
    """Do with openloop.c what ``run_wrk`` does; returns the same keys."""
    command = [str(binary), str(port), str(files.prefix), str(connections), "0", str(seconds), mark.hex()]
    result: dict[str, Any] = json.loads(_run(command, seconds, pinned))
    result["requests"] = result["answered"]
    result["errors"] = {name: result.pop(name) for name in ("failed", "unanswered")}
    return result


def run_open_loop(
    binary: Path, port: int, files: RequestFiles, rate: float, seconds: float, *, connections: int
) -> dict[str, Any]:
    """Send requests at a constant rate, pinned to the generator's core; returns what openloop.c prints."""
    command = [str(binary), str(port), str(files.prefix), str(connections), f"{rate:.1f}", str(seconds)]
    result: dict[str, Any] = json.loads(_run(command, seconds, True))
    return result


def _run(command: list[str], seconds: float, pinned: bool) -> str:
    if pinned:
        command = ["taskset", "-c", str(processes.cores()[0]), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + GRACE_S)
    if done.returncode:
        raise RuntimeError(f"{command[3:]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def wrk_version() -> str:
    """Return wrk's version."""
    return processes.first_line(["wrk", "-v"]).split(" Copyright")[0]
