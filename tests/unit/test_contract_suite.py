"""The contract suite on a loader that keeps the contract, and on some that break it: each is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loaders.base import Batch, Loader, Row, Rows
from loaders.certificates import file_stem
from loaders.contract_suite import HOLD_ROW, ContractSource, LoaderContract
from loaders.openssl import OpenSSLOptions
from loaders.registry import loader_class
from responder.config import load_config
from responder.issuers import Issuer, Issuers
from responder.model import Status
from tests.pki import make_ca

HOSTILE = (
    "V\t99991301000000Z\t\t7A\tunknown\t/CN=x\n",
    "R\t301231235959Z\t260102030405Z,4000\t7B\tunknown\t/CN=x\n",
    "V\t301231235959Z\t\t" + "0A" * 8192 + "\tunknown\t/CN=x\n",
    "V\t301231235959Z\t\t\0\0\tunknown\t/CN=x\n",
)


def line(serial_octets: bytes, text: str) -> str:
    """Spell a status as ``openssl ca`` does."""
    status = Status.from_text(text)
    words = {word.partition("=")[0]: word.partition("=")[2] for word in text.split(" ")}

    def date(text: str) -> str:
        return text.translate(str.maketrans("", "", "-:T"))

    column = ""
    if status.revoked_at is not None:
        column = date(text.split(" ")[1]) + (f",{status.reason.asn1_name}" if status.reason else "")
    return f"{'R' if column else 'V'}\t{date(words['exp'])}\t{column}\t{file_stem(serial_octets)}\tunknown\t/CN=x\n"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    directory = tmp_path_factory.mktemp("ca")
    make_ca(directory)
    file = directory / "revocast.toml"
    file.write_text(
        '[[ca]]\nname = "corp"\ncertificate = "ca.pem"\nsource = { type = "openssl", path = "x" }\nocsp = { key = "ca.key" }\n'
    )
    return next(iter(Issuers.from_config(load_config(file), str(file))))


class IndexSource(ContractSource):
    """An index.txt."""

    def __init__(self, path: Path, issuer: Issuer) -> None:
        self.path, self.issuer = path, issuer

    def open(self) -> Loader:
        found: Loader = loader_class(self.issuer, "")(OpenSSLOptions(path=self.path), self.issuer, [], self.clock)
        return found

    def write(self, rows: Sequence[Row]) -> None:
        self.path.write_text("".join(line(*row) for row in rows))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        lines = [line(*row) for row in rows]
        self.path.write_text("".join([*HOSTILE[:2], *lines, *HOSTILE[2:]]))
        return len(HOSTILE)

    def take_away(self) -> None:
        self.path.unlink()


class TestOpenSSL(LoaderContract):
    """index.txt keeps the contract."""

    @pytest.fixture
    def source(self, tmp_path: Path, issuer: Issuer) -> ContractSource:
        return IndexSource(tmp_path / "index.txt", issuer)


class Liar:
    """A loader that breaks the contract in one way."""

    Options = OpenSSLOptions
    name = "liar"
    lists_issued = True
    good_releases_hold = True
    follows_clock = True

    def __init__(self, source: LiarsSource, lie: str) -> None:
        self.source, self.lie = source, lie

    def peek(self) -> str:
        return "" if self.lie == "blind" else repr(self.source.rows)

    def snapshot(self) -> Rows:
        now = self.source.clock.now()
        return Rows(self._batches(), now + 1 if self.lie == "ahead" else now)

    def _batches(self) -> Iterator[Batch]:
        rows = list(self.source.rows or ())
        if self.lie == "drops":
            rows = rows[1:]
        if self.lie == "padded":
            rows = [(b"\0" + serial, text) for serial, text in rows]
        yield Batch(rows)


class LiarsSource(ContractSource):
    """Rows in memory."""

    def __init__(self, lie: str) -> None:
        self.lie = lie
        self.rows: Sequence[Row] | None = []

    def open(self) -> Loader:
        return Liar(self, self.lie)

    def write(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def take_away(self) -> None:
        self.rows = None


@pytest.mark.parametrize(
    ("lie", "test"),
    [
        ("blind", LoaderContract.test_a_change_is_seen),
        ("ahead", LoaderContract.test_as_of_is_never_ahead),
        ("drops", LoaderContract.test_every_row_arrives_as_it_is),
        ("padded", LoaderContract.test_every_row_arrives_as_it_is),
        ("empty", LoaderContract.test_a_source_that_is_gone_is_an_error_of_one_line),
    ],
)
def test_a_lie_is_found(lie: str, test: object) -> None:
    """And the same test passes where there is none."""
    if lie != "empty":
        test(LoaderContract(), LiarsSource("none"))  # type: ignore[operator]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(LoaderContract(), LiarsSource(lie))  # type: ignore[operator]


def test_the_hold_is_a_hold() -> None:
    assert Status.from_text(HOLD_ROW[1]).is_hold
