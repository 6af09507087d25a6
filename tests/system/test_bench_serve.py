"""The serving benchmark works from end to end: it measures, checks answers, and its report is made. No timing is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOADS = ("get-hot", "cold", "nonce")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a module of the harness as `make bench` does."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a quick run wrote: every way of measuring once, floor and Revocast only."""
    directory = tmp_path_factory.mktemp("results")
    done = run(
        *(
            "bench.serve",
            "--quick",
            "--seconds",
            "0.5",
            "--certificates",
            "600",
            "--loads",
            ",".join((*LOADS, "latency")),
        ),
        *("--contenders", "floor,revocast", "--json", directory / "serve.json"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Revocast" in done.stdout
    return directory


def test_every_load_was_measured(results: Path) -> None:
    """Each contender has a run with answers, CPU time and no error; where it ran is told."""
    result = json.loads((results / "serve.json").read_text())
    assert set(result["loads"]) == set(LOADS)
    for name, load in result["loads"].items():
        (done,) = load["rounds"]
        assert set(done) == ({"revocast"} if name == "nonce" else {"floor", "revocast"})
        for one in done.values():
            assert one["answers"] > 0
            assert one["cpu_seconds"] > 0
            assert not any(one["errors"].values())
    assert {(one["contender"], one["share"]) for one in result["latency"]["runs"]} == {
        ("revocast", 0.5),
        ("revocast", 0.9),
    }
    assert result["machine"]["cpu"]
    assert {"revocast", "floor", "wrk", "redis-server"} <= set(result["versions"])


def test_the_cold_load_asks_for_each_certificate_once(results: Path) -> None:
    """The generator stops where the certificates end, however many seconds are left."""
    result = json.loads((results / "serve.json").read_text())
    for one in result["loads"]["cold"]["rounds"][0].values():
        assert one["requests"] <= 600


def test_the_report_is_made_of_it(results: Path, tmp_path: Path) -> None:
    """Page and plot are written, and fresh at once; a figure of another file beside it is listed."""
    (results / "other.json").write_text(
        json.dumps({"figures": [{"what": "an odd figure", "value": 3, "unit": "s", "at_most": 2}]})
    )
    where = ("--results", results, "--output", tmp_path / "performance.md")
    assert run("bench.serve.report", *where, "--check").returncode == 1
    done = run("bench.serve.report", *where)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "performance.md").read_text()
    assert "{{" not in page
    assert "| an odd figure | at most 2 s | 3 s | **missed** |" in page
    assert "× floor" in page
    plot = ET.fromstring((tmp_path / "performance.svg").read_text())  # noqa: S314 - our own
    assert plot.tag.endswith("svg")
    assert run("bench.serve.report", *where, "--check").returncode == 0


def test_the_page_in_docs_is_fresh() -> None:
    """docs/performance.md is what bench/results and the hand-written part make."""
    done = run("bench.serve.report", "--check")
    assert done.returncode == 0, done.stderr
