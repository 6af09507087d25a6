"""`revocast run` from outside: it serves, keeps its roles up, takes up a changed file, and stops in time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from tests.pki import PKI, Leaf, make_ca, make_leaf, make_signer
from tests.server import Revocast, ca_section, index_line, wait_until, write_index

GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
STOP_WITHIN_S = 5.0  # what the documents promise, SIGTERM to the last process gone


class Shop:
    """A CA in a directory, with an index.txt of its own."""

    def __init__(self, directory: Path, name: str = "corp", key_type: str = "p256", label: str = "ca") -> None:
        self.name = name
        self.ca: PKI = make_ca(directory / name, key_type, name=f"Example {name} CA", label=label, delegated=True)
        self.index = directory / name / "index.txt"
        self.good: Leaf = make_leaf(self.ca, host="good.example-shop.com")
        self.revoked: Leaf = make_leaf(self.ca, host="revoked.example-shop.com")
        self.revoked_at = int(time.time()) - 3600
        write_index(self.index, [index_line(self.good), index_line(self.revoked, self.revoked_at, "superseded")])

    def section(self, **options: str) -> str:
        """Its table in the configuration."""
        return ca_section(self.name, self.ca, self.index, **options)


def children(pid: int) -> dict[str, int]:
    """Return a process's children: role (or program) to process id."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if "role" in words:
            role = words[words.index("role") + 1]
            found[f"{role}-{words[words.index('--slot') + 1]}" if "--slot" in words else role] = int(child)
    return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A CA with one good and one revoked certificate."""
    return Shop(tmp_path_factory.mktemp("shop"))


@contextmanager
def serving(directory: Path, shop: Shop) -> Iterator[Revocast]:
    """A `revocast run` with two workers that has signed everything."""
    with Revocast(directory, [shop.section()], workers=2) as server:
        server.wait_for(shop.good, shop.ca, GOOD)
        server.wait_for(shop.revoked, shop.ca, REVOKED)
        yield server


@pytest.fixture
def running(shop: Shop, tmp_path: Path) -> Iterator[Revocast]:
    """A server of the test's own."""
    with serving(tmp_path / "run", shop) as server:
        yield server


@pytest.fixture(scope="module")
def _lasting(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Revocast]:
    with serving(tmp_path_factory.mktemp("lasting"), shop) as server:
        yield server


@pytest.fixture
def lasting(shop: Shop, _lasting: Revocast) -> Revocast:
    """The server of all tests that leave its roles at work on what they had: its file as at first, its log empty."""
    _lasting.sections = [shop.section()]
    _lasting.write_config()
    (_lasting.directory / "stderr.log").write_bytes(b"")  # which it appends to
    return _lasting


def test_sigterm_stops_everything_in_time(shop: Shop, tmp_path: Path) -> None:
    """SIGTERM ends the supervisor, every role and the embedded Redis within five seconds; no process stays."""
    server = Revocast(tmp_path / "run", [shop.section()], workers=2).start()
    server.wait_for(shop.good, shop.ca, GOOD)
    assert server.process is not None
    roles = children(server.process.pid)
    assert set(roles) == {"follow", "presign", "worker-0", "worker-1", "admin"}
    redis_socket = tmp_path / "run" / "state" / "redis" / "redis.sock"
    assert redis_socket.exists()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_WITHIN_S) == 0
    for role, pid in roles.items():
        assert not Path(f"/proc/{pid}").exists(), f"{role} outlived its supervisor"


def test_a_killed_supervisor_takes_its_roles_with_it(shop: Shop, tmp_path: Path) -> None:
    """kill -9 of the supervisor leaves no orphans that hold the ports or Redis."""
    server = Revocast(tmp_path / "run", [shop.section()]).start()
    server.wait_for(shop.good, shop.ca, GOOD)
    assert server.process is not None
    roles = children(server.process.pid)
    server.process.kill()
    server.process.wait()
    wait_until("the orphans' end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in roles.values()), 10)
    # What it left behind does not keep the next one from starting.
    with server:
        server.wait_for(shop.good, shop.ca, GOOD)


@pytest.mark.parametrize("role", ["follow", "presign", "worker-0", "admin"])
def test_a_role_that_dies_is_started_again(shop: Shop, lasting: Revocast, role: str) -> None:
    """kill -9 of a role: another takes its place, and queries are answered."""
    assert lasting.process is not None
    pid = lasting.process.pid
    before = wait_until(role, lambda: children(pid).get(role))
    os.kill(before, signal.SIGKILL)
    wait_until(f"another {role}", lambda: children(pid).get(role, before) != before)
    lasting.wait_for(shop.good, shop.ca, GOOD)
    assert '"event": "role_died"' in lasting.log


def test_sighup_takes_up_a_changed_file(shop: Shop, running: Revocast, tmp_path: Path) -> None:
    """A CA, or a CRL, added to the file is served after SIGHUP, without a restart; the old one is served throughout."""
    other = Shop(tmp_path, "second", "rsa2048")
    assert running.query(other.good, other.ca).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    assert running.get("/crl/corp.crl")[0] == 404
    crl = f'crl = {{ issue = true, key = "{shop.ca.key_path}" }}\n'
    running.sections = [shop.section(extra=crl), other.section()]
    running.write_config()
    assert running.process is not None
    old_worker = children(running.process.pid)["worker-0"]
    running.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 40
    while '"event": "reloaded"' not in running.log:
        assert time.monotonic() < deadline, running.log
        assert running.query(shop.good, shop.ca).certificate_status is GOOD
    running.wait_for(other.good, other.ca, GOOD)
    running.wait_for(other.revoked, other.ca, REVOKED)
    running.wait_for(shop.good, shop.ca, GOOD)
    assert children(running.process.pid)["worker-0"] != old_worker
    body = wait_until("the CRL", lambda: running.get("/crl/corp.crl")[::2] if "crl_issued" in running.log else None)
    assert body[0] == 200
    assert {entry.serial_number for entry in x509.load_der_x509_crl(body[1])} == {shop.revoked.serial_number}


def test_sighup_keeps_the_old_configuration_where_the_new_one_is_wrong(shop: Shop, lasting: Revocast) -> None:
    """A broken edit changes nothing, is named in the log, and does not stop a role that has to start again."""
    lasting.config.write_text(lasting.config.read_text().replace("workers = 2", "wokers = 2"))
    assert lasting.process is not None
    pid = lasting.process.pid
    lasting.process.send_signal(signal.SIGHUP)
    wait_until("the refusal", lambda: "reload_refused" in lasting.log)
    assert "http.wokers" in lasting.log
    before = children(pid)["worker-1"]
    os.kill(before, signal.SIGKILL)
    wait_until("another worker", lambda: children(pid).get("worker-1", before) != before)
    lasting.wait_for(shop.good, shop.ca, GOOD)


def test_sighup_refuses_a_key_that_does_not_sign(shop: Shop, lasting: Revocast, tmp_path: Path) -> None:
    """What would not have been started is not taken up either: the roles at work stay, and the log says why."""
    foreign = make_signer(make_ca(tmp_path / "other"), directory=tmp_path, label="foreign")
    assert lasting.process is not None
    before = children(lasting.process.pid)
    lasting.sections = [shop.section().replace(str(shop.ca.answer_signer.key_path), str(foreign.key_path))]
    lasting.write_config()
    lasting.process.send_signal(signal.SIGHUP)
    wait_until("the refusal", lambda: "reload_refused" in lasting.log)
    assert "ca[corp].ocsp" in lasting.log
    assert children(lasting.process.pid) == before
    lasting.wait_for(shop.good, shop.ca, GOOD)


def test_a_refused_reload_leaves_no_socket_without_a_worker(shop: Shop, lasting: Revocast) -> None:
    """Sockets that were opened for a configuration that is then refused take no connections away."""
    assert lasting.process is not None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = lasting.config.read_text().replace("workers = 2", "workers = 6")
        wanted = f'[admin]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"'
        lasting.config.write_text(text.replace('[admin]\nlisten = "127.0.0.1:0"', wanted))
        lasting.process.send_signal(signal.SIGHUP)
        wait_until("the refusal", lambda: "reload_refused" in lasting.log)
    assert "admin.listen" in lasting.log
    for _ in range(30):  # each a connection of its own, which the kernel gives to one of the sockets
        assert lasting.query(shop.good, shop.ca).certificate_status is GOOD


def test_sigterm_amid_a_reload_stops_everything_in_order(shop: Shop, running: Revocast) -> None:
    """Roles that were about to be replaced are asked to stop like the others, and none is started again."""
    assert running.process is not None
    pid = running.process.pid
    before = children(pid)
    running.process.send_signal(signal.SIGHUP)
    # follow goes first; the workers are still the old ones.
    wait_until("the first replacement", lambda: children(pid).get("follow", before["follow"]) != before["follow"])
    assert children(pid)["worker-1"] == before["worker-1"]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(STOP_WITHIN_S) == 0
    assert running.log.count('"event": "worker_stopped"') == 2, "a worker was killed, not drained"
    assert "role_died" not in running.log
    for role, child in before.items():
        assert not Path(f"/proc/{child}").exists(), f"{role} outlived its supervisor"


def test_the_operators_listener(shop: Shop, running: Revocast, tmp_path: Path) -> None:
    """/health verifies an answer of each CA; /metrics adds up what every process counted."""
    stranger = Shop(tmp_path, "stranger", label="stranger")
    assert running.query(stranger.good, stranger.ca).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    status, _, body = running.get("/health", running.admin)
    assert (status, json.loads(body)) == (200, {"healthy": True, "ca": {"corp": "ok"}})
    status, headers, body = running.get("/metrics", running.admin)
    assert status == 200
    assert headers["content-type"].startswith("text/plain")

    def scraped(name: str) -> str:
        text = running.get("/metrics", running.admin)[2].decode()
        return text if f"\n{name}{{" in text else ""

    text = wait_until("soonest nextUpdate", lambda: scraped("revocast_soonest_next_update_seconds"))
    assert re.search(r"^revocast_clock_agrees 1", text, re.MULTILINE), text
    lag = re.search(r"^revocast_journal_lag_seconds (\S+)", text, re.MULTILINE)
    assert lag is not None
    assert float(lag[1]) < 60
    assert re.search(r'^revocast_unauthorized_total\{reason="unknown_issuer"\} 1', text, re.MULTILINE), text
    assert re.search(r'^revocast_due_buckets\{urgency="routine"\} 0', text, re.MULTILINE), text
    assert re.search(r'^revocast_queries_total\{outcome="good"\} [1-9]', text, re.MULTILINE), text
    assert re.search(r'^revocast_signatures_total\{ca="corp",why="[a-z_]+"\} [1-9]', text, re.MULTILINE), text
    as_of = re.search(r'^revocast_source_as_of_seconds\{ca="corp"\} (\S+)', text, re.MULTILINE)
    assert as_of is not None
    assert abs(float(as_of[1]) - time.time()) < 60
    assert re.search(r'^revocast_signer_not_after_seconds\{ca="corp"\} ', text, re.MULTILINE), text
    assert re.search(r'^revocast_soonest_next_update_seconds\{ca="corp"\} ', text, re.MULTILINE), text
    assert running.get("/", running.admin)[0] == 404


def test_health_says_what_is_missing(tmp_path: Path) -> None:
    """A CA of which nothing is loaded cannot be healthy."""
    shop = Shop(tmp_path)
    shop.index.unlink()
    with Revocast(tmp_path / "run", [shop.section()]) as server:

        def probe() -> tuple[int, dict[str, object]]:
            try:
                status, _, body = server.get("/health", server.admin)
            except TimeoutError:  # the admin role is still starting; its socket has been there from the first
                return 0, {}
            return status, json.loads(body)

        wait_until("an answer", lambda: probe()[0])
        status, outcome = probe()
        assert status == 503
        assert outcome["healthy"] is False
        assert server.query(shop.good, shop.ca).response_status is ocsp.OCSPResponseStatus.TRY_LATER
        write_index(shop.index, [index_line(shop.good)])
        server.wait_for(shop.good, shop.ca, GOOD)
        wait_until("health", lambda: probe()[0] == 200)


def test_roles_alone_share_nothing_but_redis(shop: Shop, tmp_path: Path, redis_server: object) -> None:
    """`serve`, `follow` and `presign`, each under a supervisor of its own, as on three machines."""
    url = redis_server().url  # type: ignore[operator]
    head = f'[redis]\nurl = "{url}"\n'
    machines = [
        Revocast(tmp_path / command, [shop.section()], head=head, command=command)
        for command in ("follow", "presign", "serve")
    ]
    try:
        for machine in machines:
            machine.start()
        machines[2].wait_for(shop.good, shop.ca, GOOD)
        machines[2].wait_for(shop.revoked, shop.ca, REVOKED)
        assert machines[2].process is not None
        assert set(children(machines[2].process.pid)) == {"worker-0", "admin"}
    finally:
        for machine in machines:
            machine.stop()


def test_generations_of_one_ca(tmp_path: Path) -> None:
    """Two keys under one name, each with its own signer and list: the same serial is two certificates (DEL-01)."""
    old, new = Shop(tmp_path / "old"), Shop(tmp_path / "new", key_type="p256", label="ca-second")
    assert old.ca.subject_der == new.ca.subject_der
    twin = make_leaf(new.ca, serial_number=old.good.serial_number)
    write_index(new.index, [index_line(new.good), index_line(twin, new.revoked_at, "keyCompromise")])
    sections = [old.section(), new.section().replace('name = "corp"', 'name = "corp-g2"')]
    with Revocast(tmp_path / "run", sections) as server:
        server.wait_for(old.good, old.ca, GOOD)
        server.wait_for(twin, new.ca, REVOKED)
        server.wait_for(new.good, new.ca, GOOD)
        assert server.query(old.good, old.ca).responder_key_hash == old.ca.answer_signer.key_hash


def test_a_change_of_the_index_arrives(tmp_path: Path) -> None:
    """follow notices a changed file and applies the difference: a revocation, then a new certificate."""
    shop = Shop(tmp_path)
    with Revocast(tmp_path / "run", [shop.section()]) as server:
        server.wait_for(shop.good, shop.ca, GOOD)
        fresh = make_leaf(shop.ca, host="fresh.example-shop.com")
        revoked = index_line(shop.revoked, shop.revoked_at, "superseded")
        write_index(shop.index, [index_line(shop.good, int(time.time()), "keyCompromise"), revoked, index_line(fresh)])
        server.wait_for(shop.good, shop.ca, REVOKED)
        server.wait_for(fresh, shop.ca, GOOD)


def refused(config: Path, command: str = "run") -> str:
    """Run a command that must refuse; returns its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "responder", command, "-c", str(config)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("revocast: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]


def test_mistakes_are_refused_before_anything_is_served(shop: Shop, tmp_path: Path) -> None:
    """Exit code 2 and one line that names file and key; nothing listens."""
    server = Revocast(tmp_path / "run", [shop.section()])
    server.write_config()
    text = server.config.read_text()

    server.config.write_text(text.replace("[http]", "[htp]"))
    assert f"{server.config}: htp: " in refused(server.config)

    server.config.write_text(text.replace('type = "openssl", path', 'type = "openssl", pth'))
    for command in ("run", "follow"):
        assert "ca[corp].source.path: must be there" in refused(server.config, command)
    server.config.write_text(text.replace('type = "openssl", ', 'type = "openssl", colour = "red", '))
    assert "ca[corp].source.colour: unknown key; allowed are type, " in refused(server.config)
    server.config.write_text(text.replace('type = "openssl"', 'type = "opensssl"'))
    assert "no loader 'opensssl' is installed" in refused(server.config, "follow")
    server.config.write_text(text.replace(str(shop.ca.certificate_path), str(shop.good.certificate_path)))
    assert "is not a CA certificate" in refused(server.config, "serve")

    stranger = make_ca(tmp_path / "stranger", delegated=True)
    server.config.write_text(text.replace(str(shop.ca.answer_signer.key_path), str(stranger.key_path)))
    assert "ca[corp].ocsp" in refused(server.config)

    foreign = make_signer(stranger, directory=tmp_path / "foreign", label="foreign")
    wrong = text.replace(str(shop.ca.answer_signer.key_path), str(foreign.key_path))
    server.config.write_text(wrong.replace(str(shop.ca.answer_signer.certificate_path), str(foreign.certificate_path)))
    assert "ca[corp].ocsp.certificate" in refused(server.config)

    server.config.write_text(text.replace(f'key = "{shop.ca.answer_signer.key_path}"', 'key = "pkcs11:token=nowhere"'))
    assert "ca[corp].ocsp.key" in refused(server.config)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """The embedded Redis replays all that was committed: statuses and answers are there without their source."""
    shop = Shop(tmp_path)
    server = Revocast(tmp_path / "run", [shop.section()])
    with server:
        server.wait_for(shop.good, shop.ca, GOOD)
        server.wait_for(shop.revoked, shop.ca, REVOKED)
        before = server.query(shop.good, shop.ca)
    shop.index.unlink()
    with server:
        server.wait_for(shop.good, shop.ca, GOOD)
        server.wait_for(shop.revoked, shop.ca, REVOKED)
        assert server.query(shop.good, shop.ca).signature == before.signature
    assert "AOF-loading" not in (tmp_path / "run" / "state" / "redis" / "redis.log").read_text()
