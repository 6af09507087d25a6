"""`revocast crl now` and `revocast crl last`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from rich.progress import Progress
from typer.testing import CliRunner

from responder.cli import crl_issue
from responder.cli.app import build_app
from responder.clock import format_utc
from responder.errors import OperatorError, PublicationRefused
from tests.crl_office import HELD, HOUR_S, REVOKED, URL, CRLOffice
from tests.signing_room import GOOD

MakeOffice = Callable[..., CRLOffice]


def command(office: CRLOffice, *words: str, stdin: str = "") -> str:
    """Run `revocast crl`; returns what it printed, raises what it raises."""
    arguments = ["crl", words[0], "-c", str(office.room.config_file), *words[1:]]
    done = CliRunner().invoke(build_app(arguments), arguments, input=stdin)
    structlog.reset_defaults()  # what the runner gave it to write to is closed
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def audited(office: CRLOffice, event: str) -> list[dict[str, object]]:
    """Return the lines of an event in the command's audit log."""
    lines = [
        json.loads(line)
        for path in sorted((office.room.config.data_dir / "audit").glob("command.*.log"))
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line["event"] == event]


def test_issue_at_once(make_office: MakeOffice) -> None:
    """Whatever is due; each use of the key is a line of the audit log."""
    office = make_office(f'delta_every = "1h", url = "{URL}"')
    said = command(office, "now")
    assert "corp full: number 1, 2 entries" in said
    said = command(office, "now", "--delta", "--ca", "corp")
    assert "corp delta: number 2, 0 entries" in said
    assert office.number() == 1
    signed = [line for line in audited(office, "sign") if line["why"] == "crl"]
    assert [(line["slot"], line["number"], line["entries"]) for line in signed] == [("full", 1, 2), ("delta", 2, 0)]
    published = office.depot.get("corp", "full")
    assert published is not None
    assert signed[0]["sha256"] == published.sha256
    assert office.read().crl.signature.hex().endswith(str(signed[0]["signatures"]))


def test_progress(make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than a second shows how far it is; here that is no time at all."""
    monkeypatch.setattr(crl_issue, "PATIENCE_S", -1.0)
    shown: list[str] = []
    update = Progress.update

    def note(progress: Progress, *arguments: Any, **named: Any) -> None:
        shown.append(named["description"])
        update(progress, *arguments, **named)

    monkeypatch.setattr(Progress, "update", note)
    office = make_office()
    command(office, "now")
    assert "reading what is revoked: 100 %" in shown
    assert shown[-1] == "full: 2 entries"


def test_an_entry_is_let_go_by_an_operator(make_office: MakeOffice) -> None:
    """What no rule lets go an operator may, and that is written down."""
    office = make_office()
    command(office, "now")
    office.room.change(2, GOOD, "changed")
    with pytest.raises(PublicationRefused, match="predecessor: serial 02"):
        command(office, "now")
    with pytest.raises(OperatorError, match="--ca"):
        command(office, "now", "--let-go", "02")
    command(office, "now", "--let-go", "02", "--ca", "corp")
    assert office.read().serials.keys() == {3}
    (line,) = audited(office, "crl_let_go")
    assert line["serials"] == ["02"]


def test_what_cannot_be(make_office: MakeOffice) -> None:
    """One line that says why."""
    office = make_office()
    with pytest.raises(OperatorError, match=r"no such CA .* there are: corp"):
        command(office, "now", "--ca", "other")
    with pytest.raises(OperatorError, match="delta_every is absent"):
        command(office, "now", "--delta")


@pytest.mark.clause("EN 319 411-1", "6.3.9", "SHALL")
def test_the_last_crl(make_office: MakeOffice) -> None:
    """ETS-02: not before all is over; nextUpdate is 99991231235959Z as a GeneralizedTime; nothing is issued after it."""
    statuses = {1: GOOD, 2: REVOKED, 3: HELD, 4: "good exp=2020-01-01T00:00:00Z"}
    office = make_office('every = "24h"', profile="etsi", statuses=statuses)
    command(office, "now")
    with pytest.raises(OperatorError, match=r"serial 01 is good until 2049-12-31T23:59:59Z.*CSS-6\.3\.9-06"):
        command(office, "last", "--ca", "corp", "--yes")
    office.revoke(1)
    command(office, "last", "--ca", "corp", stdin="n\n")
    assert office.number() == 1
    said = command(office, "last", "--ca", "corp", stdin="y\n")
    assert "number 2, 3 entries" in said
    assert "to 9999-12-31T23:59:59Z" in said
    last = office.read()
    assert b"\x18\x0f99991231235959Z" in last.crl.tbs_certlist_bytes
    assert last.serials.keys() == {1, 2, 3}
    for words in (["last", "--yes", "--ca", "corp"], ["now"]):
        with pytest.raises(OperatorError, match="last CRL has been issued"):
            command(office, *words)
    office.new_publisher()
    office.revoke(4)
    office.pass_time(48 * HOUR_S)
    assert office.number() == 2
    published = office.depot.get("corp", "full")
    assert published is not None
    assert published.is_last
    assert len(audited(office, "crl_last")) == 1


def test_a_running_publisher_sees_that_it_is_over(make_office: MakeOffice) -> None:
    """A command has issued the last one meanwhile."""
    office = make_office(statuses={2: REVOKED})
    office.turn()
    command(office, "last", "--ca", "corp", "--yes")
    office.revoke(3)
    office.turn()
    office.pass_time(48 * HOUR_S)
    assert office.number() == 2


def test_no_last_crl_in_the_web_pki(make_office: MakeOffice) -> None:
    """BR-08: nextUpdate is bounded there."""
    office = make_office(profile="webpki", statuses={2: REVOKED})
    with pytest.raises(OperatorError, match=r"profile webpki has no last CRL.*BR §7\.2"):
        command(office, "last", "--ca", "corp", "--yes")
    assert office.number() is None


def test_certificates_without_an_end_are_in_use(make_office: MakeOffice) -> None:
    """A source that tells no expiry may not be taken to mean that there is none."""
    office = make_office(statuses={1: "good", 2: f"revoked {format_utc(1)}"})
    with pytest.raises(OperatorError, match="nobody knows until when"):
        command(office, "last", "--ca", "corp", "--yes")
