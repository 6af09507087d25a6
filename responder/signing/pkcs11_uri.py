"""RFC 7512: which key in which token, spelled as a ``pkcs11:`` URI. Parses only; opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

PATH_ATTRIBUTES = ("token", "serial", "manufacturer", "model", "slot-id", "object", "id", "type")
QUERY_ATTRIBUTES = ("module-path", "module-name", "pin-source")

# Where module-name is looked for: RFC 7512 §2.4 leaves it to us. Debian, Fedora, and what vendors' installers use.
MODULE_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib64/softhsm",
    "/usr/lib/x86_64-linux-gnu/softhsm",
    "/usr/lib/aarch64-linux-gnu/softhsm",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)

# RFC 7512 §2.3: what may stand unescaped in a value; "/" and "?" only in the query.
_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class PKCS11URI:
    """A private key in a token. None: the attribute is not given, so anything matches."""

    module_path: str | None = None
    module_name: str | None = None
    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None
    text: str = field(default="", compare=False)  # the URI itself; it holds no PIN

    def module_file(self) -> Path:
        """Find the module's shared library; raises ValueError that says where it was looked for."""
        if self.module_path is not None:
            path = Path(self.module_path)
            if not path.is_file():
                raise ValueError(f"no PKCS#11 module at {path} (module-path)")
            return path
        for directory in MODULE_DIRECTORIES:
            for name in (f"{self.module_name}.so", f"lib{self.module_name}.so"):
                if (path := Path(directory, name)).is_file():
                    return path
        raise ValueError(
            f"no PKCS#11 module {self.module_name}.so or lib{self.module_name}.so (module-name) in {', '.join(MODULE_DIRECTORIES)}; use module-path"
        )

    def describe_token(self) -> str:
        """Say which token is meant, for an error's text."""
        return _spell(
            "token",
            ("token", self.token),
            ("serial", self.serial),
            ("manufacturer", self.manufacturer),
            ("model", self.model),
            ("slot-id", self.slot_id),
        )

    def describe_key(self) -> str:
        """Say which key is meant, for an error's text."""
        return _spell("private key", ("object", self.object), ("id", None if self.id is None else self.id.hex()))


def parse_pkcs11_uri(text: str) -> PKCS11URI:
    """Parse a URI; raises ValueError, one line, for anything that is not understood: nothing is ignored."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "pkcs11":
        raise ValueError("a key in a token is a URI that starts with pkcs11: (RFC 7512)")
    path, _, query = rest.partition("?")
    found = _attributes(path, ";", PATH_ATTRIBUTES, _PATH_VALUE)
    found |= _attributes(query, "&", QUERY_ATTRIBUTES, _QUERY_VALUE)
    text_of = {name: value.decode("utf-8", "strict") for name, value in found.items() if name != "id"}
    if text_of.pop("type", "private") != "private":
        raise ValueError("type must be private: it is the private key that signs")
    if ("module-path" in text_of) == ("module-name" in text_of):
        raise ValueError("the URI must name the token's library by one of module-path and module-name")
    if "/" in text_of.get("module-name", ""):
        raise ValueError("module-name is a name, not a path; use module-path")
    if not {"token", "serial", "slot-id"} & text_of.keys():
        raise ValueError("the URI must say which token: by token (its label), serial or slot-id")
    if "object" not in text_of and "id" not in found:
        raise ValueError("the URI must say which key: by object (its label), id or both")
    if not re.fullmatch(r"\d{1,19}", text_of.get("slot-id", "0")):
        raise ValueError(f"slot-id must be a decimal number, not {text_of['slot-id']!r}")
    return PKCS11URI(
        module_path=text_of.get("module-path"),
        module_name=text_of.get("module-name"),
        token=text_of.get("token"),
        serial=text_of.get("serial"),
        manufacturer=text_of.get("manufacturer"),
        model=text_of.get("model"),
        slot_id=int(text_of["slot-id"]) if "slot-id" in text_of else None,
        object=text_of.get("object"),
        id=found.get("id"),
        pin_source=_pin_source(text_of.get("pin-source")),
        text=text,
    )


def _attributes(text: str, separator: str, allowed: tuple[str, ...], form: re.Pattern[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            # RFC 7512 §8: a PIN in a URI ends up in logs and listings.
            raise ValueError(
                "pin-value is refused: a PIN does not belong in the configuration; use pin_file or pin_env"
            )
        if not equals or name not in allowed:
            where = "path" if separator == ";" else "query"
            raise ValueError(f"unknown attribute {name!r} in the URI's {where}; allowed there: {', '.join(allowed)}")
        if name in found:
            raise ValueError(f"the attribute {name} stands twice in the URI")
        if not form.fullmatch(value):
            raise ValueError(f"the value of {name} has a character that must be %-encoded: {value!r}")
        found[name] = unquote_to_bytes(value)
    return found


def _pin_source(value: str | None) -> Path | None:
    if value is None:
        return None
    # RFC 7512 §2.4 also allows "|command", which we refuse: the configuration does not run programs.
    path = Path(value.removeprefix("file://").removeprefix("file:"))
    if value.startswith("|") or not path.is_absolute():
        raise ValueError(f"pin-source must be file:/absolute/path, not {value!r}")
    return path


def _spell(what: str, *parts: tuple[str, object]) -> str:
    return " ".join([what, *(f"{name}={value!r}" for name, value in parts if value is not None)])
