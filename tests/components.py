"""Programs that tests need beside Python: `make test` installs them; where one is missing a test says so.

With CI=true a missing program is a failure, never a skip.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def need(*programs: str) -> None:
    """Skip the test where a program is missing, or fail it under CI=true; paths count as programs."""
    missing = [name for name in programs if not (Path(name).exists() if "/" in name else shutil.which(name))]
    if not missing:
        return
    lacking(f"missing: {', '.join(missing)} (`make test` installs it)")


def lacking(reason: str) -> None:
    """Skip the test, or fail it under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
