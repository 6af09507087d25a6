"""``revocast load``: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loaders.runner import load_all
from responder.store.redis_store import Store
from tests.loader_reading import SAMPLES, needs_samples
from tests.loader_room import AT, EXP, LoaderRoom, good, revoked
from tests.redis_fixture import RedisServer

PROJECT = Path(__file__).parents[2]


class CommandRoom(LoaderRoom):
    """A room in which the command is run in a process of its own."""

    def command(self, *words: str) -> tuple[int, list[str], str]:
        """Run ``revocast load``; returns exit code, the lines of standard output, and standard error."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "responder", "load", "-c", str(self.config_file), *words],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def room(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> CommandRoom:
    return CommandRoom(tmp_path, redis_server())


def test_it_says_what_changed(room: CommandRoom) -> None:
    """First a dry run, then the same in earnest, then nothing more to do: exit code 0, the report on standard output."""
    room.write(good("01"), revoked("02", "superseded"))
    code, lines, shown = room.command("--dry-run")
    assert (code, lines) == (0, ["corp: 2 certificates listed; would be: 2 new"])
    assert "corp: comparing" in shown
    assert "rows/s" in shown
    assert room.redis.keys("*") == []
    code, lines, _ = room.command()
    assert (code, lines[0]) == (0, "corp: 2 certificates listed; 2 new")
    assert lines[1].startswith("corp: known as of 20")
    assert room.statuses() == {"01": f"good {EXP}", "02": f"revoked {AT} superseded {EXP}"}
    assert room.command("--ca", "corp")[1][0] == "corp: 2 certificates listed; nothing changed"


def test_a_bad_row_is_named_and_the_exit_code_is_1(room: CommandRoom) -> None:
    """With file, line and reason; the rows that can be understood are loaded."""
    room.write(good("01"), good("02", "271301000000Z"), "nonsense\n")
    code, lines, _ = room.command()
    assert code == 1
    assert lines[0] == "corp: 1 certificates listed; 1 new"
    assert lines[1:3] == [
        f"rejected: {room.index}:2: expiry: no such day: '271301'",
        f"rejected: {room.index}:3: 1 columns instead of 6",
    ]
    assert room.statuses() == {"01": f"good {EXP}"}


def test_one_run_removes_releases_and_refuses(room: CommandRoom) -> None:
    """It reads twice by itself where that is needed, and names what it refused."""
    room.write(good("01"), good("02"), good("03"), revoked("04", "certificateHold"), revoked("05"))
    assert room.command()[0] == 0
    room.write(good("01"), revoked("02"), good("04"), good("05"))
    for words, start in ((("--dry-run",), "would be: "), ((), "")):
        code, lines, _ = room.command(*words)
        assert code == 1
        head, counts = lines[0].split("; ")
        assert head == "corp: 4 certificates listed"
        assert set(counts.removeprefix(start).split(", ")) == {"1 revoked", "1 removed", "1 released from hold"}
        assert lines[1].startswith(
            "corp: ALARM: 1 refused: the source says good or hold, but the certificate is revoked"
        )
        assert lines[1].endswith(": 05")
    assert sorted(room.statuses()) == ["01", "02", "04", "05"]


def test_a_source_that_shrank_is_an_alarm(room: CommandRoom) -> None:
    rows = [good(f"{number:02X}") for number in range(1, 11)]
    room.write(*rows)
    assert room.command()[0] == 0
    room.write(rows[0])
    code, lines, _ = room.command()
    assert code == 1
    assert any(line.startswith("corp: ALARM: 1 certificates listed, 10 before: nothing is removed") for line in lines)
    assert len(room.statuses()) == 10


@pytest.mark.parametrize(
    ("words", "source", "text"),
    [
        (("--ca", "none"), "", "revocast: --ca none: no such CA; there are corp"),
        ((), ", pfad = 1", "ca[corp].source.pfad: unknown key; allowed are type, certificates,"),
        ((), ', certificates = "absent"', "absent: no such directory (source.certificates)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    room: CommandRoom, words: tuple[str, ...], source: str, text: str
) -> None:
    room.configure(source=source)
    code, lines, shown = room.command(*words)
    assert (code, lines) == (2, [])
    (said,) = [line for line in shown.splitlines() if line.startswith("revocast: ")]
    assert text in said
    assert "Traceback" not in shown


def test_a_missing_index_is_one_line(room: CommandRoom) -> None:
    room.index.unlink()
    code, _, shown = room.command()
    assert code == 2
    assert f"revocast: {room.index}: cannot be read: No such file or directory" in shown


def test_the_embedded_redis_is_started_for_it(tmp_path: Path, room: CommandRoom) -> None:
    """Without a running Revocast; what was loaded is there the next time."""
    text = room.config_file.read_text().replace(room.server.config_section(), "")
    room.config_file.write_text(text)
    room.write(good("01"))
    assert room.command()[1][0] == "corp: 1 certificates listed; 1 new"
    assert room.command()[1][0] == "corp: 1 certificates listed; nothing changed"


def test_load_all_tells_how_far_it_is(room: CommandRoom) -> None:
    """What the quickstart calls: rows of every CA, and a count that rises to them."""
    room.write(*(good(f"{number:04X}") for number in range(0x100, 0x300)))
    told: list[int] = []
    assert load_all(room.config_file, told.append).listed == 0x200
    assert told == sorted(told)
    assert told[-1] == 0x200


@needs_samples
@pytest.mark.parametrize(
    ("sample", "certificate", "index", "good_count", "revoked_count"),
    [
        ("openssl-ca", "demoCA/ca.pem", "demoCA/index.txt", 4, 7),
        ("easyrsa3", "pki/ca.crt", "pki/index.txt", 4, 6),
    ],
)
def test_the_samples(
    room: CommandRoom, sample: str, certificate: str, index: str, good_count: int, revoked_count: int
) -> None:
    """What OpenSSL and Easy-RSA wrote, with the certificates beside it; its one row that expired years ago is not kept."""
    shutil.copytree(SAMPLES / sample, room.directory / sample, copy_function=shutil.copyfile)
    text = room.config_file.read_text()
    text = text.replace('"ca.pem"', f'"{sample}/{certificate}"').replace('"index.txt"', f'"{sample}/{index}"')
    room.config_file.write_text(text)
    code, lines, _ = room.command()
    assert code == 0, lines
    texts = list(room.statuses().values())
    assert sum(text.startswith("good") for text in texts) == good_count
    assert sum(text.startswith("revoked") for text in texts) == revoked_count
    with Store.connect(room.config, "follow") as store:
        info = store.ca_info(room.issuer.id)
    assert info is not None
    assert info.as_of is not None
