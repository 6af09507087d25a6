"""The other servers, each started on a loopback port of its own for one load and ended by its process id.

Each is set up as somebody who wants it fast would: what was tried is said beside the setting.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from bench.serve import processes
from bench.serve.corpus import Corpus
from responder.process import die_with_parent
from tests.server import wait_until

CONNECTIONS = 64  # that the generator holds open at a time


@dataclass(frozen=True)
class Job:
    """What a load wants of a server: ``body`` is what those serve that know no OCSP."""

    body: bytes
    pinned: bool
    workers: int
    closing: bool
    express: bool = True  # of Revocast: its express lane


class Contender(ABC):
    """One server under test. ``start`` may be called again after ``stop``."""

    name: str
    title: str
    speaks_ocsp = True
    says_of_foreign = "unauthorized"  # or unknown, in a signed answer
    bears_wrk = True
    port = 0

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start it and wait until it listens; pinned to the servers' core where the job says so."""

    @abstractmethod
    def stop(self) -> None:
        """End it."""

    @abstractmethod
    def version(self) -> str:
        """Return what it is, with its version."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Return the processes whose CPU counts as the server's."""

    def all_pids(self) -> list[int]:
        """Return every process of it, also those that are not on the way of a request."""
        return self.pids()

    def forget(self) -> None:  # noqa: B027 - most remember nothing
        """Lose what was remembered of earlier requests."""


class Rival(Contender):
    """A server of somebody else's: one command."""

    def __init__(self, corpus: Corpus, directory: Path) -> None:
        """``directory`` is for its files."""
        self.corpus = corpus
        self.directory = directory / self.name
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, job: Job) -> list[str]:
        """Prepare its files and return the command that serves in the foreground on ``self.port``."""

    def start(self, job: Job) -> None:
        """Start it and wait until it listens."""
        self.port = processes.free_port()
        command = self.command(job)
        if job.pinned:
            command = ["taskset", "-c", str(processes.cores()[1]), *command]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=die_with_parent(),
            )
        self._wait(self._process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it listens."""
        wait_until(f"{self.title} to listen", lambda: self._alive() and processes.listens(self.port))

    def _alive(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.title} ended: {(self.directory / 'log').read_text(errors='replace')[-2000:]}")
        return True

    def stop(self) -> None:
        """End it and its children."""
        if self._process:
            processes.end(self._process)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def pids(self) -> list[int]:
        """Return all its processes."""
        assert self._process is not None
        return processes.descendants(self._process.pid)


class Floor(Rival):
    """A bare epoll loop in C (floor.c): what reading and writing alone cost."""

    name = "floor"
    title = "floor: epoll loop in C"
    speaks_ocsp = False

    def command(self, job: Job) -> list[str]:
        """Compile it, once."""
        binary = compiled("floor", self.directory)
        (self.directory / "body").write_bytes(job.body)
        return [str(binary), "body", *(["close"] if job.closing else [])]

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def version(self) -> str:
        """Return the compiler's version."""
        return f"floor.c, {processes.first_line(['gcc', '--version'])}"


class NginxFile(Rival):
    """One nginx worker that serves one file of the answers' size, whatever it is asked, GET or POST."""

    name = "nginx"
    title = "nginx serving a file"
    speaks_ocsp = False

    # sendfile off: for a kilobyte it costs a second packet, and nearly half of the speed; tcp_nopush on top of it, two
    # more system calls. The static module answers a POST with 405, which error_page turns into the file.
    CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log log error;
events {{ worker_connections 4096; use epoll; multi_accept on; }}
http {{
    access_log off;
    sendfile off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    etag off;
    max_ranges 0;
    server_tokens off;
    merge_slashes off;
    types {{ }}
    default_type application/ocsp-response;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location ~ ^ {{ alias {directory}/answer.der; }}
        location = / {{ return 405; error_page 405 =200 /answer; }}
        location = /answer {{ alias {directory}/answer.der; }}
    }}
}}
"""

    def command(self, job: Job) -> list[str]:
        """Write file and configuration."""
        self.directory.chmod(0o755)  # the worker is another user where it is started as root
        (self.directory / "answer.der").write_bytes(job.body)
        (self.directory / "nginx.conf").write_text(self.CONFIG.format(directory=self.directory, port=self.port))
        return ["nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf"), "-e", "log"]

    def version(self) -> str:
        """Return its version."""
        return processes.first_line(["nginx", "-v"]).removeprefix("nginx version: ")


class OpensslOCSP(Rival):
    """`openssl ocsp -index`: signs every answer when it is asked, and closes the connection after it.

    A process of it that is connected to and asked nothing spins for ever and answers no more (OpenSSL's issue 23934). So
    it is not probed, wrk does not measure it (it probes first), and it has a limited life.
    """

    name = "openssl"
    title = "openssl ocsp"
    says_of_foreign = "unknown"
    bears_wrk = False
    processes_count = 1
    LIFETIME_S = 1200

    def command(self, job: Job) -> list[str]:
        """Give it the hot certificates only: it reads all of its index into memory."""
        ca = self.corpus.ca
        assert ca.signer is not None
        several = ["-multi", str(self.processes_count)] if self.processes_count > 1 else []
        # It listens on every interface: it has no option for an address.
        return [
            *("timeout", "--foreground", "-k", "1", str(self.LIFETIME_S)),
            *("openssl", "ocsp", "-index", str(self.corpus.short_index), "-port", str(self.port)),
            *("-rsigner", str(ca.signer.certificate_path), "-rkey", str(ca.signer.key_path)),
            *("-CA", str(ca.certificate_path), "-ndays", "4", *several),
        ]

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        if not process.stdout.readline().startswith(b"ACCEPT"):
            self._alive()

    def version(self) -> str:
        """Return its version."""
        return processes.first_line(["openssl", "version"])


class OpensslMulti(OpensslOCSP):
    """The same with two processes."""

    name = "openssl-multi"
    title = "openssl ocsp -multi 2"
    processes_count = 2


class Cfssl(Rival):
    """`cfssl ocspserve` with ready answers in memory. POST only: the GET of Debian's build answers 400."""

    name = "cfssl"
    title = "cfssl ocspserve"

    def command(self, job: Job) -> list[str]:
        """Serve the answers that Revocast signed (corpus.answers): the same octets from both."""
        return [
            *("cfssl", "ocspserve", "-address", "127.0.0.1", "-port", str(self.port)),
            *("-responses", str(self.corpus.answers), "-loglevel", "5"),
        ]

    def version(self) -> str:
        """Return its version and its Go's."""
        done = subprocess.run(["cfssl", "version"], capture_output=True, text=True, check=False, timeout=10)
        package = processes.first_line(["dpkg-query", "-W", "-f", "${Version}", "golang-cfssl"])
        return ", ".join(filter(None, [f"golang-cfssl {package}", *done.stdout.strip().splitlines()[1:]]))


def compiled(name: str, directory: Path) -> Path:
    """Compile one of the C programs beside this file into ``directory``."""
    binary = directory / name
    if not binary.exists():
        source = Path(__file__).with_name(f"{name}.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)], check=True)
    return binary
