"""The depot: whatever happens in between, a reader finds the old CRL or the new one, whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from responder.crl.depot import PROVE_EVERY_S, Depot
from responder.crl.published import NO_NEXT_UPDATE, Published
from responder.errors import CommitConflict, InvariantBroken

STEPS = ("open", "write", "fsync", "replace", "unlink")


class Killed(BaseException):
    """The process ends here; no handler of the depot's may see to anything."""


def described(body: bytes, number: int | None = 1, *, slot: str = "full", this_update: int = 1000) -> Published:
    return Published(
        ca="corp",
        ca_id="0123456789abcdef",
        slot=slot,
        number=number,
        base_number=None,
        this_update=this_update,
        next_update=this_update + 3600,
        next_publication=this_update + 600,
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        entries=3,
        shares_date=False,
        file="",
    )


def put(depot: Depot, body: bytes, number: int | None = 1, **terms: Any) -> Published:
    fresh = depot.fresh("corp")
    fresh.write_bytes(body)
    return depot.put(fresh, described(body, number, **terms))


def read(depot: Depot, slot: str = "full") -> tuple[Published, bytes] | None:
    found = depot.open("corp", slot)
    if found is None:
        return None
    published, descriptor = found
    with os.fdopen(descriptor, "rb") as file:
        return published, file.read()


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "crl")


def test_what_was_put_is_found(depot: Depot) -> None:
    """The manifest says what the file holds; other slots and CAs are untouched."""
    assert depot.get("corp", "full") is None
    assert depot.open("corp", "full") is None
    assert depot.slots("corp") == []
    first = put(depot, b"one")
    assert read(depot) == (first, b"one")
    assert first.file == f"full-1-{first.sha256[:8]}.crl"
    put(depot, b"shard", slot="3")
    put(depot, b"delta of a shard", 2, slot="3-delta")
    assert depot.slots("corp") == ["3", "3-delta", "full"]
    assert read(depot) == (first, b"one")
    assert Published.from_text(first.to_text()) == first
    assert not first.is_last
    assert described(b"", this_update=NO_NEXT_UPDATE - 3600).is_last


def test_two_generations_are_kept(depot: Depot) -> None:
    """Who has read the manifest still finds the file when it was replaced meanwhile; who has it open keeps its bytes."""
    files = [put(depot, f"body {number}".encode(), number).file for number in range(1, 5)]
    put(depot, b"of a shard whose name begins alike", 9, slot="1-delta")
    held = depot.open("corp", "full")
    assert held is not None
    files += [put(depot, f"body {number}".encode(), number).file for number in range(5, 8)]
    there = sorted(path.name for path in (depot.root / "corp").glob("full-*.crl"))
    assert there == sorted(files[-2:])
    assert len(list((depot.root / "corp").glob("1-delta-*.crl"))) == 1
    with os.fdopen(held[1], "rb") as file:
        assert file.read() == b"body 4"


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
@pytest.mark.parametrize(
    ("before", "after"),
    [((5, 1000), (5, 2000)), ((5, 1000), (4, 2000)), ((5, 1000), (6, 999)), ((None, 1000), (None, 999))],
    ids=["same number", "smaller number", "older thisUpdate", "older, no numbers"],
)
def test_nothing_goes_back(depot: Depot, before: tuple[int | None, int], after: tuple[int | None, int]) -> None:
    """CRL-07: who has seen a CRL is never shown an older one; the newer one stays as it is."""
    first = put(depot, b"one", before[0], this_update=before[1])
    with pytest.raises(CommitConflict, match="does not follow"):
        put(depot, b"two", after[0], this_update=after[1])
    assert read(depot) == (first, b"one")


def test_the_same_crl_again_is_no_change(depot: Depot) -> None:
    """A crash after the manifest was written makes the publisher try once more."""
    put(depot, b"zero")
    first = put(depot, b"one", 2)
    assert put(depot, b"one", 2) == first
    assert read(depot) == (first, b"one")
    assert len(list((depot.root / "corp").glob("full-*.crl"))) == 2


def test_another_key_is_another_series(depot: Depot) -> None:
    """A CA that goes on under its old name with a new key starts its numbers anew."""
    put(depot, b"one", 900)
    fresh = depot.fresh("corp")
    fresh.write_bytes(b"two")
    published = described(b"two", 1)
    depot.put(fresh, Published.from_text(published.to_text().replace("0123456789abcdef", "f" * 16)))
    assert read(depot)[1] == b"two"  # type: ignore[index]


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_a_crash_between_any_two_steps(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """DST-05: killed before any of its system calls, a publication has happened as a whole or not at all."""
    old = put(depot, b"body 1")
    seen = set()
    for survive in range(100):
        body = f"body {survive + 2}".encode()
        steps = 0

        def mortal(real: Callable[..., Any], last: int = survive) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal steps
                if steps >= last:
                    raise Killed
                steps += 1
                return real(*arguments, **named)

            return call

        fresh = depot.fresh("corp")
        fresh.write_bytes(body)
        new = described(body, survive + 2)
        finished = True
        with monkeypatch.context() as patched:
            for name in STEPS:
                patched.setattr(os, name, mortal(getattr(os, name)))
            try:
                depot.put(fresh, new)
            except Killed:
                finished = False
        found = read(Depot(depot.root))
        assert found is not None
        published, content = found
        assert hashlib.sha256(content).hexdigest() == published.sha256
        assert published.number in (old.number, new.number)
        seen.add(published.number == new.number)
        old = published
        if finished:
            assert published.number == new.number
            break
    else:
        pytest.fail("it never got to its end")
    assert seen == {True, False}
    assert survive > 10
    assert len(list((depot.root / "corp").glob("*.crl"))) == 2


def test_a_reader_outlives_two_replacements(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the manifest and the file both may have gone; the reader begins again."""
    put(depot, b"body 1")
    get, calls = depot.get, []

    def slow_get(ca: str, slot: str) -> Published | None:
        found = get(ca, slot)
        calls.append(found)
        if len(calls) == 1:
            monkeypatch.setattr(depot, "get", get)
            for number in range(2, 5):
                put(depot, f"body {number}".encode(), number)
            monkeypatch.setattr(depot, "get", slow_get)
        return found

    monkeypatch.setattr(depot, "get", slow_get)
    assert read(depot)[1] == b"body 4"  # type: ignore[index]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-3], "remove it"),
        (lambda text: "[]", "no JSON object"),
        (lambda text: text.replace('"number": 1', '"number": "1"'), "number is '1'"),
        (lambda text: text.replace('"size"', '"length"'), "size is missing"),
        (lambda text: text.replace('"size": 3', '"size": 4'), "not 4 octets"),
        (lambda text: text.replace('"file": "full-1-', '"file": "full-2-'), "not there"),
    ],
)
def test_a_damaged_manifest_is_said_and_mended(depot: Depot, damage: Callable[[str], str], words: str) -> None:
    """Nothing is served from it, the line names it, and the next CRL takes its place."""
    put(depot, b"one")
    manifest = depot.root / "corp" / "full.json"
    manifest.write_text(damage(manifest.read_text()))
    with pytest.raises(InvariantBroken, match=words):
        depot.open("corp", "full")
    newer = put(depot, b"two", 2)
    assert read(depot) == (newer, b"two")


def flip(path: Path) -> None:
    """Change one bit, as a disk does: neither size nor times tell."""
    before = path.stat()
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip, "its SHA-256 is"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it has 3 octets, and was published with 4"),
        (lambda path: path.unlink(), "it cannot be read: No such file"),
    ],
    ids=["a bit", "its end", "all of it"],
)
def test_the_one_before_is_served_in_a_damaged_ones_place(
    depot: Depot, damage: Callable[[Path], None], problem: str
) -> None:
    """Until the next comes, above the number that was lost; where there is none before it, nothing is served."""
    put(depot, b"zero", 0)
    before, newest = put(depot, b"one", 1), put(depot, b"last", 2, this_update=2000)
    assert depot.whole("corp", "full") == newest
    damage(depot.path(newest))
    with capture_logs() as logs:
        restored = Depot(depot.root).whole("corp", "full")  # another process, which has read nothing yet
    assert restored == replace(before, lost=2, next_publication=before.this_update)
    assert problem in logs[0]["error"]
    assert (logs[0]["event"], logs[0]["consequence"]) == (
        "crl_file_damaged",
        "number 1, the one before it, is served until the next",
    )
    assert depot.whole("corp", "full") == restored
    assert read(depot) == (restored, b"one")
    assert depot.largest_number(newest.ca_id) == 2
    flip(depot.path(restored))
    assert depot.whole("corp", "full") is None
    assert depot.open("corp", "full") is None
    assert depot.largest_number(newest.ca_id) == 2
    again = put(depot, b"last", 2, this_update=2000)  # fetched once more
    assert again == newest
    assert read(depot) == (newest, b"last")
    put(depot, b"two", 3, this_update=2001)
    names = {path.name for path in (depot.root / "corp").iterdir()}
    assert len([name for name in names if name.startswith("full-")]) == 3  # two CRLs, and what is known of the older


def test_a_file_is_read_when_it_may_have_changed_and_seldom_otherwise(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the workers; once by a process that starts; when somebody has touched it; and every few hours."""
    read_files = []

    def counting(file: Any, digest: str) -> Any:
        read_files.append(file.name)
        return real(file, digest)

    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", counting)
    now = [0.0]
    depot = Depot(depot.root, lambda: now[0])

    def times(of: Depot) -> int:
        read_files.clear()
        for _ in range(3):
            assert of.whole("corp", "full") == published
            assert read(of) == (published, b"one")
        return len(read_files)

    published = put(depot, b"one")
    assert times(depot) == 0  # hashed while it was made
    assert times(Depot(depot.root)) == 1
    depot.path(published).write_bytes(b"one")
    assert times(depot) == 1
    now[0] += PROVE_EVERY_S
    assert times(depot) == 1


def test_a_damaged_one_that_was_replaced_meanwhile(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets it aside looks again once it is his turn."""
    put(depot, b"one")
    flip(depot.path(put(depot, b"two", 2)))
    reader, set_aside = Depot(depot.root), Depot._set_aside

    def late(self: Depot, published: Published, problem: str) -> None:
        monkeypatch.setattr(Depot, "_set_aside", set_aside)
        put(depot, b"three", 3)
        set_aside(self, published, problem)

    monkeypatch.setattr(Depot, "_set_aside", late)
    found = reader.whole("corp", "full")
    assert found is not None
    assert (found.number, found.lost) == (3, None)


def test_what_a_crash_left_is_swept(depot: Depot) -> None:
    """Half-made files of processes that are no more; those of living ones stay."""
    mine = depot.fresh("corp")
    mine.write_bytes(b"half")
    left = mine.with_name(f".fresh-{2**22 + 1}-00112233")  # above the kernel's largest process id
    left.write_bytes(b"half")
    depot.sweep("corp")
    assert mine.exists()
    assert not left.exists()


def test_a_slot_that_is_none(depot: Depot) -> None:
    """A slot becomes a file's name, so it is one of the few that there are."""
    with pytest.raises(InvariantBroken, match="no slot"):
        put(depot, b"x", slot="../full")
