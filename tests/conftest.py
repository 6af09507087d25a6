"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# No example is timed: tests run side by side on machines that are busy.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")

# Before it is imported: its assertions are to say what they compared.
pytest.register_assert_rewrite("loaders.contract_suite")

# Each offers its fixtures under the names that its docstring tells.
pytest_plugins = [
    name
    for name in (
        "tests.databases",
        "tests.pki",
        "tests.redis_fixture",
        "tests.signing_room",
        "tests.crl_office",
        "tests.slapd_fixture",
        "tests.softhsm",
        "tests.web_folder",
    )
    if importlib.util.find_spec(name)
]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what a test has configured: a level that it set would hide from the next ones what they look for."""
    yield
    structlog.reset_defaults()
