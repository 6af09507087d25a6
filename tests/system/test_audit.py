"""`revocast run` keeps audit logs that an auditor can prove, through a crash, a refused configuration and a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.pki import make_ca, make_leaf
from tests.server import Revocast, ca_section, index_line, wait_until, write_index


def audit(running: Revocast, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `revocast audit`."""
    return subprocess.run(
        [sys.executable, "-m", "responder", "audit", *words, "-c", str(running.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def events(running: Revocast, event: str) -> list[dict[str, Any]]:
    """Return what the logs say of one event so far; a line may be under way."""
    files = sorted((running.directory / "state" / "audit").glob("*.log"))
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [one for one in found if one["event"] == event]


def anchored(running: Revocast) -> dict[str, float]:
    """Return by role when the metrics say that it last saw the logs anchored."""
    text = running.get("/metrics", running.admin)[2].decode()
    return {
        role: float(at) for role, at in re.findall(r'^revocast_audit_anchored_seconds\{role="(.*)"\} (.*)$', text, re.M)
    }


def test_a_run_is_proven_from_start_to_stop(tmp_path: Path) -> None:
    ca = make_ca(tmp_path / "ca", delegated=True)
    leaf = make_leaf(ca)
    index = tmp_path / "index.txt"
    write_index(index, [index_line(leaf)])
    running = Revocast(tmp_path, [ca_section("corp", ca, index)]).start()
    try:
        wait_until("the answer's line", lambda: any(line["why"] == "routine" for line in events(running, "sign")))
        (presign,) = [line for line in events(running, "role_started") if line["role"] == "presign"]
        os.kill(presign["pid"], signal.SIGKILL)
        wait_until("the next presigner", lambda: len(events(running, "role_ended")) > 0)
        ended_at = time.time()
        wait_until("both roles' anchors", lambda: [at > ended_at for at in anchored(running).values()] == [True, True])
        running.config.write_text("nonsense")
        assert running.process is not None
        running.process.send_signal(signal.SIGHUP)
        wait_until("the refusal", lambda: "reload_refused" in running.log)
        running.write_config()
        revoke = subprocess.run(
            [sys.executable, "-m", "responder", "revoke", f"{leaf.serial_octets.hex()}", "-c", str(running.config)],
            timeout=60,
            check=False,
            capture_output=True,
        )
        assert revoke.returncode == 0, revoke.stderr
        wait_until("its signature", lambda: any(line["why"] == "revoked" for line in events(running, "sign")))
        wait_until("the anchors", lambda: audit(running, "verify").returncode == 0)
        proof = audit(running, "verify").stdout
        for log in ("presign", "follow", "supervisor", "command", "check"):
            assert f" {log}: lines 1 to " in proof
    finally:
        running.stop()
    (revoked,) = events(running, "revoke")
    assert revoked["uid"] == os.getuid()
    assert "not TOML" in events(running, "config_refused")[0]["reason"]
    assert len(events(running, "import")) > 0
    # It is stopped: all but the supervisor's last lines, which came after the roles' end, is proven without a doubt.
    done = audit(running, "verify")
    assert "BROKEN" not in done.stdout
    assert [line for line in done.stdout.splitlines() if "not proven" in line or "not anchored" in line] == [
        line for line in done.stdout.splitlines() if "are not anchored" in line
    ]
