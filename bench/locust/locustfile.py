"""Load an OCSP responder (GET and POST) and CRL servers with locust, and check every answer; see docs/load-testing.md.

    python -m locust -f bench/locust/locustfile.py --headless -H http://127.0.0.1:8080 --issuer ca.pem --serials list.txt

No file of this folder may be named __init__.py: `locust` beside it would hide the package that it imports.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, constant_throughput, events, task
from locust.env import Environment
from locust.runners import WorkerRunner
from ocspload.checks import DEFAULT_SKEW_S, CheckFailed, CRLChecker, HTTPAnswer, OCSPChecker, Question, Reason
from ocspload.targets import (
    EXPECTATIONS,
    HASHES,
    ConfigError,
    Issuer,
    Target,
    build_request,
    get_url,
    load_certificates,
    load_issuer,
    load_serials,
)

LOG = logging.getLogger("ocspload")
NONCE_OCTETS = 32  # RFC 9654 §2.1: what clients should send
FIRST_PROCESS = os.getpid()  # --processes forks after this file has been imported


# --- options ---


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 1000000")
    return int(text)


def _hash_names(text: str) -> str:
    if unknown := sorted(set(text.split(",")) - set(HASHES)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(HASHES)}")
    return text


@events.init_command_line_parser.add_listener
def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ours to locust's; a group of argparse keeps them out of the form of the web UI, which could not change them."""
    group = parser.add_argument_group("What to ask and what to check (docs/load-testing.md)")
    add = group.add_argument
    add("--issuer", metavar="<file>", help="The CA's certificate, PEM or DER. Always needed.")
    add("--certificates", metavar="<path>", help="Ask about this certificate, or about all of a directory.")
    add(
        "--serials",
        metavar="<file>",
        help="Ask about these serials: one in hex in each line, and optionally its status.",
    )
    add("--expect", choices=EXPECTATIONS, help="The status that is due where the list says none; else any but errors.")
    add("--hashes", type=_hash_names, default="sha1,sha256", metavar="<names>", help="CertID hashes, mixed at random.")
    add("--nonce-share", type=_number(0, 1), default=0.0, metavar="<0..1>", help="Share of POSTs with a nonce.")
    add(
        "--crl-url", action="append", default=[], metavar="<url>", help="Download this CRL; may be given several times."
    )
    add("--get-weight", type=_weight, default=6, metavar="<n>", help="Share of users that send OCSP GETs; default 6.")
    add("--post-weight", type=_weight, default=3, metavar="<n>", help="Share of users that send OCSP POSTs; default 3.")
    add("--crl-weight", type=_weight, default=1, metavar="<n>", help="Share of users that download CRLs; default 1.")
    add("--per-user-rate", type=_number(0, 1e6), default=0.0, metavar="<1/s>", help="Requests a second of each user; default 0: as fast as answers come.")  # fmt: skip
    add("--timeout", type=_number(0.001, 3600), default=10.0, metavar="<s>", help="Seconds until an answer counts as lost; default 10.")  # fmt: skip
    add("--clock-skew", type=_number(0, 3600), default=DEFAULT_SKEW_S, metavar="<s>", help="How far the clocks may differ; default 5.")  # fmt: skip


# --- what a run works with ---


@dataclass(frozen=True)
class Load:
    """All that the users need."""

    issuer: Issuer
    targets: list[Target]
    hash_names: list[str]
    nonce_share: float
    crl_urls: list[str]
    ocsp: OCSPChecker
    crl: CRLChecker


def _read_load(options: argparse.Namespace) -> Load:
    if not options.issuer:
        raise ConfigError("--issuer: the CA's certificate must be given")
    issuer = load_issuer(Path(options.issuer))
    targets: list[Target] = []
    if options.certificates:
        targets += load_certificates(Path(options.certificates), issuer, options.expect)
    if options.serials:
        targets += load_serials(Path(options.serials), options.expect)
    if not targets and not options.crl_url:
        raise ConfigError("nothing to ask: give --certificates, --serials or --crl-url")
    for url in options.crl_url:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--crl-url: {url!r} does not begin with http:// or https://")
    if options.host and not options.host.startswith(("http://", "https://")):
        raise ConfigError(f"--host: {options.host!r} does not begin with http:// or https://")
    return Load(
        issuer,
        targets,
        options.hashes.split(","),
        options.nonce_share,
        options.crl_url,
        OCSPChecker(issuer, options.clock_skew),
        CRLChecker(issuer, options.clock_skew),
    )


def _choose_users(environment: Environment, options: argparse.Namespace, load: Load) -> None:
    """Set the weights, and leave out the users that have nothing to do."""
    named = set(options.user_classes or ())
    weights = {OCSPGet: options.get_weight, OCSPPost: options.post_weight, CRLDownload: options.crl_weight}
    chosen = []
    for user_class in environment.user_classes:
        if user_class not in weights:
            chosen.append(user_class)  # of another locustfile beside ours
            continue
        lacks = ("a --crl-url" if not load.crl_urls else "") if user_class is CRLDownload else (
            "--certificates or --serials" if not load.targets else ""
        )  # fmt: skip
        if lacks and user_class.__name__ in named:
            raise ConfigError(f"{user_class.__name__} needs {lacks}")
        user_class.weight = weights[user_class]
        if not lacks and user_class.weight:
            chosen.append(user_class)
    if not chosen:
        raise ConfigError("no users are left: every weight that matters is 0")
    if not options.host and options.headless and {OCSPGet, OCSPPost} & set(chosen):
        raise ConfigError("--host: the responder's URL must be given")
    environment.user_classes = chosen


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Read the list and set the users up; a mistake ends everything with exit code 2 and one line."""
    options = environment.parsed_options
    assert options is not None
    try:
        load = _read_load(options)
        _choose_users(environment, options, load)
    except ConfigError as error:
        # Forked workers make the same mistake as the process they came from, which has said it.
        if os.getpid() == FIRST_PROCESS or "--worker" in sys.argv:
            print(f"load test: {error}", file=sys.stderr)
        sys.exit(2)
    Caller.load = load
    Caller.wait_time = constant_throughput(options.per_user_rate) if options.per_user_rate else constant(0)
    Caller.network_timeout = Caller.connection_timeout = options.timeout
    if not isinstance(environment.runner, WorkerRunner):
        LOG.info(
            "asking about %d serials; users: %s",
            len(load.targets),
            ", ".join(f"{user.__name__} x {user.weight}" for user in environment.user_classes),
        )


@events.quitting.add_listener
def refuse_silence(environment: Environment, **_: Any) -> None:
    """A run that asked nothing has shown nothing: locust would call it a success."""
    options = environment.parsed_options
    assert options is not None
    if options.headless and not isinstance(environment.runner, WorkerRunner) and not environment.stats.num_requests:
        print("load test: no request was answered or failed; was the run too short?", file=sys.stderr)
        environment.process_exit_code = 1


# --- users ---


def _transport_reason(error: BaseException) -> Reason:
    if isinstance(error, ConnectionRefusedError):
        return Reason.REFUSED
    return Reason.TIMEOUT if isinstance(error, TimeoutError) or "timed out" in str(error) else Reason.BROKEN


class Caller(FastHttpUser):
    """Sends requests and reports what the checks say."""

    abstract = True
    concurrency = 1
    load: Load

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        # The status is for our checks to judge. geventhttpclient would raise for a bad one, and first write the body into
        # a log as UTF-8, which DER is not.
        self.client.client.valid_response_codes = frozenset(range(100, 1000))

    def send(self, method: str, url: str, name: str, check: Callable[[HTTPAnswer], None], **request: Any) -> None:
        """Send a request; it fails with the reason of ``check``, and succeeds only where that returns."""
        headers = {"Accept-Encoding": "identity", **request.pop("headers", {})}
        with self.client.request(
            method, url, name=name, catch_response=True, allow_redirects=False, headers=headers, **request
        ) as response:
            try:
                if (error := response.request_meta["exception"]) is not None:
                    raise CheckFailed(_transport_reason(error))
                fields = {field.lower(): _joined(response.headers[field]) for field in response.headers}
                check(HTTPAnswer(response.status_code, fields, response.content or b""))
            except CheckFailed as failed:
                response.failure(str(failed))
            except Exception:
                LOG.exception("the check of an answer to %s %s", method, url)
                response.failure(str(Reason.CHECKER))
            else:
                response.success()

    def pick(self, *, may_have_nonce: bool) -> tuple[Question, bytes]:
        """Choose what to ask; returns it with the encoded request."""
        load = self.load
        target = random.choice(load.targets)
        nonce = os.urandom(NONCE_OCTETS) if may_have_nonce and random.random() < load.nonce_share else None
        cert_id = load.issuer.cert_id(target.serial_number, random.choice(load.hash_names))
        method = "POST" if may_have_nonce else "GET"
        return Question(method, cert_id, nonce, target.expect), build_request(cert_id, nonce)


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


class OCSPGet(Caller):
    """Asks as browsers and caches do; never with a nonce, which no cache could answer."""

    @task
    def get(self) -> None:
        """Ask about one certificate."""
        question, request_der = self.pick(may_have_nonce=False)
        assert self.host is not None
        self.send(
            "GET",
            get_url(self.host, request_der),
            "OCSP GET",
            lambda answer: self.load.ocsp.check(answer, question, time.time()),
        )


class OCSPPost(Caller):
    """Asks as TLS stacks and command-line clients do."""

    @task
    def post(self) -> None:
        """Ask about one certificate."""
        question, request_der = self.pick(may_have_nonce=True)
        assert self.host is not None
        self.send(
            "POST",
            self.host if self.host.count("/") > 2 else f"{self.host}/",
            "OCSP POST",
            lambda answer: self.load.ocsp.check(answer, question, time.time()),
            data=request_der,
            headers={"Content-Type": "application/ocsp-request"},
        )


class CRLDownload(Caller):
    """Downloads CRLs."""

    # The class needs some host to exist, though every URL is whole.
    host = "http://crl.invalid"

    @task
    def download(self) -> None:
        """Download one CRL."""
        url = random.choice(self.load.crl_urls)
        floor = self.load.crl.floor(url)
        self.send("GET", url, "CRL", lambda answer: self.load.crl.check(answer, url, floor, time.time()))
