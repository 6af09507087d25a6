"""Fuzz target: ``python -m tests.fuzz.fuzz_http_target tests/fuzz/corpus/http_target`` where atheris is installed."""

import sys

import atheris

from tests.reference.outcome import check_http_target

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_http_target)
    atheris.Fuzz()
