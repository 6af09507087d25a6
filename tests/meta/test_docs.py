"""The generated documents are what their sources say now, and the example file in them is one that Revocast loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from docs import generate
from responder.config import Config, SourceConfig, load_config
from tests.pki import PKI

EXAMPLE = generate.ROOT / "docs" / "revocast.toml"
OPTIONAL_LINE = re.compile(r"^#(?=[a-z_]+ = |\[)", re.MULTILINE)  # "#key = …" and "#[table]", never "# prose"

SOURCES = (".md", ".py", ".pyx", ".pxd", ".pyi", ".toml")
RECORD = re.compile(r"\b(?:ADR |adr/)0*(\d+)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def test_generated_documents_are_fresh() -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, generate.ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- the example file ---


def with_every_key() -> str:
    """Return the example with its optional keys switched on."""
    return OPTIONAL_LINE.sub("", EXAMPLE.read_text("utf-8"))


@pytest.fixture
def example_dir(tmp_path: Path, pki: Callable[..., PKI]) -> Path:
    """Make a directory with every file that the example names."""
    ca = pki()
    assert ca.signer is not None
    files = {
        "ca.pem": ca.certificate_path,
        "ca-2025.pem": ca.certificate_path,
        "redis-ca.pem": ca.certificate_path,
        "ocsp.pem": ca.signer.certificate_path,
        "ocsp-2025.pem": ca.signer.certificate_path,
        "ocsp.key": ca.signer.key_path,
        "ocsp-2027.pem": ca.signer.certificate_path,
        "ocsp-2027.key": ca.signer.key_path,
        "ca.key": ca.key_path,
        "crl-signer.pem": ca.certificate_path,
        "last-of-the-ca.crl": ca.certificate_path,
    }
    for name, source in files.items():
        (tmp_path / name).write_bytes(source.read_bytes())
    for name in ("redis", "serve", "follow", "presign", "publish"):
        (tmp_path / f"{name}.password").write_text("secret\n")
    for name in ("ocsp.pin", "ocsp-2027.pin", "token.pin", "ca.pin"):
        (tmp_path / name).write_text("1234\n")
    for name in ("index.txt", "index-2025.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize("every_key", [False, True], ids=["as-it-stands", "every-key"])
def test_the_example_loads(every_key: bool, example_dir: Path) -> None:
    """The whole example is valid, as it stands and with every optional key; the loaders take their keys."""
    file = example_dir / "revocast.toml"
    file.write_text(with_every_key() if every_key else EXAMPLE.read_text("utf-8"), "utf-8")
    config = load_config(file)
    assert [ca.name for ca in config.ca] == ["corp", "corp-2025"]
    assert (config.redis is not None) is every_key
    loaders = generate.loader_options()
    for ca in config.ca:
        loaders[ca.source.type].model_validate(ca.source.options, context={"base": example_dir})


def walk(model: type[BaseModel], raw: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, the field, the value in the file or None) for every key of a model."""
    for name, field in model.model_fields.items():
        kind = generate.kind_of(field.annotation, field.metadata)
        dotted = f"{path}{name}"
        value = raw.get(field.alias or name)
        yield dotted, field, value
        if kind.model is not None:
            inner = merged(value) if kind.is_list and value else value
            yield from walk(kind.model, inner or {}, f"{dotted}.")


def merged(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Put tables together, the first one's values before the others': what excludes each other stands in two CAs."""
    found: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            if isinstance(value, dict) and isinstance(found.get(key, {}), dict):
                found[key] = merged([found.get(key, {}), value])
            else:
                found.setdefault(key, value)
    return found


def test_the_example_shows_every_key_and_the_right_defaults() -> None:
    """No key is missing; where an optional key has a default, the example shows that and nothing else."""
    every = {key: (field, value) for key, field, value in walk(Config, tomllib.loads(with_every_key()))}
    shown = {key: value for key, _, value in walk(Config, tomllib.loads(EXAMPLE.read_text("utf-8")))}
    # The roles' tables have the keys of [redis]; showing one of the two ways to a password is enough there.
    missing = {key for key, (_, value) in every.items() if value is None and not key.startswith("redis.roles.")}
    assert missing == set()
    compared = 0
    for key, (field, value) in every.items():
        if shown[key] is not None or field.is_required():
            continue
        kind = generate.kind_of(field.annotation, field.metadata)
        default = generate.default_text(field, kind)
        if default and kind.model is None:
            text = json.dumps(value)  # of strings, numbers and booleans TOML's spelling too
            assert f"`{text}`" == default, key
            compared += 1
    assert compared > 20


def test_every_key_stands_in_the_document() -> None:
    """Each key, with its description, is in docs/configuration.md; so are the loaders' own keys."""
    text = (generate.ROOT / "docs" / "configuration.md").read_text("utf-8")
    models = [table.model for table in generate.tables(Config)] + list(generate.loader_options().values())
    assert SourceConfig in models
    for model in models:
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` |" in text
            assert field.description in text


# --- records of decisions, and links ---


def test_records_are_numbered_once_and_named_by_their_numbers() -> None:
    """Two branches may each write the next one; whoever mentions one must find it."""
    records = sorted((generate.ROOT / "docs" / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for number, record in enumerate(records, 1):
        assert record.read_text("utf-8").startswith(f"# {number}. ")
    folders = ("docs", "responder", "fastpath", "loaders", "tests", "bench")
    files = [file for folder in folders for file in (generate.ROOT / folder).rglob("*") if file.suffix in SOURCES]
    mentioned = {int(found[1]) for file in files for found in RECORD.finditer(file.read_text("utf-8"))}
    assert mentioned <= set(range(1, len(records) + 1))
    assert len(mentioned) > 5


def test_links_between_documents_lead_somewhere() -> None:
    """Each relative link in README.md and docs/ names a file."""
    documents = [generate.ROOT / "README.md", *(generate.ROOT / "docs").rglob("*.md")]
    links = [(document, link) for document in documents for link in LINK.findall(document.read_text("utf-8"))]
    assert len(links) > 50
    assert [f"{document.name}: {link}" for document, link in links if not (document.parent / link).exists()] == []


# --- the generator itself ---

MODULE = '''
"""A test module."""
import pytest
pytestmark = pytest.mark.clause("RFC 1", "2.10", "MAY")

@pytest.mark.clause("RFC 6960", "4.2.10", "MUST")
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.clause("BR", "7.3", "SHOULD"))])
def test_one(x):
    """RSP-01, TIM-03: the first line | with a bar.

    Not this one.
    """

@pytest.mark.clause("RFC 6960", "4.2.9", "MUST NOT")
class TestGroup:
    async def test_two(self):
        """No rule's name here: RFC 6960 says so."""

    def helper(self):
        pass

def helper():
    pass
'''


def test_clauses_are_collected_from_tests_classes_and_modules(tmp_path: Path) -> None:
    """Markers count wherever pytest takes them from; clauses sort as numbers."""
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_some.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text(MODULE)
    found = generate.collect_clauses(tmp_path)
    assert [(row.document, row.clause, row.level, row.test) for row in found] == [
        ("BR", "7.3", "SHOULD", "test_one"),
        ("RFC 1", "2.10", "MAY", "test_one"),
        ("RFC 1", "2.10", "MAY", "test_two"),
        ("RFC 6960", "4.2.9", "MUST NOT", "test_two"),
        ("RFC 6960", "4.2.10", "MUST", "test_one"),
    ]
    assert {row.file for row in found} == {"unit/test_some.py"}
    by_test = {row.test: (row.ids, row.requirement) for row in found}
    assert by_test == {
        "test_one": ("RSP-01, TIM-03", "The first line | with a bar."),
        "test_two": ("", "No rule's name here: RFC 6960 says so."),
    }


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('@pytest.mark.clause("RFC 1", "2")\ndef test_a():\n    """A."""', "three plain texts"),
        ('@pytest.mark.clause("RFC 1", SECTION, "MUST")\ndef test_a():\n    """A."""', "three plain texts"),
        ('@pytest.mark.clause("RFC 1", "2", "must")\ndef test_a():\n    """A."""', "is no level"),
        ('@pytest.mark.clause("RFC6960", "2", "MUST")\ndef test_a():\n    """A."""', "spell it"),
        ('@pytest.mark.clause("RFC 1", "2", "MUST")\ndef test_a():\n    pass', "needs a docstring"),
    ],
)
def test_markers_that_cannot_be_shown_are_errors(source: str, problem: str, tmp_path: Path) -> None:
    """A marker that the table could not show is never dropped in silence."""
    (tmp_path / "test_some.py").write_text("import pytest\n" + source)
    with pytest.raises(generate.GenerateError, match=problem):
        generate.collect_clauses(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("reason = ", "raeson = ", 1), "raeson"),
        (lambda text: text.replace('level = "MUST"', 'level = "must"', 1), "is no level"),
        (lambda text: text.replace("0005-refuse", "9999-refuse", 1), "no such file"),
    ],
)
def test_deviations_that_cannot_be_shown_are_errors(change: Callable[[str], str], problem: str, tmp_path: Path) -> None:
    """A deviation has every field, a known level, and a decision record that exists."""
    source = generate.ROOT / "docs" / "conformance-exceptions.toml"
    (tmp_path / "adr").mkdir()
    for record in (source.parent / "adr").iterdir():
        (tmp_path / "adr" / record.name).touch()
    file = tmp_path / source.name
    text = source.read_text("utf-8")
    file.write_text(text, "utf-8")
    assert generate.load_deviations(file)
    file.write_text(change(text), "utf-8")
    with pytest.raises(generate.GenerateError, match=problem):
        generate.load_deviations(file)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1, "1s"), (60, "1m"), (90, "90s"), (3600, "1h"), (86_400, "1d"), (5400, "90m")],
)
def test_durations_are_spelled_as_the_file_takes_them(seconds: int, text: str) -> None:
    """The largest unit that fits without a rest."""
    assert generate.duration_text(seconds) == text
