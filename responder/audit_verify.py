"""Proves that audit logs are as they were written: every line's hash, every number, every link, and the anchors.

Reads files and nothing else: the caller fetches the anchors. What cannot be known from what it was given, it says. Called by
``revocast audit``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from responder.audit import GENESIS, Head, read_line

ANCHOR_WITHIN_S = 10.0  # lines younger than that may still be waiting for their anchor
TORN_WAIT_S = 0.1  # after which a line under way is there
UNREADABLE = (OSError, EOFError, zlib.error)  # what a file, or a packed one that is cut or spoilt, raises
MOST_TOLD = 20  # problems of one log that are told one by one


@dataclass(slots=True)
class LogProof:
    """What was found of one log. ``broken``: surely not as it was written. ``unproven``: what was given does not tell."""

    machine: str
    log: str
    first: int = 0
    last: int = 0
    last_hash: str = GENESIS
    began: str = ""
    ended: str = ""
    lines: int = 0
    recovered: int = 0
    gaps: int = 0  # lines that were never written, by the log's own account
    broken: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)  # of the lines asked for

    def breaks(self, problem: str) -> None:
        """Note a problem, the first few in words."""
        if len(self.broken) < MOST_TOLD:
            self.broken.append(problem)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file, and what its first line says of it."""

    path: Path
    machine: str
    log: str
    first: int


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the segments among files and directories, also packed ones."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted([*path.glob("*.log"), *path.glob("*.log.gz")])
        elif path.exists():
            files.append(path)
    return files


def open_file(path: Path) -> BinaryIO:
    """Open a segment, packed with gzip or not."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_fields(line: bytes) -> dict[str, Any]:
    """Return what a line says; empty: it cannot be read."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def identify(path: Path) -> Segment | str:
    """Read a file's first line; a string says why it is no segment."""
    try:
        with open_file(path) as file:
            line = file.readline()
    except UNREADABLE as error:
        return f"{path}: cannot be read: {error}"
    read, fields = read_line(line), read_fields(line)
    if read is None or fields.get("event") != "segment":
        return f"{path}: its first line is not as it was written, so the file belongs to no log"
    return Segment(path, str(fields["machine"]), str(fields["log"]), read[0].number)


def verify(
    files: Sequence[Path], wanted: Mapping[tuple[str, str], Sequence[int]] | None = None, *, part: bool = False
) -> tuple[list[LogProof], list[str]]:
    """Check files, log by log; returns what was found, and the files that belong to no log.

    ``wanted``: numbers of lines by machine and log, whose hashes are kept. ``part``: a log's beginning may be elsewhere.
    """
    logs: dict[tuple[str, str], list[Segment]] = {}
    stray: list[str] = []
    for path in files:
        found = identify(path)
        if isinstance(found, str):
            stray.append(found)
        else:
            logs.setdefault((found.machine, found.log), []).append(found)
    proofs = []
    for (machine, name), of_log in sorted(logs.items()):
        proof = LogProof(machine, name)
        keep = set((wanted or {}).get((machine, name), ()))
        for segment in _without_copies(of_log):
            try:
                _check_segment(proof, segment, keep)
            except UNREADABLE as error:
                proof.breaks(f"{segment.path.name}: cannot be read: {error}")
        if proof.first > 1 and not part:
            proof.unproven.append(
                f"begins at line {proof.first}: give the archived files too, or --part if they are not to be checked"
            )
        proofs.append(proof)
    return proofs, stray


def _without_copies(of_log: Sequence[Segment]) -> list[Segment]:
    """Return a log's files in order, without those that others begin with: an archive may hold what is still here."""
    kept: list[Segment] = []
    for segment in sorted(of_log, key=lambda one: (one.first, one.path)):
        if kept and kept[-1].first == segment.first:
            if _begins_with(kept[-1].path, segment.path):
                continue
            if _begins_with(segment.path, kept[-1].path):
                kept.pop()
        kept.append(segment)
    return kept


def _begins_with(path: Path, beginning: Path) -> bool:
    try:
        with open_file(path) as whole, open_file(beginning) as part:
            while octets := part.read(1 << 20):
                if whole.read(len(octets)) != octets:
                    return False
    except UNREADABLE:
        return False
    return True


def _check_segment(proof: LogProof, segment: Segment, keep: set[int]) -> None:
    name = segment.path.name
    if proof.lines and segment.first > proof.last + 1:
        proof.breaks(f"lines {proof.last + 1} to {segment.first - 1} are not there")
    damaged: tuple[int, bytes] | None = None  # a line that is not as it was written, until the next one explains it
    for at, line in enumerate(_lines(segment.path), 1):
        read = read_line(line)
        if read is None:
            if damaged is not None:
                proof.breaks(f"{name}:{damaged[0]}: is not as it was written")
            damaged = (at, line)
            continue
        (number, digest), prev = read
        fields = read_fields(line)
        event = fields.get("event")
        if damaged is not None:
            torn = damaged[1][:-1]
            if event == "recovered" and fields.get("sha256") == hashlib.sha256(torn).hexdigest():
                proof.recovered += 1
            else:
                proof.breaks(f"{name}:{damaged[0]}: is not as it was written")
            damaged = None
        elif event == "recovered":
            proof.breaks(f"{name}:{at}: speaks of a torn line that is not there")
        _check_link(proof, f"{name}:{at}", number, prev)
        _check_event(proof, f"{name}:{at}", event, fields, segment, at)
        if number in keep:
            proof.hashes[number] = digest
        if not proof.lines:
            proof.first, proof.began = number, str(fields.get("t"))
        proof.last, proof.last_hash, proof.ended = number, digest, str(fields.get("t"))
        proof.lines += 1
    if damaged is not None:
        at, line = damaged
        what = (
            "is not as it was written"
            if line.endswith(b"\n")
            else "is torn: a write that was cut short, or a line that was cut"
        )
        proof.breaks(f"{name}:{at}: {what}")


def _check_link(proof: LogProof, place: str, number: int, prev: str) -> None:
    if not proof.lines:
        if number == 1 and prev != GENESIS:
            proof.breaks(f"{place}: is line 1, and names a line before it")
        return
    if number != proof.last + 1:
        proof.breaks(f"{place}: is line {number}, after line {proof.last}")
    elif prev != proof.last_hash:
        proof.breaks(f"{place}: line {number} does not follow the line {proof.last} that is there")


def _check_event(
    proof: LogProof, place: str, event: object, fields: Mapping[str, Any], segment: Segment, at: int
) -> None:
    if event == "segment":
        if at > 1 or (fields.get("machine"), fields.get("log")) != (segment.machine, segment.log):
            proof.breaks(f"{place}: the first line of a file stands within another")
        if "damaged" in fields:
            proof.breaks(f"{place}: the writer found the end of {fields['damaged']} damaged")
    elif event == "anchor_mismatch":
        proof.breaks(
            f"{place}: at {fields.get('t')} the log {fields.get('log')} lacked a line that was anchored: {fields.get('anchored')}"
        )
    elif event == "gap" and isinstance(fields.get("unrecorded"), dict):
        proof.gaps += sum(fields["unrecorded"].values())


def _lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines. One that is torn may be under way: it is read once more a moment later."""
    with open_file(path) as file:
        for line in file:
            if not line.endswith(b"\n") and path.suffix != ".gz":
                time.sleep(TORN_WAIT_S)
                line += file.readline()
            yield line


def compare(proof: LogProof, head: Head, source: str, now: float, *, is_newest: bool) -> None:
    """Compare a log with a line that somebody else has kept. ``is_newest``: nothing much should stand after it."""
    if head.number > proof.last:
        proof.breaks(f"lines {proof.last + 1} to {head.number} are not there: {source} has line {head.number}")
    elif head.number < proof.first:
        proof.unproven.append(f"line {head.number} of {source} is older than what is here")
    elif proof.hashes.get(head.number) != head.hash:
        proof.breaks(f"line {head.number} is another than the one of {source}")
    elif is_newest and head.number < proof.last and _age(proof.ended, now) > ANCHOR_WITHIN_S:
        proof.unproven.append(f"lines {head.number + 1} to {proof.last} are not anchored")


def _age(text: str, now: float) -> float:
    try:
        return now - datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("inf")
