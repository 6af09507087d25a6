"""Processes that a Revocast starts, and what parent and child agree on."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("-c", "--config", help="The configuration file.")]

READY_FD_ENV = "REVOCAST_READY_FD"  # a pipe to the supervisor; one octet means that the role is at work
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def announce_ready() -> None:
    """Tell the supervisor, if one started this process, that the role is at work."""
    fd = os.environ.pop(READY_FD_ENV, None)
    if fd is not None:
        os.write(int(fd), b"\n")
        os.close(int(fd))


def die_with_parent() -> Callable[[], None]:
    """Return what a child runs between fork and exec to be ended (SIGTERM) by the kernel when its parent dies.

    prctl(2), PR_SET_PDEATHSIG: the parent is the *thread* that forks, so start children from one that lasts.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return prepare
