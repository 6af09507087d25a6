"""Every metric stands in docs/metrics.md, and nothing stands there that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import REGISTRY

import responder.metrics  # noqa: F401 - registers them

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_every_metric_is_documented() -> None:
    """An operator finds each metric, with the name that the scrape shows."""
    known = set()
    for family in REGISTRY.collect():
        if family.name.startswith("revocast_"):
            known.add(family.name + ("_total" if family.type == "counter" else ""))
    documented = set(re.findall(r"^\| `(revocast_\w+)", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == known
