"""The loader and its tests in docs/loaders/writing-one.md do what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "loaders" / "writing-one.md"


def test_the_page_s_loader_passes_the_contract_suite(tmp_path: Path) -> None:
    """As a third party would run it; and it is short."""
    loader, suite = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(loader.splitlines()) < 60
    (tmp_path / "example_loader.py").write_text(loader)
    (tmp_path / "test_example.py").write_text(suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:locust", "test_example.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\b10 passed, 2 skipped", done.stdout), done.stdout[-500:]
