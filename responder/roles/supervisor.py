"""Keeps the roles of one machine up: starts them, starts them again, replaces them, and stops them all in time.

It holds the listening sockets, so that a worker may come and go without losing a connection that waits in the queue
(DESIGN §6.5), and nothing else: no key, no connection to Redis. Called by ``revocast run | serve | follow | presign``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import multiprocess

from responder import audit
from responder.config import ACCEPTED_CONFIG_ENV, Config, HTTPConfig, load_config
from responder.errors import ConfigError
from responder.http.server import open_socket
from responder.issuers import Issuers
from responder.log import get_logger
from responder.process import READY_FD_ENV, die_with_parent
from responder.store.embedded import EmbeddedRedis

log = get_logger(__name__)

STOP_WITHIN_S = 5.0  # SIGTERM to the last process gone
REDIS_STOP_S = 0.7  # of these, what the embedded Redis may take
CHECK_WITHIN_S = 30.0  # that trying the keys of a new configuration may take; a token may be slow
READY_WITHIN_S = 30.0  # a replacement that is not at work by then is given up
KEPT_DEAD = 50  # dead processes whose counters still count
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
STEADY_AFTER_S = 10.0  # a role that ran this long starts its back-off anew

ALL_ROLES = ("follow", "presign", "publish", "worker")
CHECKED_ROLES = ("follow", "presign", "publish")  # those that `role NAME --check` can try without starting


def is_needed(role: str, config: Config) -> bool:
    """Say whether a role has anything to do: publish only where a CA has CRLs."""
    return role != "publish" or any(ca.crl is not None for ca in config.ca)


@dataclass(eq=False)
class Role:
    """One supervised process; ``process`` is None between a death and the next start."""

    name: str
    arguments: tuple[str, ...]
    fds: tuple[int, ...] = ()
    process: asyncio.subprocess.Process | None = None
    wanted: bool = True
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Runs the roles asked for until SIGTERM or SIGINT; SIGHUP takes up a changed configuration."""

    def __init__(self, config_file: Path, roles: Sequence[str] = ALL_ROLES) -> None:
        """Read the configuration; raises ConfigError."""
        self._config_file = config_file.resolve()
        self._role_names = tuple(roles)
        self._config = load_config(config_file)
        self._sockets: dict[tuple[str, int], list[socket.socket]] = {}  # an address → one socket for each worker slot
        self._admin_socket: socket.socket | None = None
        self._roles: list[Role] = []
        self._redis: EmbeddedRedis | None = None
        self._stopping = asyncio.Event()
        self._dead: deque[int] = deque()  # process ids of roles whose counters are still in the metrics directory

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start everything, wait for a signal, stop everything; returns the exit code."""
        run_dir = self._config.data_dir / "run"
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._metrics_dir = self._config.data_dir / "metrics"
        shutil.rmtree(self._metrics_dir, ignore_errors=True)
        self._metrics_dir.mkdir(mode=0o700)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._reloading: asyncio.Task[None] | None = None
        self._accept(self._config, self._config_file.read_bytes())
        self._open_sockets(self._config)
        try:
            if self._config.redis is None:
                self._redis = EmbeddedRedis(self._config.data_dir)
                await asyncio.to_thread(self._redis.start)
                self._redis_keeper = asyncio.create_task(self._keep_redis(self._redis))
            self._roles = self._wanted_roles(self._config)
            for role in self._roles:
                role.keeper = asyncio.create_task(self._keep(role))
            self._report_addresses(run_dir)
            await self._stopping.wait()
        finally:
            await self._stop()
        return 0

    async def _stop(self) -> None:
        """End every process within STOP_WITHIN_S: politely first, then not."""
        if self._reloading:
            # Its roles, old and new, are all in self._roles; let go of it first, so that it starts no other.
            self._reloading.cancel()
            await asyncio.wait([self._reloading], timeout=REDIS_STOP_S)
        for role in self._roles:
            role.wanted = False
            self._signal(role, signal.SIGTERM)
        keepers = [role.keeper for role in self._roles if role.keeper]
        if keepers:
            await asyncio.wait(keepers, timeout=STOP_WITHIN_S - REDIS_STOP_S - 0.3)
        for role in self._roles:
            if role.process and role.process.returncode is None:
                log.warning("role_killed", name=role.name, pid=role.process.pid)
                self._signal(role, signal.SIGKILL)
        if keepers:
            await asyncio.wait(keepers, timeout=0.3)
        if self._redis:
            self._redis_keeper.cancel()
            await asyncio.to_thread(self._redis.stop, REDIS_STOP_S)
        for sockets in self._sockets.values():
            for held in sockets:
                held.close()
        if self._admin_socket:
            self._admin_socket.close()
        log.info("stopped")

    # --- one role -----------------------------------------------------------------------------------------------

    async def _keep(self, role: Role) -> None:
        """Start a role again whenever it ends, until it is no longer wanted."""
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_FIRST_S
        while not self._retired(role):
            started = loop.time()
            try:
                await self._start(role)
            except OSError as error:
                # Out of processes, descriptors or memory: perhaps not for long.
                log.error("role_not_started", name=role.name, error=str(error), again_in_s=round(backoff, 2))
            else:
                assert role.process is not None  # noqa: S101 - _start sets it
                code = await role.process.wait()
                self._forget_metrics(role.process.pid)
                audit.record("role_ended", role=role.name, pid=role.process.pid, exit_code=code)
                if self._retired(role):
                    return
                if loop.time() - started > STEADY_AFTER_S:
                    backoff = BACKOFF_FIRST_S
                log.error("role_died", name=role.name, exit_code=code, again_in_s=round(backoff, 2))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(backoff * 2, BACKOFF_MOST_S)

    def _forget_metrics(self, pid: int) -> None:
        """Let go of a dead process's gauges at once, and of its counters once KEPT_DEAD others have died after it.

        A role that dies again and again would else fill the directory; to Prometheus the sum then looks like a reset.
        """
        multiprocess.mark_process_dead(pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]
        self._dead.append(pid)
        if len(self._dead) > KEPT_DEAD:
            for file in self._metrics_dir.glob(f"*_{self._dead.popleft()}.db"):
                file.unlink(missing_ok=True)

    def _retired(self, role: Role) -> bool:
        return not role.wanted

    async def _start(self, role: Role, ready_fd: int | None = None) -> None:
        environment = dict(os.environ)
        environment[ACCEPTED_CONFIG_ENV] = str(self._accepted)
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics_dir)
        fds = role.fds
        if ready_fd is not None:
            environment[READY_FD_ENV] = str(ready_fd)
            fds = (*fds, ready_fd)
        role.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "responder",
            "role",
            *role.arguments,
            "-c",
            str(self._config_file),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=fds,
            env=environment,
            preexec_fn=die_with_parent(),
            # Its own group: a terminal's Ctrl-C reaches the supervisor alone, which then stops the roles in order.
            process_group=0,
        )
        audit.record("role_started", role=role.name, pid=role.process.pid)
        if self._stopping.is_set() or not role.wanted:
            self._signal(role, signal.SIGTERM)

    def _signal(self, role: Role, number: signal.Signals) -> None:
        if role.process and role.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                role.process.send_signal(number)

    async def _keep_redis(self, redis: EmbeddedRedis) -> None:
        """Start the embedded Redis again when it ends; what it acknowledged is in its append-only file."""
        while True:
            code = await asyncio.to_thread(redis.wait)
            if self._stopping.is_set():
                return
            log.error("redis_died", exit_code=code)
            try:
                await asyncio.to_thread(redis.start)
            except Exception as error:
                log.exception("redis_not_started", error=str(error))
                await asyncio.sleep(BACKOFF_MOST_S)

    # --- configuration ------------------------------------------------------------------------------------------

    def _accept(self, config: Config, text: bytes) -> None:
        """Keep the text that the roles are to read, also after the file has changed."""
        self._config = config
        self._accepted = self._write_text("accepted", text)
        audit.record("config_accepted", config=hashlib.sha256(text).hexdigest())

    def _write_text(self, name: str, text: bytes) -> Path:
        path = self._config.data_dir / "run" / f"{name}-{os.getpid()}.toml"
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(text)
        fresh.replace(path)
        return path

    def _reload(self) -> None:
        """SIGHUP: take up the changed file, or keep the old one and say why."""
        if self._reloading and not self._reloading.done():
            log.warning("reload_skipped", reason="the last one is still under way")
            return
        if not self._stopping.is_set():
            self._reloading = asyncio.create_task(self._take_up())

    async def _take_up(self) -> None:
        try:
            text = self._config_file.read_bytes()
            config = load_config(self._config_file)
            if self._config_file.read_bytes() != text:
                raise ConfigError(str(self._config_file), "", "changed while it was read; send SIGHUP again")
            if config.data_dir != self._config.data_dir or (config.redis is None) != (self._config.redis is None):
                raise ConfigError(str(self._config_file), "data_dir, redis", "cannot change while running; restart")
            Issuers.from_config(config, str(self._config_file))
            problem = await self._check_roles(config, text)
            if problem is None:
                self._open_sockets(config)
                self._accept(config, text)
        except (ConfigError, OSError) as error:
            problem = str(error)
        if problem is not None:
            # A socket that nobody accepts from would take its share of the connections.
            self._close_unused(self._config)
            audit.record("config_refused", reason=problem)
            log.error("reload_refused", reason=problem)
            return
        try:
            await self._replace_all(config)
        except Exception as error:
            log.exception("reload_failed", error=str(error))

    async def _check_roles(self, config: Config, text: bytes) -> str | None:
        """See whether the roles could work with a new configuration, as is done at the start; returns what is wrong."""
        candidate = self._write_text("candidate", text)
        try:
            for role in CHECKED_ROLES:
                if role not in self._role_names or not is_needed(role, config):
                    continue
                if (problem := await self._check_role(role, candidate)) is not None:
                    return problem
        finally:
            candidate.unlink(missing_ok=True)
        return None

    async def _check_role(self, role: str, candidate: Path) -> str | None:
        check = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "responder", "role", role, "--check", "-c", str(self._config_file)),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, ACCEPTED_CONFIG_ENV: str(candidate)},
            preexec_fn=die_with_parent,
            process_group=0,
        )
        try:
            _, said = await asyncio.wait_for(check.communicate(), CHECK_WITHIN_S)
        except TimeoutError:
            return f"{role} was not checked within {CHECK_WITHIN_S:g} s"
        finally:
            if check.returncode is None:
                check.kill()
        if check.returncode == 0:
            return None
        lines = said.decode(errors="replace").strip().splitlines()
        return next((line for line in lines if line.startswith("revocast: ")), f"exit code {check.returncode}")

    async def _replace_all(self, config: Config) -> None:
        """Replace every role by one with the new configuration; a worker's successor is at work before it goes."""
        old, wanted = self._roles, self._wanted_roles(config)
        # All of them are known throughout: SIGTERM may come at any moment.
        self._roles = [*old, *wanted]
        fresh = {role.name: role for role in wanted}
        for role in old:
            successor = fresh.pop(role.name, None)
            if successor is None:
                await self._retire(role)
            elif role.name.startswith("worker"):
                await self._take_over(role, successor)
            else:
                await self._retire(role)
                successor.keeper = asyncio.create_task(self._keep(successor))
        for role in fresh.values():
            role.keeper = asyncio.create_task(self._keep(role))
        self._roles = wanted
        self._close_unused(config)
        self._report_addresses(config.data_dir / "run")
        log.info("reloaded")

    async def _take_over(self, old: Role, successor: Role) -> None:
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        try:
            try:
                await self._start(successor, write_fd)
            except OSError as error:
                log.error("role_not_started", name=successor.name, error=str(error))
                successor.keeper = asyncio.create_task(self._keep(successor))
            else:
                successor.keeper = asyncio.create_task(self._adopt(successor))
            os.close(write_fd)
            write_fd = -1
            ready = asyncio.Event()
            asyncio.get_running_loop().add_reader(read_fd, ready.set)  # also on its death: end of file
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), READY_WITHIN_S)
        finally:
            asyncio.get_running_loop().remove_reader(read_fd)
            os.close(read_fd)
            if write_fd >= 0:
                os.close(write_fd)
        await self._retire(old)

    async def _adopt(self, role: Role) -> None:
        """Keep a role that was started already."""
        assert role.process is not None  # noqa: S101 - started by _take_over
        await role.process.wait()
        if role.wanted:
            await self._keep(role)

    async def _retire(self, role: Role) -> None:
        role.wanted = False
        self._signal(role, signal.SIGTERM)
        if role.keeper:
            done, _ = await asyncio.wait([role.keeper], timeout=self._config.http.drain + 1)
            if not done:
                self._signal(role, signal.SIGKILL)
                await role.keeper

    def _wanted_roles(self, config: Config) -> list[Role]:
        roles: list[Role] = []
        for name in ("follow", "presign", "publish"):
            if name in self._role_names and is_needed(name, config):
                roles.append(Role(name, (name,)))
        if "worker" in self._role_names:
            for slot in range(config.http.workers):
                fds = tuple(self._sockets[address][slot].fileno() for address in config.http.listen)
                arguments = ("worker", "--slot", str(slot), "--fds", ",".join(map(str, fds)))
                roles.append(Role(f"worker-{slot}", arguments, fds))
            shares = any(ca.crl is not None and ca.crl.share for ca in config.ca)
            if shares and config.redis is not None and "publish" not in self._role_names:
                roles.append(Role("depot", ("depot",)))
        assert self._admin_socket is not None  # noqa: S101 - _open_sockets sets it
        admin_fd = self._admin_socket.fileno()
        public = (
            ",".join(self._bound(address) for address in config.http.listen) if "worker" in self._role_names else ""
        )
        roles.append(Role("admin", ("admin", "--fd", str(admin_fd), "--public", public), (admin_fd,)))
        return roles

    # --- sockets ------------------------------------------------------------------------------------------------

    def _open_sockets(self, config: Config) -> None:
        """Open what is not open yet: for each address one SO_REUSEPORT socket a worker slot."""
        if "worker" in self._role_names:
            for address in config.http.listen:
                held = self._sockets.setdefault(address, [])
                while len(held) < config.http.workers:
                    port = held[0].getsockname()[1] if held else address[1]
                    held.append(self._open("http.listen", address[0], port))
        wanted = config.admin.listen
        if self._admin_socket is None or (wanted != self._config.admin.listen):
            fresh = self._open("admin.listen", *wanted)
            if self._admin_socket is not None:
                self._admin_socket.close()
            self._admin_socket = fresh

    def _open(self, key: str, host: str, port: int) -> socket.socket:
        try:
            return open_socket(host, port)
        except OSError as error:
            raise ConfigError(str(self._config_file), key, f"cannot listen on {host}:{port}: {error}") from error

    def _close_unused(self, config: HTTPConfig | Config) -> None:
        http = config.http if isinstance(config, Config) else config
        for address in list(self._sockets):
            keep = http.workers if address in http.listen else 0
            for held in self._sockets[address][keep:]:
                held.close()
            del self._sockets[address][keep:]
            if not self._sockets[address]:
                del self._sockets[address]

    def _bound(self, address: tuple[str, int]) -> str:
        host, port = self._sockets[address][0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _report_addresses(self, run_dir: Path) -> None:
        """Write what was bound to ``run/addresses``, a line each: with port 0 nobody could know it otherwise."""
        lines = [f"http {self._bound(address)}" for address in self._sockets]
        if self._admin_socket:
            host, port = self._admin_socket.getsockname()[:2]
            lines.append(f"admin [{host}]:{port}" if ":" in host else f"admin {host}:{port}")
        fresh = run_dir / "addresses.new"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(run_dir / "addresses")
        log.info("listening", addresses=lines, pid=os.getpid())
