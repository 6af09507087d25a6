"""What a result must say about where it comes from: machine, kernel, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.serve.generators import wrk_version
from bench.serve.ours import redis_version
from bench.serve.rivals import Contender

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("uvloop", "httptools", "cryptography", "redis", "hiredis")


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, memory, kernel and distribution."""
    memory_kb = int(_field("/proc/meminfo", "MemTotal", ":").split()[0])
    return {
        "cpu": _field("/proc/cpuinfo", "model name", ":"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "hypervisor": "hypervisor" in _field("/proc/cpuinfo", "flags", ":").split(),
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
    }


def describe_versions(contenders: list[Contender]) -> dict[str, str]:
    """Return what took part, with versions."""
    return {
        **{contender.name: contender.version() for contender in contenders},
        "python": sys.version.split()[0],
        **{name: version(name) for name in PACKAGES},
        "redis-server": redis_version(),
        "wrk": wrk_version(),
    }


def describe_commit() -> dict[str, Any]:
    """Return commit and date, and whether anything but results was changed since."""
    changed = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs/performance.*")
    return {"commit": _git("rev-parse", "HEAD"), "modified": bool(changed), "date": time.strftime("%Y-%m-%d")}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _field(file: str, name: str, separator: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return ""
