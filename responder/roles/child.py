"""What a role's process and its supervisor agree on: environment, readiness, and dying together."""

from __future__ import annotations

import ctypes
import os
import signal

READY_FD_ENV = "REVOCAST_READY_FD"  # a pipe to the supervisor; one octet means that the role is at work
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def announce_ready() -> None:
    """Tell the supervisor, if one started this process, that the role is at work."""
    fd = os.environ.pop(READY_FD_ENV, None)
    if fd is not None:
        os.write(int(fd), b"\n")
        os.close(int(fd))


def die_with_parent() -> None:
    """Have the kernel end this process (SIGTERM) when its parent dies; for use between fork and exec."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
