"""What the crash tests share: a driver of processes to be killed, and proxies that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.driver import Driver
from tests.crash.proxy import StrikingProxy


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Give a driver of processes to be killed."""
    held = Driver()
    yield held
    held.close()


@pytest.fixture
def proxy_to() -> Iterator[Callable[..., StrikingProxy]]:
    """Give ``proxy_to(listen, redis_socket)``: a StrikingProxy that ends with the test."""
    held: list[StrikingProxy] = []

    def start(listen: Path | None, redis_socket: Path, **options: Any) -> StrikingProxy:
        held.append(StrikingProxy(listen, redis_socket, **options))
        return held[-1]

    yield start
    for one in held:
        one.close()
