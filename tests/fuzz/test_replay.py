"""Every input of the corpora and every vector through the fuzz targets."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reference.crl_entries import check_crl_entries
from tests.reference.outcome import check_http_target, check_ocsp_request
from tests.vectors.catalog import load_catalog

FOLDER = Path(__file__).parent
TARGETS: dict[str, Callable[[bytes], None]] = {
    "ocsp_request": check_ocsp_request,
    "http_target": check_http_target,
    "crl_entries": check_crl_entries,
}


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_shows_no_difference(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((FOLDER / "corpus" / name).iterdir())]
    assert len(inputs) >= 20
    for data in inputs:
        TARGETS[name](data)


def test_vectors_show_no_difference() -> None:
    for vector in load_catalog("requests"):
        check_ocsp_request(vector.data)
        check_http_target(b"/" + base64.b64encode(vector.data))


@pytest.mark.parametrize("name", TARGETS)
def test_target_runs_what_is_replayed(name: str) -> None:
    """The fuzzer is not installed here, so its three lines are read: they must use the function that we replay."""
    source = (FOLDER / f"fuzz_{name}.py").read_text()
    assert re.search(r"Setup\(sys\.argv, (\w+)\)", source)[1] == TARGETS[name].__name__  # type: ignore[index]
