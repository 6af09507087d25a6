"""`revocast check`: a table of what is right and what is not, and the ACL lines for an external Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from responder.cli.app import build_app
from responder.clock import format_utc
from responder.config import DAY_S
from responder.crl.depot import Depot
from responder.crl.published import Published
from tests.pki import PKI, make_ca, make_signer
from tests.server import ca_section, write_index


def check(folder: Path, ca: PKI, head: str = "", extra_ocsp: str = "", extra: str = "") -> Result:
    """Run the command over a configuration with one CA."""
    index = folder / "index.txt"
    write_index(index, [])
    config = folder / "revocast.toml"
    config.write_text(f'data_dir = "state"\n{head}{ca_section("corp", ca, index, extra_ocsp=extra_ocsp, extra=extra)}')
    return CliRunner(env={"COLUMNS": "200"}).invoke(build_app(["check"]), ["check", "-c", str(config)])


def test_all_is_well(tmp_path: Path) -> None:
    """The embedded Redis is started for the look and ended with it; exit code 0."""
    done = check(tmp_path, make_ca(tmp_path / "ca", delegated=True))
    assert done.exit_code == 0, done.output
    for word in ("signer of corp", "signs; its certificate ends", "embedded redis", "noeviction", "clock"):
        assert word in done.output
    assert "error" not in done.output


def test_an_external_redis_and_its_users(tmp_path: Path, redis_server: Callable[..., object]) -> None:
    """What it should set is named, and each role's least rights are printed."""
    redis = redis_server()
    done = check(tmp_path, make_ca(tmp_path / "ca", delegated=True), redis.config_section())  # type: ignore[attr-defined]
    assert done.exit_code == 0, done.output
    for role in ("serve", "follow", "presign", "publish"):
        assert f"ACL SETUSER revocast-{role} on >PASSWORD" in done.output
    assert "%R~rc:*" in done.output  # Redis 7 tells reading from writing


def test_an_ended_signer_is_an_error(tmp_path: Path) -> None:
    """Exit code 1, and the line says which certificate and until when."""
    now = int(time.time())
    ca = make_ca(tmp_path / "ca")
    ended = make_signer(ca, not_before=now - 1000, not_after=now - 10)
    done = check(tmp_path, PKI(**{**vars(ca), "signer": ended}))
    assert done.exit_code == 1
    assert "error" in done.output
    assert "signer of corp" in done.output


def test_a_crl_that_is_too_large(tmp_path: Path) -> None:
    """One that this machine serves; it is no error."""
    depot = Depot(tmp_path / "state" / "crl")
    fresh = depot.fresh("corp")
    fresh.write_bytes(bytes(2000))
    depot.put(fresh, Published("corp", "", "full", 1, None, 0, 1, 1, 2000, "00" * 32, 0, shares_date=False, file=""))
    done = check(
        tmp_path,
        make_ca(tmp_path / "ca", delegated=True),
        extra='crl = { mirror = "x.crl", large_bytes = 1024 }\n',
    )
    assert done.exit_code == 0, done.output
    assert "full has 2,000 octets, more than crl.large_bytes" in " ".join(done.output.split())


def test_the_crls_key(tmp_path: Path) -> None:
    """It is opened and signs; one that is not the CA's is an error of one line."""
    ca = make_ca(tmp_path / "ca", delegated=True)
    assert ca.signer is not None
    for key, exit_code, words in (
        (ca.key_path, 0, "signs; its certificate ends"),
        (ca.signer.key_path, 1, "not the configured one (crl.key)"),
    ):
        done = check(tmp_path, ca, extra=f'crl = {{ issue = true, key = "{key}" }}\n')
        assert done.exit_code == exit_code, done.output
        assert "CRL signer of corp" in done.output
        assert words in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(("ends_in", "exit_code"), [(3 * DAY_S, 0), (DAY_S, 1)])
def test_the_next_signer(tmp_path: Path, ends_in: int, exit_code: int) -> None:
    """One that is configured ahead has a line of its own, and is judged as of its time."""
    start = int(time.time()) + 2 * DAY_S
    ca = make_ca(tmp_path / "ca", delegated=True)
    following = make_signer(ca, file_name="next", label="next", not_after=start - 2 * DAY_S + ends_in)
    done = check(
        tmp_path,
        ca,
        extra_ocsp=f', next = {{ from = {format_utc(start)}, certificate = "{following.certificate_path}", key = "{following.key_path}" }}',
    )
    assert done.exit_code == exit_code, done.output
    assert f"next signer of corp, from {format_utc(start)}" in done.output
    assert ("error" in done.output) is bool(exit_code)


def test_an_evicting_redis_is_an_error(tmp_path: Path, redis_server: Callable[..., object]) -> None:
    """A Redis that may throw a revocation away is refused."""
    redis = redis_server(maxmemory_policy="allkeys-lru")
    done = check(tmp_path, make_ca(tmp_path / "ca", delegated=True), redis.config_section())  # type: ignore[attr-defined]
    assert done.exit_code == 1
    assert "allkeys-lru" in done.output
