"""Fuzz target: ``python -m tests.fuzz.fuzz_ocsp_request tests/fuzz/corpus/ocsp_request`` where atheris is installed."""

import sys

import atheris

from tests.reference.outcome import check_ocsp_request

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_ocsp_request)
    atheris.Fuzz()
