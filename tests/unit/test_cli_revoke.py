"""`revocast revoke`: the operator's word on a real Redis, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from responder import revocation
from responder.cli.app import build_app
from responder.config import load_config
from responder.errors import OperatorError
from responder.issuers import Issuers
from responder.model import Status
from responder.store.redis_store import Store
from tests.pki import PKI, make_ca, make_leaf
from tests.server import ca_section, index_line, write_index


class Desk:
    """A CA that is loaded into a Redis, and the command line over it."""

    def __init__(self, folder: Path, redis: object, profile: str = "private") -> None:
        self.ca: PKI = make_ca(folder / "ca", delegated=True)
        self.leaf = make_leaf(self.ca)
        index = folder / "index.txt"
        write_index(index, [index_line(self.leaf)])
        self.config = folder / "revocast.toml"
        section = ca_section("corp", self.ca, index, extra=f'profile = "{profile}"\n')
        self.config.write_text(redis.config_section() + section)  # type: ignore[attr-defined]
        settings = load_config(self.config)
        (self.issuer,) = Issuers.from_config(settings, str(self.config))
        self.store = Store.connect(settings, "follow")
        info = self.issuer
        self.store.ensure_ca(info.id, name=info.name, subject=info.subject_text, certificate=info.certificate_der)
        self.store.create_buckets(info.id, 4)
        self.row = "good exp=2030-01-01T00:00:00Z"
        self.load(self.row)

    def load(self, row: str) -> revocation.Report:
        """Apply a row of the source."""
        return revocation.apply(
            self.store, self.issuer.id, [(self.leaf.serial_octets, row)], signal="row", now=time.time()
        )

    @property
    def status(self) -> Status:
        """What stands now."""
        text = self.store.find_status(self.issuer.id, self.leaf.serial_octets)
        assert text is not None
        return Status.from_text(text)

    def command(self, *words: str) -> str:
        """Run `revocast revoke`; returns what it printed. Raises what it raises."""
        done = CliRunner().invoke(
            build_app(["revoke"]), ["revoke", "-c", str(self.config), *words], catch_exceptions=True
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.exit_code = done.exit_code
        return done.output


@pytest.fixture
def desk(tmp_path: Path, redis_server: Callable[..., object]) -> Iterator[Desk]:
    """A loaded CA of the private profile."""
    made = Desk(tmp_path, redis_server())
    yield made
    made.store.close()


def test_the_operators_word_stands(desk: Desk) -> None:
    """A later good row of the source never undoes it, and the command says so."""
    said = desk.command(str(desk.leaf.certificate_path), "--reason", "keyCompromise")
    assert "keyCompromise" in said
    assert "does not undo this" in said
    assert desk.exit_code == 0
    assert desk.load(desk.row).refused or desk.status.by_operator
    assert desk.status.by_operator
    assert desk.status.at(time.time()).name == "REVOKED"


def test_a_serial_with_colons_and_a_time(desk: Desk) -> None:
    """As openssl prints it; the time of the key's loss may lie back."""
    digits = f"{desk.leaf.serial_number:040x}"
    serial = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    desk.command(serial, "--at", "2026-11-20T10:00:00Z")
    assert desk.status.to_text().startswith("revoked 2026-11-20T10:00:00Z")
    assert desk.status.reason is None


def test_only_a_hold_is_released(desk: Desk) -> None:
    """--release ends a hold, and nothing else."""
    desk.command(str(desk.leaf.certificate_path), "--reason", "certificateHold")
    assert desk.status.is_hold
    desk.command(str(desk.leaf.certificate_path), "--release")
    assert desk.status.at(time.time()).name == "GOOD"
    desk.command(str(desk.leaf.certificate_path), "--reason", "superseded")
    said = desk.command(str(desk.leaf.certificate_path), "--release")
    assert desk.exit_code == 1
    assert "refused" in said
    assert desk.status.at(time.time()).name == "REVOKED"


@pytest.mark.clause("RFC 6960", "2.7", "MAY")
def test_all_of_a_ca(desk: Desk) -> None:
    """STS-07: the override stands in every partition, and answers are dropped."""
    desk.command("--all", "--ca", "corp", "--reason", "cACompromise")
    for partition in range(16):
        text = desk.store.override(desk.issuer.id, partition)
        assert text is not None
        assert text.startswith("revoked ")
        assert "cACompromise" in text


@pytest.mark.clause("BR", "4.9.13", "MUST NOT")
def test_nothing_is_held_under_webpki(tmp_path: Path, redis_server: Callable[..., object]) -> None:
    """BR-10: a suspension is refused before it is written."""
    desk = Desk(tmp_path, redis_server(), profile="webpki")
    with pytest.raises(OperatorError, match="nothing may be held"):
        desk.command(str(desk.leaf.certificate_path), "--reason", "certificateHold")
    assert desk.status.at(time.time()).name == "GOOD"
    with pytest.raises(OperatorError, match="nothing is held or released"):
        desk.command(str(desk.leaf.certificate_path), "--release")
    desk.store.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0f", "--reason", "whim"], "--reason whim: must be one of unspecified, keyCompromise"),
        (["0f", "--reason", "removeFromCRL"], "must be one of"),
        (["0f", "--at", "yesterday"], "--at yesterday: must be a time"),
        (["zz"], "zz: is neither a file nor a serial in hex"),
        (["0f", "--ca", "nobody"], "--ca nobody: no such CA; there are corp"),
        (["--all"], "--all needs --ca, one of corp"),
        ([], "name one certificate, or --all"),
    ],
)
def test_mistakes_are_one_line(desk: Desk, words: list[str], said: str) -> None:
    """Each names the word that is wrong and what is allowed; nothing is written."""
    with pytest.raises(OperatorError) as caught:
        desk.command(*words)
    assert said in str(caught.value)
    assert desk.status.to_text() == desk.row
