"""Processes that a Revocast starts, and what parent and child agree on."""

from __future__ import annotations

import ctypes
import os
import select
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


class Stop:
    """Whether to end; may be set from a signal handler, and waited for by any thread.

    A threading.Event will not do: its ``set`` takes the lock that ``wait`` holds for a moment, so that a handler that
    interrupts the very thread that waits blocks for ever (seen once in some hundred restarts of a busy machine).
    """

    def __init__(self) -> None:
        self._is_set = False
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def on_signals(self, *numbers: signal.Signals) -> None:
        """Be set by these signals; to be called from the main thread."""
        for number in numbers:
            signal.signal(number, lambda _number, _frame: self.set())

    def is_set(self) -> bool:
        """Tell whether to end."""
        return self._is_set

    def set(self) -> None:
        """Have everybody end."""
        if not self._is_set:
            self._is_set = True
            os.write(self._write_fd, b"x")  # never read: the pipe stays readable for every waiter

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, ``timeout_s`` at most; tell whether it is."""
        if not self._is_set:
            poller = select.poll()
            poller.register(self._read_fd, select.POLLIN)
            poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000)))
        return self._is_set

    def __del__(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)
