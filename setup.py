"""Builds the Cython extensions of fastpath and responder.http; everything else is in pyproject.toml.

REVOCAST_SANITIZE=1 builds them with AddressSanitizer and UndefinedBehaviorSanitizer (make test-sanitized).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("REVOCAST_SANITIZE") == "1"
COMPILE = ["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
LINK: list[str] = []
if SANITIZE:
    COMPILE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    LINK = ["-fsanitize=address,undefined"]

extensions = [
    Extension(".".join(source.with_suffix("").parts), [str(source)], extra_compile_args=COMPILE, extra_link_args=LINK)
    for folder in ("fastpath", "responder/http", "responder/signing")
    for source in sorted(Path(folder).glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={"language_level": "3", "embedsignature": True},
        build_dir="build/cython",
    )
)
