"""Logs: one record a line whatever a client sends, and thinned out where an outage would flood them."""

from __future__ import annotations

import json

import pytest
import structlog

from responder.log import MAX_VALUE_CHARS, SAMPLE_LIMIT, configure_logging, get_logger


@pytest.fixture(autouse=True)
def _restore() -> object:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_one_record_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """SEC-10: CR, LF, ANSI and length in a client's value cannot forge or flood a record."""
    configure_logging("worker", "debug")
    get_logger("http").debug("refused", target="/x\r\n{}\x1b[31m", agent="a" * 5000, raw=b"\x00\xff")
    (record,) = records(capsys)
    assert record["role"] == "worker"
    assert record["target"] == "/x\r\n{}\x1b[31m"
    assert record["agent"] == "a" * MAX_VALUE_CHARS + "…"
    assert record["raw"] == "00ff"


def test_a_flood_is_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    """An outage repeats one event thousands of times; a few stay, and other events are not lost with them."""
    configure_logging("worker", "info")
    log = get_logger("ocsp")
    for _ in range(1000):
        log.error("store_unavailable")
    log.error("something_else")
    events = [record["event"] for record in records(capsys)]
    assert events.count("store_unavailable") == SAMPLE_LIMIT
    assert events.count("something_else") == 1


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the level nothing is written."""
    configure_logging("worker", "warning")
    get_logger("x").info("quiet")
    assert records(capsys) == []
