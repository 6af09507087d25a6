"""TCP ports of the loopback for servers that cannot choose one themselves and tell."""

from __future__ import annotations

import random
import socket

# Not where the system takes ports for connections from (ip_local_port_range): tests that run meanwhile make thousands.
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """Return a port that nobody listens on."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port is taken")
