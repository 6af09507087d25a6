"""The supervisor where the machine fails it. What it does in one piece is in tests/system/test_run.py."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from responder.roles import supervisor as module
from responder.roles.supervisor import KEPT_DEAD, Supervisor
from tests.pki import make_ca
from tests.server import ca_section


def test_a_role_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine out of processes or memory for a moment does not cost a role for good."""
    ca = make_ca(tmp_path / "ca", delegated=True)
    config = tmp_path / "revocast.toml"
    config.write_text(
        'data_dir = "state"\n[redis]\nurl = "redis://127.0.0.1:1/"\n[admin]\nlisten = "127.0.0.1:0"\n'
        + ca_section("corp", ca, tmp_path / "index.txt")
    )
    real = asyncio.create_subprocess_exec
    tries: list[str] = []

    async def failing(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        tries.append(words[4])
        if len(tries) <= 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        os.kill(os.getpid(), signal.SIGTERM)
        return await real("/bin/sleep", "60", **options)

    monkeypatch.setattr(module.asyncio, "create_subprocess_exec", failing)
    assert asyncio.run(asyncio.wait_for(Supervisor(config, ()).run(), 10)) == 0
    assert tries == ["admin"] * 3


def test_the_dead_do_not_fill_the_metrics_directory(tmp_path: Path) -> None:
    """A role that dies again and again leaves its last counters alone, and no gauge."""
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._metrics_dir = tmp_path
    supervisor._dead = deque()
    for pid in range(1000, 1000 + KEPT_DEAD + 10):
        for kind in ("counter", "gauge_livesum", "histogram"):
            (tmp_path / f"{kind}_{pid}.db").touch()
        supervisor._forget_metrics(pid)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 * KEPT_DEAD
    assert not any(name.startswith("gauge_live") for name in left)
    assert "counter_1009.db" not in left
    assert "counter_1010.db" in left
