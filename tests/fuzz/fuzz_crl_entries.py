"""Fuzz target: ``python -m tests.fuzz.fuzz_crl_entries tests/fuzz/corpus/crl_entries`` where atheris is installed."""

import sys

import atheris

from tests.reference.crl_entries import check_crl_entries

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_crl_entries)
    atheris.Fuzz()
