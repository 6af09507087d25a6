"""The audit log: whatever is done to it is found, a crash at any octet is survived, and it holds up no revocation."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder import audit_verify
from responder.audit import AuditLog, Head, encode_fields, encode_line, read_line, segments
from responder.audit_verify import LogProof, compare, find_files, verify
from responder.clock import ManualClock
from responder.errors import AuditUnavailable

NOW = 1_795_000_000
KILLS = 3

Maker = Callable[..., AuditLog]


@pytest.fixture(autouse=True)
def _nobody_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have verify wait for no line under way: in these tests a torn line stays torn."""
    monkeypatch.setattr(audit_verify, "TORN_WAIT_S", 0.0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    """Return a function that opens a log in tmp_path; all are closed with the test."""
    logs: list[AuditLog] = []

    def open_log(max_bytes: int = 1 << 20, **options: bool) -> AuditLog:
        logs.append(AuditLog(tmp_path, "presign", machine="m1", max_bytes=max_bytes, clock=ManualClock(NOW), **options))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


def fill(log: AuditLog, count: int = 8, start: int = 0) -> None:
    for number in range(start, start + count):
        assert log.record("sign", {"ca": "corp", "count": number, "signatures": "ab" * (number % 3)})


def proof_of(directory: Path, **options: bool) -> LogProof:
    (proof,), stray = verify(find_files([directory]), **options)
    assert stray == []
    return proof


def is_whole(directory: Path) -> bool:
    """Say whether verify finds nothing amiss."""
    proofs, stray = verify(find_files([directory]))
    return bool(proofs) and not stray and not any(proof.broken or proof.unproven for proof in proofs)


def head_of(directory: Path) -> Head:
    proof = proof_of(directory)
    return Head(proof.last, proof.last_hash)


def finds_missing(directory: Path, head: Head) -> bool:
    """Say whether comparing with an anchor tells that a log is not what it was."""
    proofs, stray = verify(find_files([directory]), {("m1", "presign"): [head.number]})
    if not proofs or stray:
        return True
    compare(proofs[0], head, "the anchor", NOW + 100, is_newest=True)
    return bool(proofs[0].broken)


def sample(directory: Path) -> tuple[Path, bytes]:
    """Write a small log; returns its file and what is in it."""
    log = AuditLog(directory, "presign", machine="m1", max_bytes=1 << 20, clock=ManualClock(NOW))
    fill(log, 3)
    log.close()
    (path,) = segments(directory)["presign"]
    return path, path.read_bytes()


# --- what is done to a log is found -----------------------------------------------------------------------------------


def test_a_log_is_whole_and_says_how_far(make: Maker, tmp_path: Path) -> None:
    log = make()
    fill(log)
    proof = proof_of(tmp_path)
    assert (proof.machine, proof.log, proof.first, proof.last, proof.lines) == ("m1", "presign", 1, 9, 9)
    assert is_whole(tmp_path)
    (path,) = segments(tmp_path)["presign"]
    assert path.stat().st_mode & 0o777 == 0o600
    # The hash can be had with sha256sum: the line without it.
    line = path.read_bytes().splitlines()[3]
    body, digest = line.split(b',"hash":"')
    assert hashlib.sha256(body + b"}").hexdigest().encode() == digest[:-2]


def test_a_change_of_any_octet_is_found(tmp_path: Path) -> None:
    path, data = sample(tmp_path)
    assert is_whole(tmp_path)

    @settings(max_examples=100, deadline=None)
    @given(at=st.integers(0, len(data) - 1), octet=st.integers(0, 255))
    def changed(at: int, octet: int) -> None:
        path.write_bytes(data[:at] + bytes([octet]) + data[at + 1 :])
        assert is_whole(tmp_path) is (data[at] == octet)

    changed()
    for at in range(len(data)):  # and each of them in one bit
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert not is_whole(tmp_path), at


@settings(max_examples=60, deadline=None)
@given(order=st.lists(st.integers(0, 3), max_size=6))
def test_lines_taken_away_moved_or_repeated_are_found(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("log")
    path, data = sample(directory)
    head = head_of(directory)
    lines = data.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[at] for at in order))
    is_as_it_was = order == list(range(4))
    assert finds_missing(directory, head) is not is_as_it_was
    if order != list(range(len(order))) or not order:  # the chain alone does not show that its end is missing
        assert not is_whole(directory)


def test_a_cut_tail_is_found_at_every_octet(tmp_path: Path) -> None:
    path, data = sample(tmp_path)
    head = head_of(tmp_path)
    for size in [*range(0, len(data), 5), len(data) - 1]:
        path.write_bytes(data[:size])
        assert finds_missing(tmp_path, head), size


def test_a_chain_written_anew_is_found(tmp_path: Path) -> None:
    """Whoever computes all hashes afresh does not get those that are anchored."""
    path, data = sample(tmp_path)
    head = head_of(tmp_path)
    prev, forged = "0" * 64, b""
    for line in data.splitlines():
        body = line.replace(b'"corp"', b'"evil"').split(b',"prev":')[0] + b',"prev":"%b"}' % prev.encode()
        prev = hashlib.sha256(body).hexdigest()
        forged += body[:-1] + b',"hash":"%b"}\n' % prev.encode()
    path.write_bytes(forged)
    assert is_whole(tmp_path)
    assert finds_missing(tmp_path, head)


def test_a_line_with_a_hash_of_its_own_is_found(tmp_path: Path) -> None:
    """Its hash is right, and so is its number; the next line tells that it is another."""
    path, data = sample(tmp_path)
    lines = data.splitlines(keepends=True)
    read = read_line(lines[2])
    assert read is not None
    lines[2], _ = encode_line(read[0].number, "2026-11-18T11:06:40.000Z", "sign", ',"ca":"evil"', read[1])
    path.write_bytes(b"".join(lines))
    (problem,) = proof_of(tmp_path).broken
    assert "line 4 does not follow the line 3" in problem


def test_a_number_that_was_left_out_is_found(tmp_path: Path) -> None:
    """Also where every hash and every link is right."""
    path, data = sample(tmp_path)
    head = head_of(tmp_path)
    line, _ = encode_line(head.number + 2, "2026-11-18T11:06:40.000Z", "sign", "", head.hash)
    path.write_bytes(data + line)
    (problem,) = proof_of(tmp_path).broken
    assert f"is line {head.number + 2}, after line {head.number}" in problem


def test_segments_that_are_missing_are_found(make: Maker, tmp_path: Path) -> None:
    log = make(max_bytes=900)
    fill(log, 20)
    paths = segments(tmp_path)["presign"]
    assert len(paths) > 4
    assert is_whole(tmp_path)
    head = head_of(tmp_path)
    for at, path in enumerate(paths):
        data = path.read_bytes()
        path.unlink()
        if at == 0:  # moved to an archive, perhaps: that is said, and can be allowed
            proof = proof_of(tmp_path)
            assert not proof.broken
            assert "begins at line" in proof.unproven[0]
            assert not proof_of(tmp_path, part=True).unproven
        elif at == len(paths) - 1:
            assert finds_missing(tmp_path, head)
        else:
            assert f"lines {int(path.name.split('.')[1])} to " in proof_of(tmp_path).broken[0]
        path.write_bytes(data)
    assert is_whole(tmp_path)


def test_copies_are_read_once(make: Maker, tmp_path: Path) -> None:
    """An archive may hold files that are still here, packed, or as they were some lines ago; another's file is no copy."""
    log = make(max_bytes=900)
    fill(log, 20)
    paths = segments(tmp_path)["presign"]
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in paths[:-1]:
        (archive / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    lines = paths[-1].read_bytes().splitlines(keepends=True)
    early = archive / paths[-1].name
    early.write_bytes(b"".join(lines[:-1]))
    files = find_files([archive, tmp_path])
    (proof,), stray = verify(files)
    assert (stray, proof.broken, proof.unproven) == ([], [], [])
    assert proof.lines == proof_of(tmp_path).lines
    (packed, *_) = sorted(archive.glob("*.gz"))
    packed.write_bytes(gzip.compress(paths[0].read_bytes().replace(b'"count":1', b'"count":9', 1)))
    assert verify(files)[0][0].broken


@pytest.mark.parametrize("cut", [5, 40, -20])
def test_a_packed_file_that_is_cut_is_broken(cut: int, make: Maker, tmp_path: Path) -> None:
    fill(make(), 20)
    (path,) = segments(tmp_path)["presign"]
    packed = tmp_path / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:cut])
    proofs, stray = verify([packed])
    assert any("cannot be read" in problem for problem in [*stray, *(p for proof in proofs for p in proof.broken)])


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_line_torn_at_any_octet_is_evidence(tmp_path: Path) -> None:
    path, data = sample(tmp_path)
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    for size in [*range(start, len(data) - 1, 9), len(data) - 2, len(data) - 1]:
        path.write_bytes(data[:size])
        log = AuditLog(tmp_path, "presign", machine="m1", max_bytes=1 << 20, clock=ManualClock(NOW))
        fill(log, 2)
        log.close()
        proof = proof_of(tmp_path)
        is_torn = start < size < len(data) - 1  # of a line that lacks its end alone nothing is lost
        assert (proof.broken, proof.recovered) == ([], int(is_torn))
        assert data[:size] in path.read_bytes(), "what was torn is still there"
        if is_torn:  # and nobody changes it any more
            spoilt = path.read_bytes()
            path.write_bytes(spoilt[: size - 1] + bytes([spoilt[size - 1] ^ 1]) + spoilt[size:])
            assert not is_whole(tmp_path)


def test_a_damaged_end_is_not_taken_for_a_crash(make: Maker, tmp_path: Path) -> None:
    path, data = sample(tmp_path)
    path.write_bytes(data[:-10] + b"x" + data[-9:])
    fill(make(), 2)
    proof = proof_of(tmp_path)
    assert any("is not as it was written" in problem for problem in proof.broken)
    assert any("damaged" in problem for problem in proof.broken)
    assert segments(tmp_path)["presign"][0].read_bytes() == data[:-10] + b"x" + data[-9:]


WRITER = """
import sys
from pathlib import Path
from responder.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), "presign", machine="m1", max_bytes=100_000)
log.record("start", {})
print("on", flush=True)
while True:
    log.record("sign", {"signatures": "ab" * 2_000})
"""


def test_a_writer_killed_at_any_moment_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    for at in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            aim = 20_000 * (at + 1) ** 2  # octets in all: a while later each time, whatever the machine's pace
            while sum(path.stat().st_size for path in tmp_path.glob("*.log")) < aim:
                assert process.poll() is None
            process.kill()
        assert process.returncode == -signal.SIGKILL
    log = AuditLog(tmp_path, "presign", machine="m1", max_bytes=100_000)
    fill(log, 1)
    log.close()
    assert is_whole(tmp_path)
    assert log.name == "presign", "a dead writer holds no lock"


def test_writers_at_the_same_time_have_logs_of_their_own(make: Maker, tmp_path: Path) -> None:
    one, other = make(), make()
    fill(one, 2)
    fill(other, 2)
    assert (one.name, other.name) == ("presign", "presign-2")
    fill(one, 2)
    assert sorted(segments(tmp_path)) == ["presign", "presign-2"]
    assert is_whole(tmp_path)
    one.close()
    third = make()
    fill(third, 1)
    assert third.name == "presign"
    assert is_whole(tmp_path)


# --- a disk that is full ----------------------------------------------------------------------------------------------


@contextmanager
def room_for(path: Path, octets: int) -> Iterator[None]:
    """Let files grow to the size of ``path`` and some octets, no more (write(2) is short, then fails)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("octets", [0, 1, 100])
def test_no_key_is_used_that_cannot_be_written_down(octets: int, make: Maker, tmp_path: Path) -> None:
    log = make()
    fill(log, 3)
    (path,) = segments(tmp_path)["presign"]
    with room_for(path, octets):
        with pytest.raises(AuditUnavailable, match="cannot be written"):
            log.record("sign", {"ca": "corp"})
        with pytest.raises(AuditUnavailable):
            log.require()
        assert not log.record("import", {"rows": 3}), "a source is followed all the same"
        assert is_whole(tmp_path), "nothing half is left"
    log.require()
    fill(log, 1)
    proof = proof_of(tmp_path)
    assert (proof.broken, proof.gaps) == ([], 2)


def test_signing_goes_on_where_the_log_is_not_required(make: Maker, tmp_path: Path) -> None:
    log = make(required=False)
    fill(log, 3)
    (path,) = segments(tmp_path)["presign"]
    with room_for(path, 0):
        log.require()
        assert not log.record("sign", {"ca": "corp"})
    fill(log, 1)
    assert proof_of(tmp_path).gaps == 1


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = AuditLog(tmp_path / "file" / "audit", "presign", machine="m1", max_bytes=1 << 20)
    with pytest.raises(AuditUnavailable):
        log.record("sign", {})
    log.close()


# --- lines ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=30).filter(lambda text: text not in ("prev", "hash")), st.integers(1, 1 << 60))
def test_whatever_stands_in_a_line_it_is_one(text: str, number: int) -> None:
    line, digest = encode_line(number, "now", "import", encode_fields({text: text, "a": {"b": [text]}}), "f" * 64)
    assert line.count(b"\n") == 1
    assert read_line(line) == (Head(number, digest), "f" * 64)
    assert os.linesep.encode() not in line[:-1]
