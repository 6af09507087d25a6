"""The quickstart as a new user runs it: one command makes, loads, signs and serves; its four commands say what it says."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import need
from tests.server import wait_until

CERTIFICATES = 250  # enough for every reason, and for revoked certificates that have expired


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port that is ours until the end: bound, so that nobody else gets it, but shared with the server."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, port: int) -> tuple[Path, str]:
    """The folder, and what `quickstart --no-serve` printed."""
    folder = tmp_path_factory.mktemp("quick") / "start"
    done = subprocess.run(
        [*QUICKSTART, "--dir", str(folder), "--certificates", str(CERTIFICATES), "--listen", f"127.0.0.1:{port}",
         "--no-serve"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


QUICKSTART = [sys.executable, "-m", "responder", "quickstart"]


def test_the_ca_has_openssls_layout(made: tuple[Path, str]) -> None:
    """OpenSSL reads what was made: the chain verifies, and index.txt holds every kind of line."""
    need("openssl")
    folder, _ = made
    for name in ("ca.pem", "ca.key", "ocsp.pem", "ocsp.key", "index.txt", "revocast.toml"):
        assert (folder / name).is_file(), name
    assert (folder / "ca.key").stat().st_mode & 0o077 == 0
    lines = [line.split("\t") for line in (folder / "index.txt").read_text().splitlines()]
    assert len(lines) == CERTIFICATES
    revoked = [line for line in lines if line[0] == "R"]
    assert len(revoked) == CERTIFICATES // 10
    keywords = {line[2].split(",")[1] for line in revoked if "," in line[2]}
    assert keywords >= {
        "keyCompromise", "CACompromise", "affiliationChanged", "superseded", "cessationOfOperation", "certificateHold",
        "holdInstruction", "keyTime", "CAkeyTime", "unspecified",
    }  # fmt: skip
    sample = folder / "newcerts" / f"{lines[0][3]}.pem"
    said = subprocess.run(
        ["openssl", "verify", "-CAfile", str(folder / "ca.pem"), str(sample), str(folder / "ocsp.pem")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.count(": OK") == 2, said.stdout + said.stderr


def test_the_printed_commands_say_what_they_promise(made: tuple[Path, str], tmp_path: Path) -> None:
    """A second run goes on with the CA and serves; each printed command, pasted into a shell, says good or revoked, or verifies the CRL."""
    need("openssl", "curl")
    folder, printed = made
    good, revoked, get, crl = [
        line.strip() for line in printed.splitlines() if line.strip().startswith(("openssl ocsp", "curl "))
    ]
    with (folder / "revocast.toml").open("a") as config:
        config.write('\n[admin]\nlisten = "127.0.0.1:0"\n')
    output = tmp_path / "out"
    with output.open("wb") as out:
        server = subprocess.Popen([*QUICKSTART, "--dir", str(folder)], stdout=out, stderr=subprocess.STDOUT)
    try:

        def said(command: str) -> str:
            assert server.poll() is None, output.read_text()
            done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30)
            return done.stdout + done.stderr

        wait_until("good", lambda: ": good" in said(good))
        assert "Response verify OK" in said(good)
        assert ": revoked" in said(revoked)
        assert "Reason: " in said(revoked)
        assert "OCSP Response Status: successful" in said(get)
        assert "Cert Status: good" in said(get)
        listed = said(crl)
        assert "verify OK" in listed
        assert "crlNumber=" in listed
        text = said("openssl crl -inform DER -in quickstart.crl -noout -text")
        assert Path(revoked.split()[-1]).stem in text
        # Those that have expired leave after the first one.
        assert 0 < text.count("Serial Number:") <= CERTIFICATES // 10
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_it_does_not_touch_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """A folder with something else in it is refused in one line."""
    (tmp_path / "thesis.txt").write_text("x")
    done = subprocess.run(
        [*QUICKSTART, "--dir", str(tmp_path), "--no-serve"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert "Traceback" not in done.stderr
