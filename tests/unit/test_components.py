"""Programs that tests need: skipped where a developer lacks one, never under CI."""

from __future__ import annotations

import pytest

from tests import components


def test_a_missing_program_is_a_failure_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CI=true nothing is skipped."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        components.need("no-such-program")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception):
        components.need("no-such-program")
