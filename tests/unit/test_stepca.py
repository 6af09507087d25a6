"""The readers of step-ca's databases: what the vendor's own code wrote, hostile values, torn logs, damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.badger import MANIFEST_START
from loaders.bbolt import BboltFile
from loaders.stepca import CERTIFICATES, REVOKED, StepCaLoader, StepCaOptions
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from responder.model import Status
from tests.loader_reading import NOW, SAMPLES, Read, issuer_of, needs_samples
from tests.pki import PKI, make_ca, make_leaf

SAMPLE = SAMPLES / "step-ca"
AT = "2026-02-03T04:05:06.123456789Z"
SAID = "revoked 2026-02-03T04:05:06Z keyCompromise exp=2030-03-17T17:46:40Z"
EXPIRES = 1_900_000_000


def loader_of(path: Path, ca: Path, **options: object) -> StepCaLoader:
    made = StepCaOptions.model_validate({"path": path, **options}, context={"base": path.parent})
    return StepCaLoader(made, issuer_of(ca), (), ManualClock(NOW))


@needs_samples
@pytest.mark.parametrize(
    ("name", "ca"), [("step.bbolt", "step.bbolt.ca.pem"), ("badger", "badger.ca.pem"), ("badgerv2", "badgerv2.ca.pem")]
)
def test_what_the_vendors_code_wrote(name: str, ca: str) -> None:
    """Forty certificates, ten of them revoked; three reasons were counted by hand in the bbolt file."""
    got = Read(loader_of(SAMPLE / name, SAMPLE / ca))
    assert len(got.statuses) == 40
    assert not got.rejected
    assert got.whole
    assert got.as_of == NOW
    revoked = [Status.from_text(text) for text in got.statuses.values() if text.startswith("revoked")]
    assert len(revoked) == 10
    assert all(status.not_after is not None for status in revoked)
    assert Read(loader_of(SAMPLE / name, SAMPLE / ca)).fingerprint == got.fingerprint


@needs_samples
def test_a_revocation_is_read_as_it_is_written() -> None:
    """Serial, date without its nanoseconds, reason, and the certificate's own expiry."""
    with (SAMPLE / "step.bbolt").open("rb") as file:
        database = BboltFile("step.bbolt", file)
        revoked = {int(key): json.loads(value) for key, value in database.bucket(REVOKED)}
        certificates = {int(key): x509.load_der_x509_certificate(value) for key, value in database.bucket(CERTIFICATES)}
    statuses = Read(loader_of(SAMPLE / "step.bbolt", SAMPLE / "step.bbolt.ca.pem")).statuses
    for number, certificate in certificates.items():
        status = Status.from_text(statuses[number.to_bytes(number.bit_length() // 8 + 1, "big").hex()])
        assert status.not_after == certificate.not_valid_after_utc.timestamp()
        assert (status.revoked_at is not None) == (number in revoked)
        if number in revoked:
            assert status.to_text().startswith(f"revoked {revoked[number]['RevokedAt'][:19]}Z")
            assert (status.reason or 0) == revoked[number]["ReasonCode"]


@needs_samples
def test_a_copy_is_as_old_as_its_newest_file(tmp_path: Path) -> None:
    """mtime, which a copy must keep."""
    copy = tmp_path / "copy.bbolt"
    copy.write_bytes((SAMPLE / "step.bbolt").read_bytes())
    os.utime(copy, (NOW - 500, NOW - 500))
    loader = loader_of(copy, SAMPLE / "step.bbolt.ca.pem", copy=True)
    assert Read(loader).as_of == NOW - 500
    assert not loader.follows_clock


@needs_samples
@pytest.mark.parametrize("name", ["step.bbolt", "badger"])
def test_another_cas_database_is_refused(name: str, tmp_path: Path) -> None:
    """None of its certificates was signed with the configured key."""
    other = make_ca(tmp_path / "other")
    with pytest.raises(SourceUnavailable, match="belongs to another CA: none of its 40 certificates"):
        Read(loader_of(SAMPLE / name, other.certificate_path))


@needs_samples
def test_of_two_meta_pages_the_newer_valid_one_holds(tmp_path: Path) -> None:
    """A torn meta page is passed over; without any the file is refused."""
    raw = bytearray((SAMPLE / "step.bbolt").read_bytes())
    with (SAMPLE / "step.bbolt").open("rb") as file:
        newest = BboltFile("x", file).meta
    path = tmp_path / "x.bbolt"
    at = 0 if newest.txid % 2 == 0 else newest.page_size
    raw[at + 40] ^= 1
    path.write_bytes(raw)
    with path.open("rb") as file:
        assert BboltFile("x", file).meta.txid == newest.txid - 1
    raw[newest.page_size - at + 40] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SourceUnavailable, match="both of its meta pages are damaged"):
        Read(loader_of(path, SAMPLE / "step.bbolt.ca.pem"))


# --- badger logs of our own ---


def uvarint(number: int) -> bytes:
    octets = b""
    while number >= 0x80:
        octets += bytes([number & 0x7F | 0x80])
        number >>= 7
    return octets + bytes([number])


def entry(key: bytes, value: bytes, version: int, meta: int = 0x40) -> bytes:
    """One entry of a value log."""
    full = key + ((1 << 64) - 1 - version).to_bytes(8, "big")
    body = bytes([meta, 0]) + uvarint(len(full)) + uvarint(len(value)) + uvarint(0) + full + value
    return body + crc32c(body).to_bytes(4, "big")


def write(bucket: bytes, key: bytes, value: bytes, version: int, prefix: bytes = b"") -> bytes:
    """One transaction that writes one value."""
    name = prefix + len(bucket).to_bytes(2, "little") + bucket + len(key).to_bytes(2, "little") + key
    return entry(name, value, version) + entry(b"!badger!txn", str(version).encode(), version, 0x80)


def directory(path: Path, *logs: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "MANIFEST").write_bytes(MANIFEST_START + bytes(8))
    for number, log in enumerate(logs):
        (path / f"{number:06d}.vlog").write_bytes(bytes(20) + log)
    return path


class Step:
    """A CA, a certificate of it, and their entries."""

    def __init__(self, folder: Path) -> None:
        self.ca: PKI = make_ca(folder / "ca")
        self.leaf = make_leaf(self.ca, serial_number=0x1234, not_after=EXPIRES)
        self.other = make_leaf(self.ca, serial_number=0x99, not_after=EXPIRES)
        self.folder = folder
        self.certificate = write(CERTIFICATES, b"4660", self.leaf.certificate_der, 1)
        self.second = write(CERTIFICATES, b"153", self.other.certificate_der, 2)
        self.revocation = write(REVOKED, b"4660", self.revoked(), 3)

    @staticmethod
    def revoked(**changes: object) -> bytes:
        said = {"Serial": "4660", "ReasonCode": 1, "Reason": "lost", "RevokedAt": AT, "MTLS": False, "ACME": False}
        return json.dumps(said | changes).encode()

    def read(self, *logs: bytes, name: str = "db") -> Read:
        return Read(loader_of(directory(self.folder / name, *logs), self.ca.certificate_path))


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


def test_a_revocation_may_stand_anywhere(step: Step) -> None:
    """Before its certificate, in another log, or written again by a garbage collection."""
    moved = write(REVOKED, b"4660", step.revoked(), 3, prefix=b"!badger!move")
    for number, logs in enumerate(
        [
            (step.certificate + step.second + step.revocation,),
            (step.revocation + step.second + step.certificate,),
            (step.revocation, step.second + step.certificate),
            (step.certificate + step.second, moved),
        ]
    ):
        got = step.read(*logs, name=f"db{number}")
        assert got.statuses == {"1234": SAID, "0099": "good exp=2030-03-17T17:46:40Z"}
        assert not got.rejected


def test_a_transaction_without_its_end_does_not_count(step: Step) -> None:
    """The log is being written, or the machine went down: badger itself drops it when it starts."""
    torn = step.revocation[: len(step.revocation) - 20]
    for tail in (torn, torn + bytes(4096), step.revocation[:40], bytes(4096), b"\x40"):
        got = step.read(step.certificate + step.second + tail)
        assert got.statuses["1234"].startswith("good")
        assert not got.rejected


def test_a_log_that_breaks_off_before_the_last_is_told(step: Step) -> None:
    """Only the last is being written: another was copied in part, and its revocations are missing."""
    end = entry(b"!badger!txn", b"3", 3, 0x80)
    for number, cut in enumerate((20, len(step.revocation) - 20, len(step.revocation) - len(end))):
        with pytest.raises(SourceUnavailable, match=r"000000\.vlog: damaged at \d+: .*breaks off"):
            step.read(step.certificate + step.revocation[:cut], step.second, name=f"db{number}")
    passed_over = write(b"acme_orders", b"1", bytes(500), 4)[:200]
    with pytest.raises(SourceUnavailable, match="breaks off"):
        step.read(step.certificate + passed_over, step.second, name="db")


def test_a_deletion_does_not_make_good(step: Step) -> None:
    """step-ca deletes no revocation; whoever does by hand must not thereby release."""
    name = len(REVOKED).to_bytes(2, "little") + REVOKED + b"\x04\x004660"
    gone = entry(name, b"", 9, 0x41) + entry(b"!badger!txn", b"9", 9, 0x80)
    assert step.read(step.certificate + step.revocation + gone).statuses["1234"] == SAID


def test_damage_before_the_end_is_told(step: Step) -> None:
    """A checksum that is wrong in the midst of a log is no torn tail."""
    log = bytearray(step.certificate + step.second + step.revocation)
    log[len(step.certificate) + 60] ^= 1
    with pytest.raises(SourceUnavailable, match=r"000000\.vlog: damaged at \d+: an entry whose checksum is wrong"):
        step.read(bytes(log))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: (path / "MANIFEST").write_bytes(b"Bdgr\0\0\0\x04"), "another version than 2"),
        (lambda path: (path / "MANIFEST").unlink(), "not a badger database"),
        (lambda path: (path / "000000.vlog").write_bytes(b"\1" + bytes(99)), "is encrypted"),
        (lambda path: (path / "000000.vlog").unlink(), "has no value log"),
    ],
)
def test_what_is_no_badger_v2(change: Callable[[Path], object], problem: str, step: Step) -> None:
    """One line says what it is instead."""
    path = directory(step.folder / "db", step.certificate)
    change(path)
    with pytest.raises(SourceUnavailable, match=problem):
        Read(loader_of(path, step.ca.certificate_path))


@pytest.mark.parametrize(
    ("value", "problem", "presumed"),
    [
        (b"{", "not JSON", "revoked 2026-11-18T11:06:40Z exp="),
        (b"[" * 50_000, "not JSON", "revoked 2026-11-18T11:06:40Z exp="),
        (b"[]", "not a JSON object", "revoked 2026-11-18T11:06:40Z exp="),
        (b'"\xff\xfe"', "not JSON", "revoked 2026-11-18T11:06:40Z exp="),
        (b" " * 70_000, "more than 65536 octets", "revoked 2026-11-18T11:06:40Z exp="),
        (Step.revoked(ReasonCode=4000), "'4000'", "revoked 2026-02-03T04:05:06Z exp="),
        (Step.revoked(ReasonCode="1"), "'1'", "revoked 2026-02-03T04:05:06Z exp="),
        (
            Step.revoked(RevokedAt="10000-01-01T00:00:00Z"),
            "RFC 3339",
            "revoked 2026-11-18T11:06:40Z keyCompromise exp=",
        ),
        (Step.revoked(RevokedAt=17), "not a date", "revoked 2026-11-18T11:06:40Z keyCompromise exp="),
        (Step.revoked(RevokedAt="0001-01-01T00:00:00Z"), "no date", "revoked 2026-11-18T11:06:40Z keyCompromise exp="),
    ],
)
def test_a_revocation_that_cannot_be_read_is_one_nevertheless(
    value: bytes, problem: str, presumed: str, step: Step
) -> None:
    """The row is told, the certificate presumed revoked, the others read."""
    got = step.read(step.certificate + step.second + write(REVOKED, b"4660", value, 3))
    (row,) = got.rejected
    assert problem in row.reason
    assert row.serial_octets == bytes.fromhex("1234")
    assert (row.presumed or "").startswith(presumed)
    assert list(got.statuses) == ["0099"]


@pytest.mark.parametrize(
    ("key", "octets", "problem", "serial"),
    [
        (b"4660", b"no DER", "not a DER certificate", "1234"),
        (b"4661", None, "its certificate has the serial 1234", "1235"),
        (b"9" * 60_000, None, "not a decimal number", None),
        (b"0x12", None, "not a decimal number", None),
        (b"46\x0060", None, "not a decimal number", None),
        (b"\xff\xfe", None, "not a decimal number", None),
        (b"", None, "not a decimal number", None),
    ],
)
def test_a_certificate_that_cannot_be_read_costs_one_row(
    key: bytes, octets: bytes | None, problem: str, serial: str | None, step: Step
) -> None:
    """Its serial is kept where its key tells it."""
    der = step.leaf.certificate_der if octets is None else octets
    got = step.read(step.second + write(CERTIFICATES, key, der, 5))
    (row,) = got.rejected
    assert problem in row.reason
    assert (row.serial_octets.hex() if row.serial_octets else None) == serial
    assert list(got.statuses) == ["0099"]


def test_intermediates_share_the_database(step: Step, tmp_path: Path) -> None:
    """Each takes its own certificates; a revocation without a certificate is taken by both."""
    second = make_ca(tmp_path / "g2", label="second")
    theirs = make_leaf(second, serial_number=0x1234, not_after=EXPIRES)
    lone = write(REVOKED, b"77", step.revoked(ExpiresAt="2031-01-01T00:00:00Z"), 8)
    log = step.second + write(CERTIFICATES, b"4660", theirs.certificate_der, 7) + step.revocation + lone
    assert step.read(log).statuses == {
        "0099": "good exp=2030-03-17T17:46:40Z",
        "4d": "revoked 2026-02-03T04:05:06Z keyCompromise exp=2031-01-01T00:00:00Z",
    }
    got = Read(loader_of(step.folder / "db", second.certificate_path))
    assert got.statuses["1234"] == SAID
    assert "4d" in got.statuses


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["step.bbolt", "badger"]),
    st.lists(st.tuples(st.integers(0, 1 << 17), st.integers(0, 255)), min_size=1, max_size=8),
)
@needs_samples
def test_damage_ends_in_one_line_or_in_rows(fuzz_dir: Path, name: str, changes: list[tuple[int, int]]) -> None:
    """Whatever octets are changed: rows, rejected rows, or a SourceUnavailable of one line; nothing else, and it ends."""
    source = SAMPLE / name if name == "step.bbolt" else SAMPLE / name / "000000.vlog"
    raw = bytearray(source.read_bytes())
    for at, value in changes:
        raw[at % len(raw)] = value
    if name == "step.bbolt":
        path = fuzz_dir / name
        path.write_bytes(raw)
    else:
        path = directory(fuzz_dir / name)
        (path / "000000.vlog").write_bytes(raw)
    try:
        got = Read(loader_of(path, SAMPLE / f"{name}.ca.pem"))
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
        assert len(got.rows) + len(got.rejected) <= 60
    assert "\n" not in said


@pytest.fixture(scope="module")
def fuzz_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")
