"""Revocast as a contender: one `revocast run` for all loads, its workers on the servers' core, the rest beside wrk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from bench.serve import processes
from bench.serve.corpus import Corpus
from bench.serve.rivals import Contender, Job
from loaders.runner import load_all
from responder import __version__
from responder.config import load_config
from responder.log import configure_logging
from responder.roles.presign import presign_all
from responder.store.embedded import connect_or_start
from tests.server import Revocast, ca_section, wait_until


class Ours(Contender):
    """The whole installation: supervisor, embedded Redis, follow, presign, admin, and the workers."""

    name = "revocast"
    title = "Revocast"

    def __init__(self, corpus: Corpus, directory: Path) -> None:
        """Prepare an installation for the corpus's CA in ``directory``."""
        section = ca_section("bench", corpus.ca, corpus.index)
        self._server = Revocast(directory, [section], head='[log]\nlevel = "warning"\n')
        self._pinned = False

    def load_and_sign(self, progress: Callable[[str, int], None]) -> None:
        """Bring the index into Redis and sign every answer, as the quickstart does."""
        configure_logging("bench", "error")
        self._server.write_config()
        with connect_or_start(load_config(self._server.config).data_dir):
            load_all(self._server.config, lambda done: progress("loading", done))
            presign_all(self._server.config, lambda done: progress("signing", done))

    def open(self) -> None:
        """Start `revocast run`, and wait until its first reading of the index is over."""
        self._server.start()
        self.port = self._server.http[1]
        wait_until("a worker", self.workers)
        processes.wait_until_quiet(self.all_pids)

    def start(self, job: Job) -> None:
        """Have as many workers as the load wants, all of them new: nothing is remembered from another load."""
        self._pinned = job.pinned
        assert self._server.process is not None
        options = "" if job.express else "express = false"
        if (self._server.workers, self._server.http_options) != (job.workers, options):
            self._server.workers, self._server.http_options = job.workers, options
            self._server.write_config()
            old = set(self.workers())
            self._server.process.send_signal(signal.SIGHUP)
            wait_until("the workers", lambda: len(now := self.workers()) == job.workers and not old & set(now))
            processes.wait_until_quiet(self.all_pids)
        else:
            self.forget()
        self._place()

    def forget(self) -> None:
        """Replace the workers by new ones, which know no answer yet."""
        old = self.workers()
        for pid in old:
            os.kill(pid, signal.SIGTERM)
        wait_until("new workers", lambda: len(now := self.workers()) == len(old) and not set(old) & set(now))
        wait_until("a new worker's answer", self._answers)
        processes.wait_until_quiet(self.workers)
        self._place()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(self._server.http, 1) as connection:
                connection.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return bool(connection.recv(1))
        except OSError:
            return False

    def _place(self) -> None:
        generator, servers = processes.cores()
        everywhere = os.sched_getaffinity(0)
        workers = self.workers()
        processes.pin(set(self.all_pids()) - set(workers), {generator} if self._pinned else everywhere)
        processes.pin(workers, {servers} if self._pinned else everywhere)

    def workers(self) -> list[int]:
        """Return the HTTP workers' process ids."""
        found = []
        for pid in self.all_pids():
            words = processes.command_line(pid)
            if "role" in words and words[words.index("role") + 1] == "worker":
                found.append(pid)
        return found

    def pids(self) -> list[int]:
        """Return those whose CPU is the server's: the workers."""
        return self.workers()

    def all_pids(self) -> list[int]:
        """Return every process of the installation."""
        assert self._server.process is not None
        return processes.descendants(self._server.process.pid)

    def stop(self) -> None:
        """Leave it running: it serves the next load too."""

    def close(self) -> None:
        """End it."""
        self._server.stop()

    def version(self) -> str:
        """Return its version."""
        return __version__

    @property
    def log(self) -> str:
        """What it complained about."""
        return self._server.log


def redis_version() -> str:
    """Return the version of the redis-server on PATH, which Revocast starts."""
    words = processes.first_line([shutil.which("redis-server") or "redis-server", "--version"]).split()
    return next((word.removeprefix("v=") for word in words if word.startswith("v=")), "")
