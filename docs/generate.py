"""Write the documents that are made from the code: docs/conformance.md and docs/configuration.md.

``python docs/generate.py`` writes them, ``--check`` writes nothing and exits 1 where one is stale (tests/meta/
test_docs.py runs it). Conformance is read from the ``clause`` markers of the tests, without running them, and from
docs/conformance-exceptions.toml; configuration from the models of responder/config.py and of each loader that
pyproject.toml names, and from docs/revocast.toml, the example.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by docs/generate.py (make docs); edit its sources instead. -->\n"


class GenerateError(Exception):
    """A source that cannot be made into a document; one line for whoever wrote it."""


# --- conformance ---

LEVELS = (
    "MUST",
    "MUST NOT",
    "SHALL",
    "SHALL NOT",
    "REQUIRED",
    "SHOULD",
    "SHOULD NOT",
    "RECOMMENDED",
    "MAY",
    "OPTIONAL",
)
TITLES = {
    "RFC 2585": "Operational protocols: FTP and HTTP",
    "RFC 3986": "Uniform resource identifiers",
    "RFC 4055": "RSA in certificates and CRLs",
    "RFC 4387": "Certificate stores over HTTP",
    "RFC 5280": "Certificate and CRL profile",
    "RFC 5754": "SHA-2 with CMS",
    "RFC 5758": "DSA and ECDSA in certificates and CRLs",
    "RFC 6960": "Online Certificate Status Protocol",
    "RFC 6962": "Certificate Transparency",
    "RFC 7512": "The PKCS #11 URI scheme",
    "RFC 8410": "Ed25519 and others in certificates",
    "RFC 9110": "HTTP semantics",
    "RFC 9111": "HTTP caching",
    "RFC 9112": "HTTP/1.1",
    "RFC 9654": "OCSP nonce extension",
    "RFC 9881": "ML-DSA in certificates",
    "RFC 9919": "Lightweight OCSP profile",
    "BR": "CA/Browser Forum TLS Baseline Requirements",
    "EN 319 411-1": "Policy and security requirements for trust service providers issuing certificates",
    "EN 319 411-2": "The same for EU qualified certificates",
    "Mozilla": "Mozilla Root Store Policy",
    "Microsoft": "Microsoft Trusted Root Program",
    "X.690": "DER",
}
_ROW_IDS = re.compile(r"^((?:[A-Z]{2,3}-\d+(?:, | and )?)+): ")


@dataclass(frozen=True, order=True)
class Shown:
    """A clause that a test shows."""

    document: str
    clause_key: tuple[tuple[int, str], ...]
    level: str
    file: str
    test: str
    clause: str
    ids: str
    requirement: str


def clause_key(clause: str) -> tuple[tuple[int, str], ...]:
    """Make clauses sort as a table of contents does: 4.2.9 before 4.2.10, appendices last."""
    parts = re.findall(r"\d+|[A-Za-z]+", clause)
    return tuple((int(part), "") if part.isdigit() else (1_000_000, part) for part in parts)


def _marks(node: ast.AST, where: str) -> Iterator[tuple[str, str, str]]:
    """Yield the arguments of each ``pytest.mark.clause`` under a node, also within ``pytest.param(marks=…)``."""
    for call in ast.walk(node):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith("mark.clause")):
            continue
        values = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if len(values) != 3 or call.keywords or not all(isinstance(value, str) for value in values):
            raise GenerateError(f"{where}: clause() takes three plain texts: document, section, level")
        document, clause, level = values
        if level not in LEVELS:
            raise GenerateError(f"{where}: {level!r} is no level: {', '.join(LEVELS)}")
        if re.match(r"(?i)rfc", document) and not re.fullmatch(r"RFC \d+", document):
            raise GenerateError(f"{where}: document {document!r}: spell it as in RFC 6960")
        yield document, clause.removeprefix("§"), level


def _sentence(text: str) -> str:
    """Begin with a capital, unless the first word is a name such as extnValue."""
    return text[0].upper() + text[1:] if text.split()[0].isalpha() and text.split()[0].islower() else text


def collect_clauses(tests: Path) -> list[Shown]:
    """Read every test file's markers: of the test itself, of its class and of its module."""
    found: set[Shown] = set()
    for file in sorted(tests.rglob("test_*.py")):
        name = file.relative_to(tests).as_posix()
        tree = ast.parse(file.read_text("utf-8"), str(file))
        module_marks = [
            mark
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for mark in _marks(node.value, name)
        ]

        def visit(body: list[ast.stmt], marks: list[tuple[str, str, str]], file_name: str) -> None:
            for node in body:
                if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                where = f"{file_name}::{node.name}"
                own = marks + [mark for decorator in node.decorator_list for mark in _marks(decorator, where)]
                if isinstance(node, ast.ClassDef):
                    visit(node.body, own, file_name)
                elif node.name.startswith("test"):
                    for document, clause, level in own:
                        line = (ast.get_docstring(node) or "").partition("\n")[0]
                        if not line:
                            raise GenerateError(f"{where}: a test that shows a clause needs a docstring")
                        ids = _ROW_IDS.match(line)
                        found.add(
                            Shown(
                                document=document,
                                clause_key=clause_key(clause),
                                level=level,
                                file=file_name,
                                test=node.name,
                                clause=clause,
                                ids=ids[1] if ids else "",
                                requirement=_sentence(line[ids.end() :] if ids else line),
                            )
                        )

        visit(tree.body, module_marks, name)
    return sorted(found)


@dataclass(frozen=True)
class Deviation:
    """A requirement that is deliberately not met, or met otherwise than its text suggests."""

    document: str
    clause: str
    level: str
    requirement: str
    instead: str
    reason: str
    adr: str = ""


def load_deviations(file: Path) -> list[Deviation]:
    """Read docs/conformance-exceptions.toml; unknown keys, missing ones and links to no ADR are errors."""
    deviations = []
    for number, entry in enumerate(tomllib.loads(file.read_text("utf-8")).get("exception", []), 1):
        where = f"{file.name}: exception {number}"
        try:
            deviation = Deviation(**entry)
        except TypeError as error:
            raise GenerateError(f"{where}: {error}") from error
        if deviation.level not in (*LEVELS, ""):
            raise GenerateError(f"{where}: {deviation.level!r} is no level")
        if deviation.adr and not (file.parent / "adr" / deviation.adr).is_file():
            raise GenerateError(f"{where}: no such file: adr/{deviation.adr}")
        deviations.append(deviation)
    return sorted(deviations, key=lambda one: (one.document, clause_key(one.clause)))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
        "",
    ]


def conformance(root: Path = ROOT) -> str:
    """Write the text of docs/conformance.md."""
    shown = collect_clauses(root / "tests")
    lines = [
        "# Conformance",
        "",
        NOTE,
        "Which clauses of the standards Revocast is tested against, and where it deliberately does otherwise. Every test below runs",
        "in `make test`. A name such as RSP-04 before the colon of a test's docstring names the rule within this project.",
        "",
        f"{len({(row.document, row.clause) for row in shown})} clauses of {len({row.document for row in shown})} documents are shown by {len({(row.file, row.test) for row in shown})} tests.",
        "",
        "## Deliberately otherwise",
        "",
        *_table(
            ("document", "clause", "level", "what it asks", "what Revocast does", "why"),
            [
                (
                    one.document,
                    f"§{one.clause}",
                    one.level or "–",
                    one.requirement,
                    one.instead,
                    one.reason + (f" [ADR {one.adr[:4]}](adr/{one.adr})" if one.adr else ""),
                )
                for one in load_deviations(root / "docs" / "conformance-exceptions.toml")
            ],
        ),
    ]
    for document in sorted({row.document for row in shown}, key=lambda name: (name not in TITLES, name)):
        title = f"{document}: {TITLES[document]}" if document in TITLES else document
        rows = [
            (
                f"§{row.clause}",
                row.level,
                row.requirement,
                row.ids,
                f"[{row.file}](../tests/{row.file}) `{row.test}`",
            )
            for row in shown
            if row.document == document
        ]
        lines += [f"## {title}", "", *_table(("clause", "level", "requirement", "rule", "test"), rows)]
    return "\n".join(lines).rstrip() + "\n"


# --- configuration ---


def duration_text(seconds: int) -> str:
    """Spell seconds as the configuration does, in the largest unit that fits: 345600 is ``4d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


@dataclass
class Kind:
    """What may stand behind a key, worked out of an annotation."""

    name: str = ""
    model: type[BaseModel] | None = None
    is_list: bool = False
    limits: str = ""


_BY_VALIDATOR = {
    "parse_duration": "duration",
    "parse_listen": "address",
    "parse_start": "time",
    "key_reference": "file, or pkcs11: URI",
    "mirror_reference": "path or URL",
    "place_reference": "path or URL",
    "url_reference": "URL",
    "previous_reference": "file or URL",
}
_PATH_VALIDATORS = {"existing", "relative_to_file"}
_PLAIN = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}


def _limits(metadata: list[Any], name: str) -> str:
    """Say the bounds of a value: of a number its range, of a text its length and pattern, of a list its length."""
    bounds = {
        key: value
        for item in metadata
        for key in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if (value := getattr(item, key, None)) is not None
    }
    spell = duration_text if name == "duration" else str
    low, high = bounds.pop("ge", None), bounds.pop("le", None)
    shortest, longest = bounds.pop("min_length", None), bounds.pop("max_length", None)
    pattern = bounds.pop("pattern", None)
    if bounds:
        raise GenerateError(f"docs/generate.py knows no words for the bounds {bounds}")
    said = []
    for least, most, what in (
        (low, high, ""),
        (shortest, longest, " characters" if name == "text" else ""),
    ):
        if least is not None and most is not None:
            said.append(f"{spell(least)} to {spell(most)}{what}")
        elif least is not None:
            said.append(f"at least {spell(least)}{what}")
        elif most is not None:
            said.append(f"at most {spell(most)}{what}")
    if pattern:
        said.append(f"`{pattern}`")
    return ", ".join(said)


def kind_of(annotation: Any, metadata: list[Any]) -> Kind:
    """Work out what may stand behind a key; raises GenerateError rather than guess."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        return kind_of(annotation, [*more, *metadata])
    if get_origin(annotation) is list:
        (inner,) = get_args(annotation)
        kind = kind_of(inner, [])
        plural = {"address": "addresses", "table": "tables"}.get(kind.name, f"{kind.name}s")
        return Kind(f"list of {plural}", kind.model, True, _limits(metadata, "list"))
    if get_origin(annotation) is Literal:
        return Kind(" or ".join(f'`"{value}"`' for value in get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Kind("table", annotation)
    functions = [item.func.__name__ for item in metadata if hasattr(item, "func")]
    if unknown := set(functions) - _BY_VALIDATOR.keys() - _PATH_VALIDATORS:
        raise GenerateError(f"docs/generate.py knows no words for values checked by {sorted(unknown)}")
    names = [_BY_VALIDATOR[function] for function in functions if function in _BY_VALIDATOR]
    name = names[0] if names else "file" if "existing" in functions else _PLAIN[annotation]
    return Kind(name, limits=_limits(metadata, name))


def default_text(field: FieldInfo, kind: Kind) -> str:
    """Say what holds where a key is absent."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default is PydanticUndefined or isinstance(default, BaseModel):
        return ""

    def spell(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(spell, value)) + "]"
        if isinstance(value, tuple):
            host, port = value
            return f'"[{host}]:{port}"' if ":" in host else f'"{host}:{port}"'
        if isinstance(value, bool):
            return str(value).lower()
        if kind.name == "duration":
            return f'"{duration_text(value)}"'
        return f'"{value}"' if isinstance(value, str | Path) else str(value)

    return f"`{spell(default)}`"


@dataclass
class Table:
    """One table of the file, or several of the same shape."""

    names: list[str]
    model: type[BaseModel]


def tables(model: type[BaseModel], path: str = "") -> Iterator[Table]:
    """Yield a model's own table and then, depth first, those within it; siblings of one model together."""
    yield Table([path], model)
    inner: list[Table] = []
    for name, field in model.model_fields.items():
        kind = kind_of(field.annotation, field.metadata)
        if kind.model is None:
            continue
        dotted = f"{path.strip('[]')}.{name}".lstrip(".")
        table_name = f"[[{dotted}]]" if kind.is_list else f"[{dotted}]"
        same = next((table for table in inner if table.model is kind.model), None)
        if same:
            same.names.append(table_name)
        else:
            inner.append(Table([table_name], kind.model))
    for table in inner:
        first, *rest = tables(table.model, table.names[0])
        yield Table(table.names, first.model)
        yield from rest


def _keys(model: type[BaseModel]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        kind = kind_of(field.annotation, field.metadata)
        what = kind.name + (f", {kind.limits}" if kind.limits else "")
        rows.append((f"`{field.alias or name}`", what, default_text(field, kind), field.description or ""))
        if not field.description:
            raise GenerateError(f"{model.__name__}.{name} has no description")
    return _table(("key", "value", "default", "meaning"), rows)


def loader_options(root: Path = ROOT) -> dict[str, type[BaseModel]]:
    """Find the options of each loader that pyproject.toml names; those that others install are theirs to describe."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    found = {}
    for name, reference in sorted(project["entry-points"]["revocast.loaders"].items()):
        module, _, attribute = reference.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute).Options
    return found


def configuration(root: Path = ROOT) -> str:
    """Write the text of docs/configuration.md."""
    from responder.config import Config, SourceConfig

    lines = [
        "# Configuration",
        "",
        NOTE,
        "One TOML file. Unknown keys, wrong types and missing files are errors of one line that name the file, the key, the value",
        'and what is allowed (exit code 2). Paths are relative to the file. A *duration* is a number and a unit: `"10s"`, `"30m"`,',
        '`"12h"`, `"4d"`. An *address* is `"HOST:PORT"` or `"[IPV6]:PORT"`; port 0 takes a free one. A *file* must exist, a *path* need',
        "not. `revocast check -c FILE` looks at everything that the file names.",
        "",
        "## A whole file",
        "",
        "Every key but some of the loaders' own. Lines that begin with `#` and a key show an optional key: with its default, or with",
        "an example where it has none.",
        "",
        "```toml",
        (root / "docs" / "revocast.toml").read_text("utf-8").rstrip(),
        "```",
        "",
    ]
    for table in tables(Config):
        heading = ", ".join(f"`{name}`" for name in table.names) if table.names[0] else "Top of the file"
        lines += [f"## {heading}", "", " ".join((table.model.__doc__ or "").split()), "", *_keys(table.model)]
        if table.model is SourceConfig:
            for name, options in loader_options(root).items():
                lines += [f'### {table.names[0]} with `type = "{name}"`', "", *_keys(options)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write the documents, or with --check compare them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/conformance.md and docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a document is stale")
    check = parser.parse_args().check
    stale = []
    for name, write in (("conformance.md", conformance), ("configuration.md", configuration)):
        file = ROOT / "docs" / name
        try:
            text = write()
        except GenerateError as error:
            print(error, file=sys.stderr)
            return 1
        if file.is_file() and file.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not check:
            file.write_text(text, "utf-8")
            print(f"wrote docs/{name}")
    if check and stale:
        print(f"stale: {', '.join(f'docs/{name}' for name in stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
