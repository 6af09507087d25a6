"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import importlib.util

# Each offers its fixtures under the names that its docstring tells.
pytest_plugins = [
    name
    for name in ("tests.pki", "tests.redis_fixture", "tests.signing_room", "tests.softhsm")
    if importlib.util.find_spec(name)
]
