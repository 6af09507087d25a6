"""The loads: what is asked, of whom, and how. Each is one table of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.serve.corpus import ID_PKIX_OCSP_NONCE, Corpus, RequestFiles

NONCES = 20_000
ZIPF_REQUESTS_A_SECOND = 200_000  # more than any contender answers: no round repeats what another has asked


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, and the seconds of each run."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """One load. ``prepare`` writes its request files; ``note`` says what a reader must know to judge the numbers."""

    name: str
    title: str
    note: str
    contenders: tuple[str, ...]
    prepare: Callable[[Corpus, Plan, str], RequestFiles]
    pinned: bool = True  # generator and servers on a core each; else everything on all cores, and the clock on the wall
    workers: int = 1  # of Revocast
    express: bool = True  # of Revocast: its express lane
    single: bool = False  # one request, again and again, so that wrk runs no script and is not the limit
    nginx_by_get: bool = False  # nginx is asked by GET all the same: a file server's own way
    closing: bool = False  # one request a connection
    cold: bool = False  # nothing is remembered, and nothing asked twice
    stretches: bool = False  # each run has a part of the order of its own
    is_error: bool = False  # the answers are OCSP errors of five octets, so nginx and the floor serve those
    wrk: bool = True  # else the closed loop of openloop.c, for all contenders
    mark: bytes = b""  # only answers that hold these octets count


def _hot(method: str, header: bytes = b"") -> Callable[[Corpus, Plan, str], RequestFiles]:
    def prepare(corpus: Corpus, plan: Plan, name: str) -> RequestFiles:
        questions = corpus.hot()
        return corpus.write(name, questions, range(len(questions)), method, header)

    return prepare


def _zipf(corpus: Corpus, plan: Plan, name: str) -> RequestFiles:
    runs = plan.rounds + 1  # one to warm up
    questions, order = corpus.zipf(runs * int(max(1, plan.seconds) * ZIPF_REQUESTS_A_SECOND))
    return corpus.write(name, questions, order, "GET")


def _cold(corpus: Corpus, plan: Plan, name: str) -> RequestFiles:
    questions, order = corpus.shuffled()
    return corpus.write(name, questions, order, "GET")


def _foreign(corpus: Corpus, plan: Plan, name: str) -> RequestFiles:
    questions = corpus.foreign()
    return corpus.write(name, questions, range(len(questions)), "POST")


def _nonce(corpus: Corpus, plan: Plan, name: str) -> RequestFiles:
    questions = corpus.with_nonces(NONCES)
    return corpus.write(name, questions, range(len(questions)), "POST")


LOADS = (
    Load(
        "get-one",
        "hot GET, one certificate",
        "One request again and again: wrk then runs no script and is not the limit.",
        ("floor", "nginx", "revocast"),
        _hot("GET"),
        single=True,
    ),
    Load(
        "post-one",
        "hot POST, one certificate",
        "The same by POST; nginx is asked by GET, which it is faster at.",
        ("floor", "nginx", "revocast"),
        _hot("POST"),
        single=True,
        nginx_by_get=True,
    ),
    Load(
        "get-hot",
        "hot GET",
        "4 000 certificates, asked for again and again.",
        ("floor", "nginx", "revocast"),
        _hot("GET"),
    ),
    Load(
        "post-hot",
        "hot POST",
        "The same certificates by POST; nginx is asked by GET, which it is faster at. openssl is measured by openloop.c, as "
        "wrk makes it spin; it signs each answer.",
        ("floor", "nginx", "revocast", "cfssl", "openssl"),
        _hot("POST"),
        nginx_by_get=True,
    ),
    Load(
        "ordinary",
        "hot GET, ordinary route",
        "The same as hot GET, with the express lane turned off (`http.express = false`): every request goes through llhttp.",
        ("floor", "nginx", "revocast"),
        _hot("GET"),
        express=False,
    ),
    Load(
        "zipf",
        "Zipf mix",
        "GET over all certificates, exponent 1; one request in a hundred names a serial that the CA never issued, which "
        "is answered unauthorized. The first stretch of the order, as long as a run, warms up and is not counted.",
        ("floor", "nginx", "revocast"),
        _zipf,
        stretches=True,
    ),
    Load(
        "cold",
        "cold: all from Redis",
        "A worker just started, each certificate asked for once. Redis and the generator share the other core.",
        ("floor", "nginx", "revocast"),
        _cold,
        cold=True,
    ),
    Load(
        "foreign",
        "foreign issuer",
        "POST about certificates of another CA; the answer is unauthorized, five octets. openssl signs an unknown; cfssl "
        "looks at the serial alone and so answers for the wrong CA: it is left out.",
        ("floor", "nginx", "revocast", "openssl"),
        _foreign,
        is_error=True,
    ),
    Load(
        "close",
        "hot GET, a connection each",
        "Every request on a connection of its own (Connection: close).",
        ("floor", "nginx", "revocast"),
        _hot("GET", b"Connection: close\r\n"),
        closing=True,
    ),
    Load(
        "nonce",
        "nonce: signed live",
        "POST with a nonce of 32 octets. Everything, the generator too, on all cores; Revocast with two workers and its "
        "presigner, openssl with two processes. An answer without the nonce does not count.",
        ("revocast", "openssl-multi"),
        _nonce,
        pinned=False,
        workers=2,
        wrk=False,
        mark=ID_PKIX_OCSP_NONCE,
    ),
    Load(
        "peers",
        "hot POST, all on the same cores",
        "Everything, the generator too, on all cores, so that cfssl may use them as well; Revocast with two workers. "
        "nginx has one worker and the floor one thread.",
        ("floor", "nginx", "revocast", "cfssl"),
        _hot("POST"),
        pinned=False,
        workers=2,
        nginx_by_get=True,
    ),
)
BY_NAME = {load.name: load for load in LOADS}
