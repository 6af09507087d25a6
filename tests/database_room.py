"""A CA for tests of loaders of databases. Called by tests/unit/test_*_loader.py."""

from __future__ import annotations

from pathlib import Path

from responder.config import load_config
from responder.issuers import Issuer, Issuers
from tests.pki import make_ca


def issuer_of(directory: Path, kind: str, name: str = "corp") -> Issuer:
    """Make a CA, and return it as a configuration with a source of that type has it."""
    directory.mkdir(exist_ok=True)
    make_ca(directory, label=name)
    file = directory / "revocast.toml"
    source = f'source = {{ type = "{kind}" }}'
    file.write_text(f'[[ca]]\nname = "{name}"\ncertificate = "ca.pem"\n{source}\nocsp = {{ key = "ca.key" }}\n')
    return next(iter(Issuers.from_config(load_config(file), str(file))))
