"""Real workers under load: killed, replaced, left by their clients, misled by their journal, and blind (DESIGN §5, §6.5).

Nothing here waits for luck or measures speed: each step waits for what must come, and what was told is judged at the end
(history.py). The clients are those of careful.py, which know what befell each of their requests.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from cryptography.x509 import ocsp

from responder.errors import StoreUnavailable
from responder.model import serial_to_octets
from responder.store.layout import Layout, bucket_number, partition_of, serial_hash
from tests.crash.careful import (
    Answer,
    CarefulClient,
    NoAnswer,
    Question,
    Tally,
    Wire,
    each_told,
    ports_held_by,
    state_of,
    stop_clients,
)
from tests.crash.history import History, Judge, tally
from tests.pki import PKI, Leaf, make_ca, make_leaf, verify
from tests.redis_fixture import RedisServer, start_redis
from tests.reference import request_builder as build
from tests.server import Revocast, ca_section, index_line, request_for, wait_until, write_index
from tests.signing_room import GOOD as GOOD_TEXT
from tests.signing_room import Room

GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
SEED = 4
ENOUGH = 20  # answers that each client must be told between two steps
RELOADS = 3
COLD_SERIALS = range(0x2000, 0x2000 + 400)


def role_of(revocast: Revocast, *words: str) -> int:
    """Return the process id of a role of a Revocast."""
    assert revocast.process is not None
    supervisor = revocast.process.pid

    def find() -> int:
        for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                if "role" in arguments and all(word in arguments for word in words):
                    return int(child)
        return 0

    return wait_until(" ".join(words), find)


def worker_of(revocast: Revocast, slot: int) -> int:
    """Return a worker's process id."""
    return role_of(revocast, "worker", "--slot", str(slot))


def stop_process(pid: int) -> None:
    """Have a process do nothing more until it is sent SIGCONT or SIGKILL."""
    os.kill(pid, signal.SIGSTOP)
    wait_until("the process to stop", lambda: state_of(pid) == "T")


class Town:
    """A running Revocast with two workers on a Redis of its own, and a CA whose certificates are all good."""

    def __init__(self, directory: Path) -> None:
        self.ca: PKI = make_ca(directory, delegated=True)
        self.leaves: list[Leaf] = [make_leaf(self.ca, serial_number=0x1000 + n) for n in range(24)]
        self.redis: RedisServer = start_redis()
        lines = [index_line(leaf) for leaf in self.leaves]
        lines += [lines[0].replace(f"\t{0x1000:X}\t", f"\t{serial:X}\t") for serial in COLD_SERIALS]
        write_index(directory / "index.txt", lines)
        section = ca_section("corp", self.ca, directory / "index.txt")
        self.revocast = Revocast(directory / "run", [section], workers=2, head=self.redis.config_section())
        self.questions = [Question(leaf.serial_number, request_for(leaf, self.ca)) for leaf in self.leaves]

    def start(self) -> None:
        """Start it and wait until the leaves are answered for."""
        self.revocast.start()
        for leaf in self.leaves:
            self.revocast.wait_for(leaf, self.ca, GOOD)

    def clients(self, history: History, met: Tally) -> list[CarefulClient]:
        """Start clients of every kind: keep-alive without and with a pause, and with a connection for each request."""
        kinds = [(True, 0.0)] * 4 + [(True, 0.001)] * 6 + [(False, 0.002)] * 3
        made = [
            CarefulClient(
                history, met, self.revocast.http, self.questions, keep_alive=keep_alive, pause_s=pause_s, seed=SEED + n
            )
            for n, (keep_alive, pause_s) in enumerate(kinds)
        ]
        for client in made:
            client.start()
        return made

    def judge(self, history: History) -> None:
        """Hold what was told against DESIGN §2."""
        verdict = Judge(self.ca, history).judge(self.leaves)
        assert not verdict.complaints, f"{tally(verdict.counts)}\n{verdict.complaints}\n{self.revocast.log[-4000:]}"

    def stop(self) -> None:
        """End everything."""
        self.revocast.stop()
        self.redis.stop()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Give a running town. Tests leave it as it was: two workers, and every certificate good."""
    made = Town(tmp_path_factory.mktemp("town"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


# --- workers killed and replaced ------------------------------------------------------------------------------------


def test_a_killed_worker_loses_its_own_connections_only(town: Town) -> None:
    """DESIGN §6.5. Each worker in turn, under load; whose connections it held is read from the kernel just before."""
    history, met = History(), Tally()
    clients = town.clients(history, met)
    gone: dict[int, float] = {}  # a connection's port → when its worker was killed
    try:
        for slot in (0, 1):
            wait_until("answers", each_told(clients, ENOUGH))
            # Connections that wait, beside those that ask: some with either worker.
            waiting = [Wire(town.revocast.http) for _ in range(24)]
            for wire in waiting:
                wire.send(town.questions[0].get())
                assert wire.read().status == 200
            victim = worker_of(town.revocast, slot)
            stop_process(victim)  # so that it takes no connection behind our back
            held = ports_held_by(victim, town.revocast.http[1])
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            gone |= dict.fromkeys(held, killed_at)
            lost = [wire for wire in waiting if wire.port in held]
            kept = [wire for wire in waiting if wire.port not in held]
            assert lost
            assert kept
            for wire in lost:
                wait_until("the end of its connection", wire.was_closed)
            for wire in kept:
                wire.send(town.questions[0].post())
                assert wire.read().status == 200
            for wire in waiting:
                wire.close()
            # Everybody is answered again, those too whose new connection waits for the successor.
            wait_until("the successor", lambda victim=victim, slot=slot: worker_of(town.revocast, slot) != victim)
            wait_until("answers", each_told(clients, ENOUGH))
    finally:
        stop_clients(clients)
    for loss in met.losses:
        assert loss.port in gone, f"a connection that the killed worker did not hold: {loss}"
        assert loss.opened_at < gone[loss.port] < loss.lost_at, loss
    assert {*met.asked_again, *met.found_closed} <= gone.keys()
    assert not met.announced
    town.judge(history)


def test_rolling_restarts_lose_nothing(town: Town) -> None:
    """SIGHUP replaces every worker, three times under load: each request is answered by the old one or by the new one.

    Strictly: a client whose request was on its way when the old worker went gets its answer, with ``Connection: close``.
    """
    history, met = History(), Tally()
    clients = town.clients(history, met)
    try:
        for _ in range(RELOADS):
            wait_until("answers", each_told(clients, ENOUGH))
            before = {worker_of(town.revocast, slot) for slot in (0, 1)}
            reloads = town.revocast.log.count('"event": "reloaded"')
            assert town.revocast.process is not None
            town.revocast.process.send_signal(signal.SIGHUP)
            wait_until("the reload", lambda reloads=reloads: town.revocast.log.count('"event": "reloaded"') > reloads)
            assert before.isdisjoint({worker_of(town.revocast, slot) for slot in (0, 1)})
        wait_until("answers", each_told(clients, ENOUGH))
    finally:
        stop_clients(clients)
    assert not met.losses, Counter(
        f"{'a later' if loss.served else 'the first'} {loss.method} of a connection: {loss.why}" for loss in met.losses
    )
    town.judge(history)


# --- SEC-12 ---------------------------------------------------------------------------------------------------------


class Asker:
    """Makes questions about cold certificates, and compares every answer with its question."""

    def __init__(self, town: Town, seed: int) -> None:
        self.chance = random.Random(seed)
        self._ca = town.ca
        self._verified: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.shifts: list[str] = []

    def ask(self) -> tuple[tuple[int, str, bytes | None], bytes]:
        """Make a request: stored under SHA-1 and SHA-256, signed live under SHA-384 or with a nonce."""
        serial = self.chance.choice(COLD_SERIALS)
        hash_name = self.chance.choice(("sha1", "sha1", "sha1", "sha256", "sha256", "sha384"))
        nonce = self.chance.randbytes(32) if self.chance.random() < 0.1 else None
        ca = self._ca
        cert_id = build.cert_id(
            serial,
            hash_name,
            name_hash=ca.issuer_name_hash(hash_name),
            key_hash=ca.issuer_key_hash(hash_name),
        )
        request_der = build.request([build.single(cert_id)], extensions=[build.nonce(nonce)] if nonce else [])
        question = Question(serial, request_der)
        wire_form = question.get() if self.chance.random() < 0.5 else question.post()
        return (serial, hash_name, nonce), wire_form

    def compare(self, asked: tuple[int, str, bytes | None], answer: Answer) -> None:
        """Compare an answer with its question: CertID, nonce, signature."""
        serial, hash_name, nonce = asked
        response = ocsp.load_der_ocsp_response(answer.body)
        if answer.status != 200 or response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            self.counts[response.response_status.name.lower()] += 1
            return
        (single,) = response.responses
        told = (single.serial_number, single.hash_algorithm.name, single.issuer_name_hash, single.issuer_key_hash)
        wanted = (serial, hash_name, self._ca.issuer_name_hash(hash_name), self._ca.issuer_key_hash(hash_name))
        if told != wanted:
            self.shifts.append(f"asked {wanted}, told {told}")
        nonces = [extension.value.nonce for extension in response.extensions if hasattr(extension.value, "nonce")]
        # RFC 9919 §3.2.1: without the nonce where the signer is too busy; never with another's.
        if nonces not in ([], [nonce]):
            self.shifts.append(f"asked with nonce {nonce!r}, told {nonces!r}")
        if answer.body not in self._verified:
            verify(response.certificates[0].public_key(), "p256", response.signature, response.tbs_response_bytes)
            self._verified.add(answer.body)
        self.counts[hash_name if not nonces else "nonce"] += 1


class Checker(threading.Thread):
    """Asks on keep-alive connections, one by one and pipelined, and reads every answer."""

    def __init__(self, town: Town, seed: int, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self.asker = Asker(town, seed)
        self.failure: BaseException | None = None
        self._address = town.revocast.http
        self._ended = ended

    def run(self) -> None:
        """Ask until the end; what goes wrong is kept for the test."""
        try:
            while not self._ended.is_set():
                self.connection()
        except Exception as error:
            self.failure = error

    def connection(self) -> None:
        """Use one connection for a while."""
        wire = Wire(self._address)
        for _ in range(20):
            if not self._ended.is_set():
                self.pipeline(wire, self.asker.chance.choice((1, 1, 1, 2, 5, 20)))
        wire.close()

    def pipeline(self, wire: Wire, count: int) -> None:
        """Ask so many questions at once, and compare each answer with its own."""
        asked = [self.asker.ask() for _ in range(count)]
        wire.send(b"".join(octets for _, octets in asked))
        for question, _ in asked:
            self.read(wire, question)

    def read(self, wire: Wire, question: tuple[int, str, bytes | None], way: str = "") -> None:
        """Read the answer to a question, and compare them."""
        try:
            answer = wire.read()
        except NoAnswer as error:
            raise AssertionError(f"{way} {question}, after {wire.served} answers: {error.why}") from None
        self.asker.compare(question, answer)


class Deserter(Checker):
    """Goes away in the midst of a request or of its answers, in every way a client can; counts them."""

    def connection(self) -> None:
        """Connect, ask, perhaps read a part, and go."""
        chance = self.asker.chance
        wire = Wire(self._address)
        if chance.random() < 0.3:
            self.pipeline(wire, 1)
        asked = [self.asker.ask() for _ in range(chance.choice((1, 1, 2, 5, 20)))]
        octets = b"".join(octets for _, octets in asked)
        way = chance.choice(("after", "half", "reading", "half-closed"))
        try:
            if way == "half":
                wire.send(octets[: chance.randrange(1, len(octets))])
            else:
                wire.send(octets)
            if way == "reading":
                for question, _ in asked[: chance.randrange(len(asked) + 1)]:
                    self.read(wire, question, way)
            elif way == "half-closed":
                wire.finish_sending()
                for question, _ in asked:
                    self.read(wire, question, way)
            elif chance.random() < 0.5:
                self._ended.wait(chance.random() * 0.01)
        finally:
            self.asker.counts[way] += 1
            if chance.random() < 0.5:
                wire.reset()
            else:
                wire.close()


class Forgetting(threading.Thread):
    """Has the workers forget by what the journal says, and has Redis keep them waiting now and then."""

    def __init__(self, town: Town, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self.rounds = 0
        self._client = town.redis.client()
        self._ended = ended

    def run(self) -> None:
        """Disturb until the end."""
        chance = random.Random(SEED)
        while not self._ended.wait(0.02):
            for partition in chance.sample(range(16), 4):
                add_to_journal(self._client, partition, ca="ff" * 8, bucket="*", kind="signed")
            if chance.random() < 0.3:
                self._client.execute_command("CLIENT", "PAUSE", chance.randrange(5, 40), "ALL")
            self.rounds += 1


def last_number(client: redis.Redis, partition: int) -> int:
    """Return the number of a journal's last entry."""
    return int(client.xinfo_stream(Layout().journal(partition))["last-generated-id"].split(b"-")[0])


def add_to_journal(client: redis.Redis, partition: int, **entry: str) -> None:
    """Add an entry under the next number, unless the presigner was quicker."""
    number = last_number(client, partition) + 1
    with contextlib.suppress(redis.ResponseError):
        client.xadd(Layout().journal(partition), {"serials": "*", **entry}, id=f"{number}-0")


def test_clients_that_go_away_shift_nobodys_answer(town: Town) -> None:
    """SEC-12: thousands of misses and live questions, many of whose clients have gone, and Redis slow now and then."""
    ended = threading.Event()
    checkers = [Checker(town, SEED + n, ended) for n in range(5)]
    deserters = [Deserter(town, SEED + 100 + n, ended) for n in range(5)]
    everybody = [*checkers, *deserters]
    forgetting = Forgetting(town, ended)
    for thread in (*everybody, forgetting):
        thread.start()

    def nothing_wrong() -> None:
        assert not [shift for one in everybody for shift in one.asker.shifts]
        assert not [one.failure for one in everybody if one.failure]

    def enough() -> bool:
        nothing_wrong()
        assert all(one.is_alive() for one in (*everybody, forgetting))
        read = sum((one.asker.counts for one in everybody), Counter())
        return all(read[kind] > 150 for kind in ("sha384", "nonce", "after", "half", "reading", "half-closed")) and (
            read["sha1"] > 2_500 and read["sha256"] > 1_500 and forgetting.rounds > 50
        )

    try:
        wait_until("enough answers", enough)
    finally:
        ended.set()
        for thread in (*everybody, forgetting):
            thread.join(20)
    nothing_wrong()
    # Nothing was left behind that meets those who come later.
    asker = Asker(town, SEED)
    wire = Wire(town.revocast.http)
    for _ in range(200):
        question, octets = asker.ask()
        wire.send(octets)
        asker.compare(question, wire.read())
    wire.close()
    assert not asker.shifts
    assert "Traceback" not in town.revocast.log, town.revocast.log[-4000:]
    assert set(asker.counts) <= {"sha1", "sha256", "sha384", "nonce"}, asker.counts


# --- what the journal does to a worker ------------------------------------------------------------------------------
# On a real Redis, but with the follower inside the test, tests/unit/test_journal.py and test_failover.py show more of
# this; test_whole_system.py has Redis killed and started again from its append-only file behind an acknowledgement.

BITS = 5  # so that two buckets share a partition: an entry about one does not end the answers of the other
SERIALS = range(0x3000, 0x3000 + 300)


def bucket_of(serial: int) -> int:
    """Return a serial's bucket."""
    return bucket_number(serial_hash(serial_to_octets(serial)), BITS)


def neighbours() -> Iterator[tuple[int, int]]:
    """Give pairs of certificates in two buckets of one partition, another partition each time."""
    for partition in range(16):
        yield (
            next(serial for serial in SERIALS if bucket_of(serial) == partition),
            next(serial for serial in SERIALS if bucket_of(serial) == partition + 16),
        )


class LiveSigning(threading.Thread):
    """Answers live questions, as the presigning role does, through every outage."""

    def __init__(self, room: Room) -> None:
        super().__init__(daemon=True)
        self._room = room
        self._ended = threading.Event()

    def run(self) -> None:
        """Answer until the end."""
        while not self._ended.wait(0.01):
            with contextlib.suppress(StoreUnavailable):
                live = self._room.live()
                while not self._ended.is_set():
                    live.poll(20)

    def stop(self) -> None:
        """Stop answering."""
        self._ended.set()
        if self.is_alive():
            self.join(20)


class Outpost:
    """One worker (`revocast serve`) on a Redis that the test fills.

    What is asked for and not ready is signed live; what is stored is signed when the test says so.
    """

    def __init__(self, server: RedisServer, directory: Path, *, max_blind: str = "1h") -> None:
        self.redis = server
        self.room = Room(server, directory)
        self.room.load(dict.fromkeys(SERIALS, GOOD_TEXT), bits=BITS)
        section = (
            f'[[ca]]\nname = "corp"\ncertificate = "{directory / "ca.pem"}"\n'
            f'source = {{ type = "openssl", path = "{directory / "index.txt"}" }}\n'
            f'ocsp = {{ certificate = "{directory / "ocsp.pem"}", key = "{directory / "ocsp.key"}", '
            f'max_blind = "{max_blind}" }}\n'
        )
        head = server.config_section() + 'timeout = "1s"\n'
        self.revocast = Revocast(directory / "run", [section], head=head, command="serve")
        self._live = LiveSigning(self.room)

    def start(self) -> None:
        """Sign everything, and start the worker."""
        self._live.start()
        self.sign()
        self.revocast.start()

        def good() -> bool:
            with contextlib.suppress(OSError):  # it may not have begun to read its socket
                return self.told(SERIALS[0]) == "good"
            return False

        wait_until("an answer", good)

    def sign(self) -> None:
        """Have everything signed that is due."""
        self.room.presigner().run_until_idle()

    def revoke(self, serial: int) -> None:
        """Commit a revocation, over a connection of its own: Redis may be another one than before."""
        self.room.store = self.room.new_store()
        self.room.change(serial, "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z")

    def told(self, serial: int) -> str:
        """Ask, and return good, revoked, or why not; the answer must be about what was asked."""
        issuer = self.room.issuer
        hashes = {"name_hash": issuer.name_hashes["sha1"], "key_hash": issuer.key_hashes["sha1"]}
        request_der = build.request([build.single(build.cert_id(serial, **hashes))])
        http_status, body = self.revocast.post(request_der)
        assert http_status == 200
        response = ocsp.load_der_ocsp_response(body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name.lower()
        assert self.room.read(body).serial_number == serial
        return response.certificate_status.name.lower()

    def hears_of(self, serial: int) -> None:
        """See the worker take notice of a revocation by itself: nothing is signed, hence in the journal, before it has."""
        wait_until("the end of good", lambda: self.told(serial) != "good")
        told = {self.told(serial) for _ in range(ENOUGH)}
        self.sign()
        told |= {self.told(serial) for _ in range(ENOUGH)}
        assert "good" not in told
        wait_until("revoked", lambda: self.told(serial) == "revoked")

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Stop the worker for a while."""
        pid = worker_of(self.revocast, 0)
        stop_process(pid)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End everything but Redis."""
        self.revocast.stop()
        self._live.stop()
        self.room.close()


@pytest.fixture(scope="module")
def outpost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outpost]:
    """Give a worker that has been told nothing but good."""
    server = start_redis()
    made = Outpost(server, tmp_path_factory.mktemp("outpost"))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        server.stop()


@pytest.fixture(scope="module")
def pairs() -> Iterator[tuple[int, int]]:
    """Give certificates that no other test has taken."""
    return neighbours()


@pytest.fixture
def pair(outpost: Outpost, pairs: Iterator[tuple[int, int]]) -> tuple[int, int]:
    """Give two certificates of two buckets of one partition, both in the worker's table as good."""
    pair = next(pairs)
    for serial in pair:
        wait_until("good", lambda serial=serial: outpost.told(serial) == "good")
    return pair


def test_a_revocation_whose_entry_was_trimmed_is_seen_by_the_gap(outpost: Outpost, pair: tuple[int, int]) -> None:
    """DESIGN §5: the entry is gone before the worker reads it, and the next one is about another bucket."""
    victim, other = pair
    with outpost.deaf():
        outpost.revoke(victim)
        outpost.redis.client().xtrim(Layout().journal(partition_of(bucket_of(victim))), maxlen=0, approximate=False)
        outpost.revoke(other)
    outpost.hears_of(victim)
    outpost.hears_of(other)


def test_a_revocation_whose_entry_was_trimmed_is_seen_though_nothing_follows(
    outpost: Outpost, pair: tuple[int, int]
) -> None:
    """The same, and no other entry shows the gap: the number of the last one does."""
    victim, _ = pair
    with outpost.deaf():
        outpost.revoke(victim)
        outpost.redis.client().xtrim(Layout().journal(partition_of(bucket_of(victim))), maxlen=0, approximate=False)
    outpost.hears_of(victim)


def test_a_revocation_in_a_journal_begun_anew_is_seen(outpost: Outpost, pair: tuple[int, int]) -> None:
    """The same Redis, but numbers that the worker has long passed."""
    victim, other = pair
    journal = Layout().journal(partition_of(bucket_of(victim)))
    # The worker has seen more entries than will come.
    for _ in range(5):
        add_to_journal(outpost.redis.client(), partition_of(bucket_of(victim)), ca="ff" * 8, bucket="0", kind="new")
    outpost.revoke(other)
    wait_until("the end of good", lambda: outpost.told(other) != "good")
    wait_until("good", lambda: outpost.told(victim) == "good")
    with outpost.deaf():
        outpost.redis.client().delete(journal)
        outpost.revoke(victim)
        assert last_number(outpost.redis.client(), partition_of(bucket_of(victim))) == 1
    outpost.hears_of(victim)


def test_a_revocation_after_an_older_state_was_restored_is_seen(outpost: Outpost, pair: tuple[int, int]) -> None:
    """Redis comes back from an older dump: another run_id, and another entry under the number that was seen last."""
    victim, other = pair
    partition = partition_of(bucket_of(victim))
    outpost.redis.client().save()
    outpost.revoke(other)
    wait_until("the end of good", lambda: outpost.told(other) != "good")
    wait_until("good", lambda: outpost.told(victim) == "good")
    seen = last_number(outpost.redis.client(), partition)
    with outpost.deaf():
        outpost.redis.kill()
        outpost.redis.start()
        outpost.revoke(victim)
        while last_number(outpost.redis.client(), partition) < seen:
            add_to_journal(outpost.redis.client(), partition, ca="ff" * 8, bucket="0", kind="new")
    outpost.hears_of(victim)


# --- max_blind ------------------------------------------------------------------------------------------------------

MAX_BLIND_S = 3


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_worker_without_redis_says_good_for_max_blind_and_revoked_for_ever(
    redis_server: Callable[..., RedisServer], tmp_path: Path, how: str
) -> None:
    """Promise 1: a worker that is cut off knows it. And good comes back with Redis."""
    server = redis_server(appendonly="yes", appendfsync="always")
    outpost = Outpost(server, tmp_path, max_blind=f"{MAX_BLIND_S}s")
    good, revoked = SERIALS[0], SERIALS[1]
    outpost.revoke(revoked)
    told: list[tuple[float, str]] = []  # when it was asked for, and what was said
    try:
        outpost.start()
        for serial, wanted in ((good, "good"), (revoked, "revoked")):
            wait_until(wanted, lambda serial=serial, wanted=wanted: outpost.told(serial) == wanted)
        assert server.process is not None
        if how == "killed":
            server.kill()
        else:
            stop_process(server.process.pid)
        cut_off_at = time.monotonic()  # CLOCK_MONOTONIC is one for all processes

        def blind() -> bool:
            asked_at = time.monotonic()
            told.append((asked_at, outpost.told(good)))
            assert outpost.told(revoked) == "revoked"
            return told[-1][1] != "good"

        wait_until("tryLater", blind)
        for _ in range(ENOUGH):
            assert blind(), "good came back without Redis"
        goods = [asked_at for asked_at, what in told if what == "good"]
        assert {what for _, what in told} == {"good", "try_later"}
        assert cut_off_at + 1 <= goods[-1] <= cut_off_at + MAX_BLIND_S + 1
        if how == "killed":
            server.start()
        else:
            server.process.send_signal(signal.SIGCONT)
        wait_until("good", lambda: outpost.told(good) == "good")
        wait_until("revoked", lambda: outpost.told(revoked) == "revoked")
    finally:
        outpost.stop()
