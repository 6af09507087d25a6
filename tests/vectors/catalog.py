"""Loads a folder of vectors: files of octets, and a catalog.toml that says of each what it is and what must come of it.

Unknown and missing keys, files that are not listed and entries without a file are errors, so that no vector is lost
by a slip of the pen.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

VECTORS = Path(__file__).parent


@dataclass(frozen=True)
class Vector:
    id: str  # dotted, such as ocsp.request.length-not-minimal
    file: str
    clause: str  # of a standard, such as "X.690 §10.1"
    expect: str  # "good", or the name of the exception and its code, such as "MalformedRequest length-not-minimal"
    note: str  # one sentence
    origin: str
    licence: str
    data: bytes


def load_catalog(folder: str, suffix: str = ".der") -> list[Vector]:
    """Return the vectors of a folder in the order of its catalogue; raises ValueError where the two do not fit.

    ``suffix`` ends the names of all its files.
    """
    directory = VECTORS / folder
    keys = {item.name for item in fields(Vector)} - {"data"}
    vectors = []
    for entry in tomllib.loads((directory / "catalog.toml").read_text())["vector"]:
        if entry.keys() != keys:
            raise ValueError(f"{folder}/catalog.toml: {entry.get('id')}: keys {sorted(entry.keys() ^ keys)}")
        vectors.append(Vector(**entry, data=(directory / entry["file"]).read_bytes()))
    listed = {vector.file for vector in vectors}
    present = {path.name for path in directory.glob(f"*{suffix}")}
    if listed != present or len(listed) != len(vectors) or len({vector.id for vector in vectors}) != len(vectors):
        raise ValueError(f"{folder}: files and catalog.toml differ: {sorted(listed ^ present)}")
    return vectors
