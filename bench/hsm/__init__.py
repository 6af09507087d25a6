"""Presigning against the bare token: `python -m bench.hsm`."""
