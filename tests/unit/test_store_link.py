"""The store's connection: what is refused, what is lost, what counts as committed, and what a role may do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from responder.config import Config, RedisConfig, RedisRoles, RedisUser
from responder.errors import CommitConflict, OperatorError, StoreUnavailable
from responder.store import scripts, target
from responder.store.acl import ROLES, acl_lines, acl_rules
from responder.store.layout import Layout, serial_hash
from responder.store.link import refusal
from responder.store.redis_store import Store
from responder.store.values import AnswerBucket, Change, SignedAnswer
from tests.ports import free_port
from tests.redis_fixture import RedisServer
from tests.store_room import CA, GOOD, NAMES, REVOKED, open_ca, put, serials_of

ServerMaker = Callable[..., RedisServer]


def target_for(server: RedisServer, **options: Any) -> target.Target:
    """Return the target of a store at the server."""
    terms: dict[str, Any] = {"label": "test", "layout": NAMES, "unix_path": str(server.socket_path), "timeout_s": 0.5}
    return target.Target(**(terms | options))


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_a_redis_that_evicts_is_refused(redis_server: ServerMaker, policy: str) -> None:
    """DESIGN §5: a revocation that is thrown away is a wrong good."""
    server = redis_server("7", maxmemory_policy=policy)
    with server.store() as store:
        with pytest.raises(StoreUnavailable, match=f"maxmemory-policy is {policy}"):
            store.ca_info(CA)
        server.client().config_set("maxmemory-policy", "noeviction")
        assert store.ca_info(CA) is None
    # After a reconnect it may be another server.
    with server.store() as store:
        assert store.ca_info(CA) is None
        server.client().config_set("maxmemory-policy", policy)
        assert store.ca_info(CA) is None  # the same connection
        server.client().client_kill_filter(_type="normal", skipme=True)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.ca_info(CA)


@pytest.mark.parametrize(
    ("version", "fits"), [("5.0.14", False), ("6.0.20", False), ("6.2.0", True), ("7.0.15", True), ("10.1.0", True)]
)
def test_old_versions_are_refused(version: str, fits: bool) -> None:
    assert (refusal({"redis_version": version}) is None) is fits


def test_findings_say_what_an_operator_should_set(each_redis: RedisServer) -> None:
    client = each_redis.client()
    with each_redis.store() as store:
        levels = {finding.subject: finding.level for finding in store.check()}
        assert levels == {
            "redis": "ok",
            "redis memory": "ok",
            "redis persistence": "warning",
            "redis packing": "ok",
            "redis replication": "ok",
        }
        client.config_set("appendonly", "yes")
        client.config_set("hash-max-ziplist-value", "64")
        client.config_set("maxmemory", "1gb")
        texts = {finding.subject: (finding.level, finding.text) for finding in store.check()}
        assert texts["redis persistence"][0] == "warning"
        assert "everysec" in texts["redis persistence"][1]
        assert texts["redis packing"][0] == "warning"
        assert "of 1024 MiB" in texts["redis memory"][1]
        assert 0 < store.memory_fraction() < 0.1
        client.config_set("appendfsync", "always")
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"] * 1.05)))
        levels = {finding.subject: finding.level for finding in store.check()}
        assert levels["redis persistence"] == "ok"
        assert levels["redis memory"] == "error"
        assert store.memory_fraction() > 0.85
        client.config_set("maxmemory", "0")
        assert store.memory_fraction() == 0
        assert store.version() == ((7, 0) if each_redis.version == "7" else (6, 2))
        assert abs(store.time() - time.time()) < 5
        assert store.run_id() == f"{client.info('server')['run_id']}/{client.info('replication')['master_replid']}"


# --- what is lost -------------------------------------------------------------------------------------------------------


def test_every_failure_is_store_unavailable(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    each_redis.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            store.find_status(CA, b"\x01")
        assert "\n" not in str(caught.value)
    each_redis.start()
    with pytest.raises(StoreUnavailable, match="lost"):
        store.find_status(CA, b"\x01")  # Redis empty is never "not issued"
    assert store.ca_info(CA) is None


def test_a_server_that_hangs_costs_one_timeout(redis_server: ServerMaker) -> None:
    server = redis_server()
    with Store.of(target_for(server, timeout_s=0.1)) as store:
        assert store.ca_info(CA) is None
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match=r"(?i)time"):
                store.ca_info(CA)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        # The late reply belongs to the connection that was dropped.
        store.ensure_ca(CA, name="corp", subject="", certificate=b"")
        assert store.time() > 1_700_000_000


def test_a_write_without_room_is_not_half_done(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    (one,) = serials_of(3, 4, 1)
    put(store, {one: GOOD})
    client.config_set("maxmemory", "100kb")
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        put(store, {one: REVOKED}, "revoked")
    assert store.find_status(CA, one) == GOOD
    client.config_set("maxmemory", "0")
    put(store, {one: REVOKED}, "revoked")
    assert client.hget(NAMES.revoked(CA, serial_hash(one)), one.hex()) == REVOKED.encode()


# --- where Redis is, and as whom ----------------------------------------------------------------------------------------


def config(tmp_path: Path, **redis: Any) -> Config:
    """Return a configuration without the rest."""
    section = RedisConfig.model_construct(
        **({"prefix": "rc:", "timeout": 1, "min_replicas": 0, "roles": RedisRoles(), "ca_certificate": None} | redis)
    )
    return Config.model_construct(data_dir=tmp_path, redis=section, ca=[])


def user(**fields: Any) -> dict[str, Any]:
    """Return the keys of a RedisUser."""
    return {"username": None, "password_file": None, "password_env": None} | fields


def test_users_and_passwords_come_from_files_and_the_environment(
    redis_server: ServerMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server()
    client = server.client()
    client.acl_setuser("all", enabled=True, passwords=["+s3cret one"], keys=["*"], categories=["+@all"])
    client.acl_setuser("loader", enabled=True, passwords=["+s3cret-two"], keys=["*"], categories=["+@all"])
    client.config_set("requirepass", "s3cret/three")
    (tmp_path / "password").write_text("s3cret one\r\nsecond line\n")
    monkeypatch.setenv("LOADER_PASSWORD", "s3cret-two")
    roles = RedisRoles(follow=RedisUser(username="loader", password_env="LOADER_PASSWORD"))
    settings = config(
        tmp_path,
        url=server.url,
        roles=roles,
        **user(username="all", password_file=tmp_path / "password"),
    )
    for role, name in (("serve", "all"), ("presign", "all"), ("follow", "loader")):
        with Store.connect(settings, role) as store:  # type: ignore[arg-type]
            assert store._link.call("ACL", "WHOAMI") == name.encode()
        assert "s3cret" not in repr(target.target_of(settings, role))  # type: ignore[arg-type]
    monkeypatch.setenv("LOADER_PASSWORD", "s3cret-wrong")
    with Store.connect(settings, "follow") as store, pytest.raises(StoreUnavailable) as caught:
        store.ca_info(CA)
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("LOADER_PASSWORD")
    with pytest.raises(
        OperatorError, match=r"redis\.roles\.follow\.password_env: the environment has no LOADER_PASSWORD"
    ):
        Store.connect(settings, "follow")
    (tmp_path / "password").unlink()
    with pytest.raises(OperatorError, match=r"redis\.password_file: cannot be read"):
        Store.connect(settings, "serve")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", ("h", 6379, 0, None, None, False, None)),
        ("redis://:p%40ss@h:7000/3", ("h", 7000, 3, None, "p@ss", False, None)),
        ("rediss://u:p@[::1]:6380", ("::1", 6380, 0, "u", "p", True, None)),
        ("unix:///run/redis%20x.sock", ("localhost", 6379, 0, None, None, False, "/run/redis x.sock")),
    ],
)
def test_urls(tmp_path: Path, url: str, expected: tuple[Any, ...]) -> None:
    found = target.target_of(config(tmp_path, url=url, **user()), "follow")
    got = (found.host, found.port, found.database, found.username, found.password, found.tls, found.unix_path)
    assert got == expected
    assert found.password is None or found.password not in found.label


@pytest.mark.parametrize("url", ["redis://h:port", "redis://h/zero", "redis://h:99999"])
def test_urls_that_mean_nothing(tmp_path: Path, url: str) -> None:
    with pytest.raises(OperatorError, match=r"redis\.url"):
        target.target_of(config(tmp_path, url=url, **user()), "follow")


@pytest.fixture
def tls_server(redis_server: ServerMaker, tmp_path: Path) -> tuple[RedisServer, int, Path]:
    """Start a server that speaks TLS on a port, with a certificate for "localhost"."""
    ca, certificate, key = write_tls_files(tmp_path)
    port = free_port()
    server = redis_server(
        "7",
        tls_port=str(port),
        tls_cert_file=str(certificate),
        tls_key_file=str(key),
        tls_ca_cert_file=str(ca),
        tls_auth_clients="no",
    )
    return server, port, ca


def write_tls_files(directory: Path) -> tuple[Path, Path, Path]:
    """Write a CA, a certificate for "localhost" and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer_name, issuer_key = issuer or (subject, key)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        return subject, key, certificate

    ca_name, ca_key, ca_certificate = make("TLS CA", None)
    _, key, certificate = make("localhost", (ca_name, ca_key))
    paths = directory / "ca.pem", directory / "tls.pem", directory / "tls.key"
    paths[0].write_bytes(ca_certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_tls_checks_certificate_and_name(tls_server: tuple[RedisServer, int, Path], tmp_path: Path) -> None:
    _, port, ca = tls_server
    with Store.connect(
        config(tmp_path, url=f"rediss://localhost:{port}", ca_certificate=ca, **user()), "follow"
    ) as store:
        assert store.ca_info(CA) is None
    for wrong in (
        {"url": f"rediss://localhost:{port}", "ca_certificate": None},  # nobody the system trusts
        {"url": f"rediss://127.0.0.1:{port}", "ca_certificate": ca},  # not the name in the certificate
    ):
        with Store.connect(config(tmp_path, **wrong, **user()), "follow") as store, pytest.raises(StoreUnavailable):
            store.ca_info(CA)


# --- replicas -----------------------------------------------------------------------------------------------------------


def replica_of(server: RedisServer, redis_server: ServerMaker) -> RedisServer:
    """Start a replica and wait until it has everything."""
    port = free_port()
    server.client().config_set("port", port)
    replica = redis_server(server.version, replicaof=f"127.0.0.1 {port}", repl_diskless_load="disabled")
    client = server.client()

    def is_online() -> bool:
        found = client.info("replication").get("slave0")
        return isinstance(found, dict) and found["state"] == "online"

    wait_until(is_online, 20)
    return replica


def settles(store: Store) -> bool:
    """Tell whether the replicas report."""
    try:
        store.settle(CA)
    except StoreUnavailable:
        return False
    return True


def test_a_commit_waits_for_replicas(redis_server: ServerMaker) -> None:
    """DESIGN §5: where there are replicas they must report a commit, else it is not committed and is tried again."""
    server = redis_server("7", repl_diskless_sync_delay="0", repl_timeout="60")
    with Store.of(target_for(server, timeout_s=0.3)) as store:
        store.ensure_ca(CA, name="corp", subject="", certificate=b"")
        store.create_buckets(CA, 4)
        one, two = serials_of(3, 4, 2)
        replica = replica_of(server, redis_server)
        wait_until(lambda: settles(store))  # a replica that has just come reports after a second at the latest
        put(store, {one: GOOD})
        assert replica.client().hget(NAMES.status(CA, 3), one.hex()) == GOOD.encode()
        assert replica.process is not None
        os.kill(replica.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="not committed: 0 of 1 replicas"):
                put(store, {one: REVOKED}, "revoked")
            # It stands here, but may be lost: whoever finds it done must still settle it.
            assert store.find_status(CA, one) == REVOKED
            for wait in (lambda: store.settle(CA), lambda: store.set_as_of(CA, 1_800_000_000)):
                with pytest.raises(StoreUnavailable, match="not committed"):
                    wait()
            with pytest.raises(StoreUnavailable, match="not committed"):
                put(store, {two: GOOD})
        finally:
            os.kill(replica.process.pid, signal.SIGCONT)
        wait_until(lambda: settles(store))
        assert replica.client().hget(NAMES.status(CA, 3), one.hex()) == REVOKED.encode()
        with Store.of(target_for(replica)) as wrong, pytest.raises(StoreUnavailable, match="read only replica"):
            put(wrong, {one: GOOD}, "released")
        findings = {finding.subject: finding for finding in store.check()}
        assert "1 of 1 replicas online" in findings["redis replication"].text


def test_replicas_that_must_be_there(redis_server: ServerMaker) -> None:
    server = redis_server()
    with Store.of(target_for(server, timeout_s=0.1, min_replicas=1)) as store:
        with pytest.raises(StoreUnavailable, match="not committed: 0 of 1"):
            store.ensure_ca(CA, name="corp", subject="", certificate=b"")
        assert store.ca_info(CA) is not None  # reads go on


# --- rights -------------------------------------------------------------------------------------------------------------


def version_of(server: RedisServer) -> tuple[int, int]:
    """Return the version whose rules the server knows."""
    return (7, 0) if server.version == "7" else (6, 2)


@pytest.fixture
def users(each_redis: RedisServer) -> dict[str, redis.Redis]:
    """Return a client for each role, logged in with the least rights, on a store with some content."""
    client = each_redis.client()
    found = {}
    for role in ROLES:
        client.execute_command(
            "ACL", "SETUSER", role, "on", f">{role}", *acl_rules(role, "rc:", version_of(each_redis))
        )
        found[role] = each_redis.client(username=role, password=role)
    return found


def test_the_printed_lines_are_what_redis_takes(each_redis: RedisServer) -> None:
    client = each_redis.client()
    lines = acl_lines("corp.rc:", version_of(each_redis))
    assert len(lines) == len(ROLES)
    for line in lines:
        assert client.execute_command(*line.replace("PASSWORD", "x").split(" ")) in (b"OK", True)
    assert sorted(client.acl_users()) == ["default", *(f"revocast-{role}" for role in sorted(ROLES))]


def denied(client: redis.Redis, *command: Any) -> bool:
    """Tell whether a command is refused for want of rights."""
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError as error:
        # A script is stopped at the command that it has no right to.
        text = str(error).lower()
        if (
            "permission" in text
            or "noperm" in text
            or "can't run this command" in text
            or "can't access at least one of the keys" in text
        ):
            return True
        raise
    return False


def test_each_role_can_do_its_work(each_redis: RedisServer, users: dict[str, redis.Redis]) -> None:
    follow = each_redis.adopt(Store(users["follow"], Layout("rc:")))
    presign = each_redis.adopt(Store(users["presign"], Layout("rc:")))
    follow.ensure_ca(CA, name="corp", subject="", certificate=b"")
    follow.create_buckets(CA, 4)
    mine = serials_of(3, 4, 3)
    put(follow, dict.fromkeys(mine, GOOD))
    put(follow, {mine[0]: REVOKED}, "revoked", 0)
    follow.commit(CA, 3, 4, [Change(mine[2], GOOD, None, "purged")], 5)
    follow.split_bucket(CA, follow.read_status_bucket(CA, 3))
    follow.grow(CA, 5)
    follow.set_as_of(CA, 1_800_000_000, "c", 2)
    follow.settle(CA)
    for store in (follow, presign):
        assert store.find_status(CA, mine[0]) == REVOKED
        store.journal_ends()
        store.read_journal({3: 0})
        store.time(), store.run_id(), store.version(), store.memory_fraction()
        store.check()
    claims = presign.claim_due(range(16), 10.0, 30.0, 10, [CA])
    assert claims
    place = presign.locate(CA, [mine[1]])[0]
    signed = [SignedAnswer(mine[1], GOOD, b"\x00")]
    presign.put_answers(CA, place.bucket, "sha1", 0, b"h", signed, seen=AnswerBucket(), replace=True)
    presign.finish_claim(claims[0], 99.0, 99.0)
    presign.soonest_next_updates([CA])
    presign.make_due(CA, place.bucket, 1)
    presign.due_counts(5)
    presign.put_signer("0" * 16, b"t", b"c")
    presign.get_signer("0" * 16)
    presign.set_sha256_asked(CA, 1_800_000_000)
    presign.exchange_live({"w": {b"x": b"y"}}, 5, 5, 1)
    assert denied(users["serve"], "XADD", NAMES.ask(), "*", "x", "y") is False
    presign.await_live(5)
    assert len(presign.exchange_live({}, 5, 5, 5)) == 1
    presign.load_ask()
    assert not denied(users["serve"], "EVALSHA", scripts.ASK.sha, 1, NAMES.ask(), 9, "x", "y")
    watch = presign.watch(CA, [mine[0]], 5)
    assert len(presign.exchange_live({}, 5, 5, 5, [watch])) == 1
    assert watch.sight is not None
    assert watch.sight.texts == [REVOKED]
    follow.set_override(CA, REVOKED)
    follow.clear_override(CA)


EVAL_HSET = ("EVAL", "return redis.call('HSET', KEYS[1], 'x', 'good')", 1)


def test_the_edge_can_write_nothing_but_questions(each_redis: RedisServer, users: dict[str, redis.Redis]) -> None:
    """Promise 4: a captured worker cannot have "good" signed."""
    serve, status, answers = users["serve"], NAMES.status(CA, 3), NAMES.answers(CA, 3, "sha1")
    each_redis.client().hset(status, ".bits", "4")
    for command in (
        ("HSET", status, "01", GOOD),
        ("HDEL", status, ".bits"),
        ("DEL", status),
        ("HSET", answers, "01", "x"),
        ("SET", NAMES.override(CA, 3), "good"),
        ("ZADD", NAMES.due(3), "0", "x"),
        ("HSET", NAMES.ca(CA), "as_of", "2030-01-01T00:00:00Z"),
        (*EVAL_HSET, status),
        ("SCRIPT", "LOAD", "return 1"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("CLIENT", "LIST"),
        ("ACL", "LIST"),
        ("MONITOR",),
        ("KEYS", "*"),
        ("SHUTDOWN",),
        ("XREADGROUP", "GROUP", "presign", "x", "STREAMS", NAMES.ask(), ">"),
        ("HGETALL", "other:key"),
        ("XADD", "other:stream", "*", "x", "y"),
    ):
        assert denied(serve, *command), command
    if each_redis.version == "7":
        for stream in (NAMES.journal(3), NAMES.replies("w"), NAMES.due(3)):
            assert denied(serve, "XADD", stream, "*", "x", "y"), stream
    assert serve.hget(status, ".bits") == b"4"
    assert serve.xadd(NAMES.ask(), {"x": "y"})


def test_the_edge_may_run_scripts_but_none_that_writes(each_redis: RedisServer, users: dict[str, redis.Redis]) -> None:
    """Promise 4: what a script does is bound by the rights of who runs it, also where keys are not declared."""
    serve, client, status = users["serve"], each_redis.client(), NAMES.status(CA, 3)
    client.hset(status, ".bits", "4")
    for text in (EVAL_HSET[1], "redis.set_repl(redis.REPL_NONE) " + EVAL_HSET[1], EVAL_HSET[1].replace("KEYS", "ARGV")):
        if each_redis.version == "6.2":
            text = "redis.replicate_commands() " + text
        sha = client.script_load(text)
        assert denied(serve, "EVALSHA", sha, *((1, status) if "KEYS" in text else (0, status))), text
    commit = client.script_load(scripts.COMMIT.text.decode())
    keys = [status, *(NAMES.answers(CA, 3, name) for name in ("sha1", "sha256"))]
    keys += [NAMES.changed(CA, 3), NAMES.due(3), NAMES.journal(3)]
    change = ("\x01", "01", "", GOOD, "new", 0)
    assert denied(serve, "EVALSHA", commit, len(keys), *keys, 4, CA, "3", f"{CA}:3", 5, *change)
    assert client.hgetall(status) == {b".bits": b"4"}
    assert client.execute_command("EVALSHA", commit, len(keys), *keys, 4, CA, "3", f"{CA}:3", 5, *change)[0] == 1, (
        "the script itself is whole"
    )


def test_the_presigner_cannot_change_a_status(each_redis: RedisServer, users: dict[str, redis.Redis]) -> None:
    """On Redis 7; 6.2 knows no rights to read alone (docs/security.md)."""
    presign, status = users["presign"], NAMES.status(CA, 3)
    for command in (
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("UNLINK", status),
        ("SET", "rc:x", "y"),
        (*EVAL_HSET, status),
    ):
        assert denied(presign, *command), command
    assert denied(users["follow"], *EVAL_HSET, status)
    if each_redis.version != "7":
        return
    each_redis.client().hset(status, ".bits", "4")
    sha = each_redis.client().script_load(EVAL_HSET[1])
    undeclared = each_redis.client().script_load("return redis.call('HSET', ARGV[1], 'x', 'good')")
    for command in (
        ("HSET", status, "01", GOOD),
        ("DEL", status),
        ("EVALSHA", sha, 1, status),
        ("EVALSHA", undeclared, 0, status),
        ("HSET", NAMES.revoked(CA, 3), "01", "x"),
        ("DEL", NAMES.override(CA, 3)),
    ):
        assert denied(presign, *command), command
    for command in (("HSET", NAMES.signer("0"), "x", "y"), ("XADD", NAMES.ask(), "*", "x", "y")):
        assert denied(users["follow"], *command), command


def test_a_conflict_is_no_lack_of_rights(each_redis: RedisServer, users: dict[str, redis.Redis]) -> None:
    follow = each_redis.adopt(Store(users["follow"], Layout("rc:")))
    with pytest.raises(CommitConflict):
        follow.commit(CA, 3, 4, [Change(b"\x01", None, GOOD, "new")], 5)
