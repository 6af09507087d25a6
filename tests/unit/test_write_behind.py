"""Writes that another thread makes: what is in the file, and how a disk without room is told."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from responder.crl.write_behind import MOST_AHEAD, MOST_PARTS, PIECE_OCTETS, WriteBehind

LIMIT = 3 * PIECE_OCTETS + 5


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file of this process become larger than LIMIT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_is_there_in_order(tmp_path: Path) -> None:
    """Of every size, empty ones too, behind an offset; what was not flushed is forgotten."""
    rng = random.Random(5)
    parts = [rng.randbytes(rng.choice([0, 1, 90, 4096])) for _ in range(3 * MOST_PARTS)]
    parts += [rng.randbytes(PIECE_OCTETS + 1), b"", rng.randbytes(PIECE_OCTETS)]
    with (tmp_path / "file").open("w+b") as file:
        with WriteBehind(file.fileno(), 7) as behind:
            for part in parts:
                behind.write(part)
            assert behind.offset == 7 + sum(map(len, parts))
            behind.flush()
            behind.flush()
            behind.write(b"forgotten")
        assert file.read() == bytes(7) + b"".join(parts)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("pieces", [4, 4 + 2 * MOST_AHEAD])
def test_a_disk_without_room_is_told(tmp_path: Path, pieces: int) -> None:
    """By the flush, or by a later write where so much follows; a write that is cut short is no success."""
    with (tmp_path / "file").open("w+b") as file, WriteBehind(file.fileno()) as behind:
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - either of them
            for _ in range(pieces):
                behind.write(bytes(PIECE_OCTETS))
            assert pieces <= 4 + MOST_AHEAD, "told while more is written"
            behind.flush()
        behind.close()
        assert file.seek(0, 2) <= LIMIT
