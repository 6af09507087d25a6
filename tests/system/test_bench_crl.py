"""The CRL benchmark works from end to end: both make a CRL of the same entries, and a delta is issued. No timing is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import crl
from bench.serve.report import other_targets
from tests.components import need


def test_benchmark_measures_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result has what the report shows, and results of other sizes stay in the file."""
    need("openssl", "redis-server")
    results = tmp_path / "crl.json"
    results.write_text(json.dumps({"sizes": [{"entries": 1, "peak_mb": 1, "delta_seconds": 1}]}))
    monkeypatch.setattr(sys, "argv", ["crl", "--entries", "300", "--rounds", "1", "--json", str(results)])
    crl.main()
    found = json.loads(results.read_text())
    assert [one["entries"] for one in found["sizes"]] == [1, 300]
    (ours,), (theirs,) = found["sizes"][1]["revocast"], found["sizes"][1]["openssl"]
    assert ours["entries"] == 300
    assert theirs["pem_bytes"] > ours["bytes"] > 300 * 40
    shown = {target.what for target in other_targets({"crl": found})}
    assert "complete CRL of 300 entries against openssl ca -gencrl" in shown
