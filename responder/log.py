"""Structured logs on standard error: one JSON object a line, or coloured text for people.

error: an administrator can act on it. info: what a role does. Clients' faults are debug. What an outage would repeat
thousands of times a second is thinned out: see ``Sampler``. Values are escaped by the renderer, never by callers.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal, cast

import structlog

SAMPLE_WINDOW_S = 10.0
SAMPLE_LIMIT = (
    20  # records of one event in one window and process; the rest are counted and named in the next one let through
)
MAX_VALUE_CHARS = 300  # a client chooses the length of some values (SEC-10)


class Sampler:
    """Lets the first SAMPLE_LIMIT records of an event through in each window and counts the others."""

    def __init__(self) -> None:
        self._window_ends = 0.0
        self._seen: dict[str, int] = {}

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Act as a structlog processor."""
        now = time.monotonic()
        suppressed = 0
        name = str(event.get("event"))
        if now >= self._window_ends:
            suppressed = max(0, self._seen.get(name, 0) - SAMPLE_LIMIT)
            self._seen.clear()
            self._window_ends = now + SAMPLE_WINDOW_S
        count = self._seen[name] = self._seen.get(name, 0) + 1
        if count > SAMPLE_LIMIT:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed_before"] = suppressed
        return event


def _bounded(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, bytes):
            value = event[key] = value.hex()
        if isinstance(value, str) and len(value) > MAX_VALUE_CHARS and key != "exception":
            event[key] = value[:MAX_VALUE_CHARS] + "…"
    return event


def configure_logging(
    role: str,
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["json", "console"] = "json",
) -> None:
    """Set this process's logs up; ``role`` is in every record."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role)
    renderer = structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            Sampler(),
            structlog.processors.format_exc_info,
            _bounded,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module; ``name`` is in every record."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(module=name))
