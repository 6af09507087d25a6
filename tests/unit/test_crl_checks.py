"""The checks before publication: a good CRL passes, and each thing that can be wrong is found and named with its clause."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastpath.crl_entries import Terms
from responder.crl.builder import CRLHead, build_crl
from responder.crl.checks import CHECKS, Expected, check_before_publication
from responder.crl.extensions import CRLExtensions, authority_key_identifier_of
from responder.crl.published import NO_NEXT_UPDATE
from responder.crl.reader import CRLFile
from responder.errors import PublicationRefused
from responder.signing.softkey import SoftKeySigner
from tests.crl_records import NOW, chunks_of
from tests.pki import PKI, key_of, make_ca

HOUR_S, DAY_S = 3_600, 86_400
URL, DELTA_URL = "http://crl.example.test/1.crl", "http://crl.example.test/1-delta.crl"
GOOD = "good exp=2029-12-31T23:59:59Z"
HELD = "revoked 2026-11-03T00:00:00Z certificateHold exp=2029-12-31T23:59:59Z"
REVOKED = {
    b"\x01": "revoked 2026-11-01T00:00:00Z keyCompromise exp=2029-12-31T23:59:59Z",
    b"\x02": "revoked 2026-11-02T00:00:00Z exp=2026-11-10T00:00:00Z",
    b"\x03": HELD,
    b"\x04" * 20: "revoked 2026-11-04T00:00:00Z superseded",
}


class Bench:
    """A CA that issues CRLs; what is changed in one is what a check must find."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca: PKI = make_ca(directory)
        self.statuses = dict(REVOKED)  # what the store says

    def build(
        self,
        name: str,
        statuses: dict[bytes, str] | None = None,
        *,
        number: int = 7,
        this_update: int = NOW,
        next_update: int | None = None,
        issuer: bytes | None = None,
        key: Any = None,
        terms: dict[str, Any] | None = None,
        spoil: Callable[[bytes], bytes] = lambda der: der,
        **extensions: Any,
    ) -> Path:
        """Write a CRL with what the store says, or ``statuses``."""
        chunks = chunks_of(self.statuses if statuses is None else statuses)
        made = CRLExtensions(
            **{"authority_key_identifier": authority_key_identifier_of(self.ca.certificate), "number": number}
            | extensions
        )
        head = CRLHead(
            issuer or self.ca.subject_der,
            this_update,
            this_update + 7 * DAY_S if next_update is None else next_update,
            made.to_der(),
        )
        path = self.directory / name
        signer = SoftKeySigner(key or self.ca.key)
        build_crl(path, head, lambda: iter(chunks), Terms(this_update, **(terms or {})), signer)
        path.write_bytes(spoil(path.read_bytes()))
        return path

    def expected(self, **changes: Any) -> Expected:
        """What a CRL of ``build`` must say."""
        signer = SoftKeySigner(self.ca.key)
        usual: dict[str, Any] = {
            "issuer_der": self.ca.subject_der,
            "public_key_der": signer.public_key_der,
            "algorithm_der": signer.signature_algorithm_der,
            "key_identifier": authority_key_identifier_of(self.ca.certificate),
            "number": 7,
            "base_number": None,
            "this_update": NOW,
            "next_update": NOW + 7 * DAY_S,
            "longest_s": 7 * DAY_S,
            "now": NOW + 5.0,
            "terms": Terms(NOW),
            "chunks": lambda: iter(chunks_of(self.statuses)),
            "lookup": lambda serials: [self.statuses.get(serial) for serial in serials],
        }
        return Expected(**(usual | changes))

    def check(self, path: Path, *, previous: Path | None = None, base: Path | None = None, **changes: Any) -> None:
        """Check a CRL."""
        is_foreign = changes.pop("is_foreign", False)
        with contextlib.ExitStack() as opened:
            before, under = (
                opened.enter_context(CRLFile.open(other)) if other is not None else None for other in (previous, base)
            )
            expected = self.expected(**changes)
            check_before_publication(path, expected, previous=before, base=under, is_foreign=is_foreign)

    def refused(self, check: str, words: str, path: Path, **changes: Any) -> None:
        """Expect a check to fail, and what it says."""
        with pytest.raises(PublicationRefused) as caught:
            self.check(path, **changes)
        text = str(caught.value)
        assert caught.value.check == check, text
        assert words in text
        assert CHECKS[check] in text
        assert "\n" not in text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.statuses = dict(REVOKED)
    return made


def test_what_is_as_it_should_be_passes(bench: Bench) -> None:
    """A first CRL, its successor, a shard, an empty one, the last one, a delta."""
    first = bench.build("first.crl", number=6)
    bench.check(first, number=6)
    second = bench.build("second.crl")
    bench.check(second, previous=first)
    shard = {"distribution_points": [URL], "only_users": True, "freshest": [DELTA_URL]}
    path = bench.build("shard.crl", terms={"shard": 1, "shards": 2}, **shard)
    changes = {**{name: tuple(value) if isinstance(value, list) else value for name, value in shard.items()}}
    bench.check(path, terms=Terms(NOW, shard=1, shards=2), **changes)
    bench.check(bench.build("last.crl", next_update=NO_NEXT_UPDATE), next_update=NO_NEXT_UPDATE, previous=first)
    bench.statuses = {}
    bench.check(bench.build("empty.crl"))


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_a_delta(bench: Bench) -> None:
    """DLT-01, DLT-02: it must have a base that is a complete CRL, published, of its scope."""
    base = bench.build("base.crl", number=5)
    released = {b"\x03": GOOD, b"\x05": "revoked 2026-11-05T00:00:00Z"}
    bench.statuses = released
    delta = bench.build("delta.crl", terms={"delta": True}, base_number=5)
    terms = {"terms": Terms(NOW, delta=True), "base_number": 5}
    bench.check(delta, base=base, **terms)
    bench.refused("base", "number 5 or a later one", delta, **terms)
    older = bench.build("older.crl", REVOKED, number=4)
    bench.refused("base", "number 5 or a later one", delta, base=older, **terms)
    bench.refused(
        "base", "no complete CRL", delta, base=bench.build("d.crl", REVOKED, number=6, base_number=2), **terms
    )
    bench.refused("base", "BaseCRLNumber is 5, and must be 4", delta, base=base, **(terms | {"base_number": 4}))
    scoped = bench.build("scoped.crl", REVOKED, number=5, distribution_points=[URL])
    bench.refused("scope", "not that of its base", delta, base=scoped, **terms)
    other = make_ca(bench.directory / "other", label="other")
    foreign = bench.build("foreign.crl", REVOKED, number=5, issuer=other.subject_der, authority_key_identifier=b"x")
    bench.refused("base", "another issuer or key", delta, base=foreign, **terms)


@pytest.mark.parametrize(
    ("check", "words", "build", "expected"),
    [
        ("der", "behind", {"spoil": lambda der: der + b"\x00"}, {}),
        ("der", "", {"spoil": lambda der: der[:-1]}, {}),
        ("der", "", {"spoil": lambda der: b"-----BEGIN X509 CRL-----\n"}, {}),
        ("issuer", "octet for octet", {"issuer": bytes.fromhex("300d310b3009060355040613024e4c")}, {}),
        ("algorithm", "signature algorithm is", {"key": key_of("p384", "crl")}, {}),
        ("authority_key_identifier", "keyIdentifier is 78", {"authority_key_identifier": b"x"}, {}),
        ("number", "is 7, and must be 8", {}, {"number": 8}),
        ("times", "not lie ahead", {}, {"now": NOW - 1.0}),
        ("times", "thisUpdate is", {}, {"this_update": NOW - 1}),
        ("times", "after thisUpdate", {"next_update": NOW}, {"next_update": NOW}),
        ("times", "after thisUpdate", {"next_update": NOW + 7 * DAY_S - 1}, {}),
        ("times", "has passed", {}, {"now": NOW + 8.0 * DAY_S}),
        ("times", "may be 604799 s", {}, {"longest_s": 7 * DAY_S - 1}),
        ("scope", "lacks its issuingDistributionPoint", {}, {"distribution_points": (URL,)}),
        ("scope", "lacks its issuingDistributionPoint", {}, {"only_cas": True}),
        ("scope", "must name none", {"distribution_points": [URL], "indirect": True}, {"indirect": True}),
        ("scope", URL, {"distribution_points": [URL + "/"]}, {"distribution_points": (URL,)}),
        ("scope", "flags", {"distribution_points": [URL], "only_cas": True}, {"distribution_points": (URL,)}),
        ("scope", "flags", {"distribution_points": [URL], "indirect": True}, {"distribution_points": (URL,)}),
        ("freshest", "must name nothing", {"freshest": [DELTA_URL]}, {}),
        ("freshest", f"must name {DELTA_URL}", {}, {"freshest": (DELTA_URL,)}),
        ("base", "BaseCRLNumber is 3, and must be None", {"base_number": 3}, {}),
        ("signature", "does not verify", {"key": key_of("p256", "another")}, {}),
        ("entries", "", {"statuses": {serial: REVOKED[serial] for serial in (b"\x01", b"\x02", b"\x03")}}, {}),
        ("entries", "", {"statuses": REVOKED | {b"\x09": REVOKED[b"\x01"]}}, {}),
        ("entries", "", {"statuses": REVOKED | {b"\x01": REVOKED[b"\x01"].replace("01T", "02T")}}, {}),
        ("entries", "", {"statuses": REVOKED | {b"\x01": REVOKED[b"\x01"].replace("keyC", "cAC")}}, {}),
    ],
)
def test_each_check_finds_what_it_is_for(
    bench: Bench, check: str, words: str, build: dict[str, Any], expected: dict[str, Any]
) -> None:
    """CRL-02 to CRL-08, IDP-01 to IDP-04, ENT-01 to ENT-06: one thing is wrong, and that is what the line says."""
    bench.refused(check, words, bench.build("wrong.crl", **build), **expected)


def test_a_duplicate_is_found(bench: Bench) -> None:
    """ENT-05: the builder makes none, so one is made by hand: two chunks with the same serial."""
    chunks = chunks_of(REVOKED)
    serial = next(iter(chunks))
    head = CRLHead(
        bench.ca.subject_der,
        NOW,
        NOW + 7 * DAY_S,
        CRLExtensions(authority_key_identifier_of(bench.ca.certificate), 7).to_der(),
    )
    path = bench.directory / "twice.crl"
    build_crl(path, head, lambda: iter([serial, *chunks]), Terms(NOW), SoftKeySigner(bench.ca.key))
    bench.refused("entries", "", path)


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_number_and_date_never_go_back(bench: Bench) -> None:
    """CRL-07: compared with the CRL that is published."""
    path = bench.build("this.crl")
    for number in (7, 8):
        before = bench.build("before.crl", number=number)
        bench.refused("number", "not larger than", path, previous=before)
    later = bench.build("later.crl", number=6, this_update=NOW + 1)
    bench.refused("times", "before", path, previous=later)


def test_the_scope_never_changes(bench: Bench) -> None:
    """IDP-07: a certificate never changes its CRL; what the CA itself issued before was its own business."""
    scoped = bench.build("scoped.crl", number=6, distribution_points=[URL])
    path = bench.build("all.crl")
    bench.refused("scope", "not that of the CRL that is published", path, previous=scoped)
    bench.check(path, previous=scoped, is_foreign=True)


GONE = b"\x0a"
PERMANENT = "revoked 2026-11-05T00:00:00Z keyCompromise exp=2029-12-31T23:59:59Z"
EXPIRED = "revoked 2026-11-05T00:00:00Z keyCompromise exp=2026-11-10T00:00:00Z"


@pytest.mark.parametrize(
    ("was", "now", "problem"),
    [
        (HELD, GOOD, None),
        (EXPIRED, EXPIRED, None),
        (PERMANENT, PERMANENT, "it is revoked"),
        (PERMANENT, GOOD, "it is good, and was revoked for good"),
        (PERMANENT, None, "no status of it is known"),
        (PERMANENT, "revoked 2026-12-24T00:00:00Z keyCompromise exp=2029-12-31T23:59:59Z", "it is good, and was"),
        (HELD, "revoked 2026-11-05T00:00:00Z keyCompromise exp=2029-12-31T23:59:59Z", "it is revoked"),
    ],
    ids=["released", "expired", "revoked", "good again", "unknown", "put off", "hold made permanent"],
)
@pytest.mark.clause("RFC 5280", "3.3", "MUST NOT")
@pytest.mark.clause("BR", "4.10.1", "MUST NOT")
def test_what_may_be_gone(bench: Bench, was: str, now: str | None, problem: str | None) -> None:
    """CRL-09, BR-10, ETS-06: an entry leaves when it was released from hold, or has expired and was shown once more."""
    before = bench.build("before.crl", REVOKED | {GONE: was}, number=6)
    after = bench.build("after.crl", terms={"drop_expired_before": NOW - DAY_S})
    told = {**REVOKED, **({GONE: now} if now is not None else {})}
    changes: dict[str, Any] = {
        "previous": before,
        "terms": Terms(NOW, drop_expired_before=NOW - DAY_S),
        "lookup": lambda serials: [told.get(serial) for serial in serials],
    }
    if problem is None:
        bench.check(after, **changes)
    else:
        bench.refused("predecessor", problem, after, **changes)
        bench.check(after, let_go=frozenset({GONE}), **changes)


def test_expired_but_not_shown_once_more(bench: Bench) -> None:
    """CRL-09: it expired after the last regular CRL, so it has to stay for this one."""
    before = bench.build("before.crl", REVOKED | {GONE: EXPIRED.replace("11-10", "11-18")}, number=6)
    after = bench.build("after.crl")
    told = REVOKED | {GONE: EXPIRED.replace("11-10", "11-18")}
    lookup = lambda serials: [told.get(serial) for serial in serials]  # noqa: E731
    terms = Terms(NOW, drop_expired_before=NOW - DAY_S)
    path = bench.build("dropped.crl", terms={"drop_expired_before": NOW - DAY_S})
    assert path != after
    bench.refused("predecessor", "it is revoked", path, previous=before, lookup=lookup, terms=terms)


def test_a_delta_upon_the_same_base_loses_nothing(bench: Bench) -> None:
    """DLT-06: what was on one delta stays on the next upon the same base; upon a newer base it is on that."""
    base = bench.build("base.crl", number=5)
    terms = {"terms": Terms(NOW, delta=True), "base_number": 5, "base": base}
    before = bench.build(
        "before.crl", {b"\x05": PERMANENT, b"\x06": PERMANENT}, number=6, terms={"delta": True}, base_number=5
    )
    bench.statuses = {b"\x05": PERMANENT}
    delta = bench.build("delta.crl", terms={"delta": True}, base_number=5)
    bench.refused("predecessor", "serial 06", delta, previous=before, **terms)
    older = bench.build("older.crl", {b"\x06": PERMANENT}, number=6, terms={"delta": True}, base_number=4)
    bench.check(delta, previous=older, **terms)


def test_expectations_are_complete() -> None:
    """Each field of Expected is looked at by some check; this fails for one that was added without."""
    source = (Path(__file__).parents[2] / "responder" / "crl" / "checks.py").read_text()
    for field in dataclasses.fields(Expected):
        assert f"expected.{field.name}" in source or f"def {field.name}" in source or field.name == "public_key_der"


def test_every_check_is_documented() -> None:
    """An operator finds each check that an alarm may name, and what to do."""
    text = (Path(__file__).parents[2] / "docs" / "crl.md").read_text()
    for name in CHECKS:
        assert f"`{name}`" in text
