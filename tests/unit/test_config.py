"""The configuration file: its shape, and one clear line for everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from responder.clock import parse_utc
from responder.config import ACCEPTED_CONFIG_ENV, load_config
from responder.errors import ConfigError

GOOD = """
data_dir = "state"
[http]
listen = ["127.0.0.1:8080", "[::1]:8080"]
workers = 2
[[ca]]
name = "corp"
certificate = "ca.pem"
source = { type = "openssl", path = "index.txt" }
ocsp = { certificate = "ocsp.pem", key = "ocsp.key", validity = "4d" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that GOOD names."""
    for name in ("ca.pem", "ocsp.pem", "ocsp.key"):
        (tmp_path / name).write_text("x")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "revocast.toml"
    path.write_text(text)
    return path


def test_the_shape(folder: Path) -> None:
    """The example of the README; paths are relative to the file, durations are seconds."""
    config = load_config(write(folder, GOOD))
    assert config.data_dir == folder / "state"
    assert config.http.listen == [("127.0.0.1", 8080), ("::1", 8080)]
    assert config.redis is None
    (ca,) = config.ca
    assert ca.certificate == folder / "ca.pem"
    assert ca.ocsp.validity == 4 * 86_400
    assert ca.source.options == {"path": "index.txt"}
    assert ca.ocsp.key == str(folder / "ocsp.key")


def test_a_pkcs11_uri_is_a_key(folder: Path) -> None:
    """RFC 7512: a key may be named by a URI instead of a file."""
    uri = "pkcs11:token=ocsp;object=signer"
    config = load_config(write(folder, GOOD.replace('"ocsp.key"', f'"{uri}"')))
    assert config.ca[0].ocsp.key == uri


def test_the_signer_that_counts_at_a_time(folder: Path) -> None:
    """From ``from`` on the next one, and the other one in its stead; before, that alone."""
    following = 'next = { from = 2026-12-01T01:00:00+01:00, certificate = "ocsp.pem", key = "pkcs11:token=t;object=k" }'
    config = load_config(write(folder, GOOD.replace('validity = "4d"', following)))
    ocsp = config.ca[0].ocsp
    assert ocsp.next is not None
    assert ocsp.next.start == parse_utc("2026-12-01T00:00:00Z")
    assert ocsp.signers_at(ocsp.next.start - 0.001) == (ocsp,)
    assert ocsp.signers_at(ocsp.next.start) == (ocsp.next, ocsp)
    assert (ocsp.table, ocsp.next.table) == ("ocsp", "ocsp.next")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("workers = 2", "worker = 2"), ["http.worker", "Extra inputs are not permitted"]),
        (("workers = 2", 'workers = "two"'), ["http.workers", "'two'", "valid integer"]),
        (("workers = 2", "workers = 0"), ["http.workers", "greater than or equal to 1", "0"]),
        (('validity = "4d"', 'validity = "4"'), ["ca[0].ocsp.validity", "'4'", '"4d", "12h"']),
        (('validity = "4d"', 'next = { key = "ocsp.key" }'), ["ca[0].ocsp.next.from", "required"]),
        (('validity = "4d"', 'next = { key = "ocsp.key", start = 1 }'), ["ca[0].ocsp.next"]),
        (
            ('validity = "4d"', 'next = { key = "ocsp.key", from = 2026-12-01T00:00:00 }'),
            ["ca[0].ocsp.next.from", "with its offset", "2026-12-01T00:00:00Z"],
        ),
        (
            ('validity = "4d"', 'next = { key = "ocsp.key", from = "2026-12-01T00:00:00Z" }'),
            ["ca[0].ocsp.next.from", "without quotes"],
        ),
        (('"ca.pem"', '"nowhere.pem"'), ["ca[0].certificate", "no such file", "nowhere.pem"]),
        (('"ocsp.key"', '"nowhere.key"'), ["ca[0].ocsp.key", "no such file"]),
        (('"[::1]:8080"', '"::1:8080"'), ["http.listen[1]", "HOST:PORT", "'::1:8080'"]),
        (('name = "corp"', 'name = "c orp"'), ["ca[0].name", "'c orp'"]),
        (("[[ca]]", '[redis]\nurl = "http://x"\n[[ca]]'), ["redis", "redis://"]),
        (("[http]", "[http"), ["not TOML"]),
        ((GOOD, ""), ["ca", "required"]),
    ],
)
def test_each_mistake_is_one_line(folder: Path, change: tuple[str, str], words: list[str]) -> None:
    """An error names the file, the key, the value and what is allowed."""
    path = write(folder, GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_names_are_unique(folder: Path) -> None:
    """Two tables of the same name are one mistake."""
    table = GOOD[GOOD.index("[[ca]]") :]
    with pytest.raises(ConfigError, match=r"unique; repeated: corp"):
        load_config(write(folder, GOOD + table))


def test_missing_file(tmp_path: Path) -> None:
    """No file, no traceback."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "nowhere.toml")


def test_a_role_reads_what_its_supervisor_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken edit does not stop a role that only has to start again."""
    path = write(folder, "broken [")
    accepted = folder / "accepted.toml"
    accepted.write_text(GOOD)
    monkeypatch.setenv(ACCEPTED_CONFIG_ENV, str(accepted))
    assert load_config(path).data_dir == folder / "state"


@pytest.mark.parametrize(
    ("profile", "terms", "words"),
    [
        ("webpki", 'validity = "7h"', ["ocsp.validity", "8h or more", "BR §4.9.9", "25200"]),
        ("webpki", 'validity = "7d"', ["ocsp.validity", "less than 7d", "604800"]),
        ("webpki", 'unassigned = "revoked"', ["ocsp.unassigned", "BR §4.9.13", "revoked"]),
        ("webpki", 'archive_cutoff = "issuer"', ["ocsp.archive_cutoff", "issuer"]),
        ("private", 'validity = "59s"', ["ocsp.validity", "1m to 366d"]),
        ("etsi", 'validity = "367d"', ["ocsp.validity", "1m to 366d"]),
    ],
)
@pytest.mark.clause("BR", "4.9.9", "MUST")
def test_what_a_profile_forbids(folder: Path, profile: str, terms: str, words: list[str]) -> None:
    """STS-04, BR-01, RTP-05, TIM-06: a mixture that the standards forbid is a configuration error, one line."""
    text = GOOD.replace('name = "corp"', f'name = "corp"\nprofile = "{profile}"').replace('validity = "4d"', terms)
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text))
    assert "\n" not in str(caught.value)
    for word in ("ca[0]", f"profile {profile}", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("profile", "terms"),
    [
        ("webpki", 'validity = "8h"'),
        ("webpki", 'validity = "604799s"'),
        ("etsi", 'archive_cutoff = "issuer"'),
        ("private", 'unassigned = "revoked", validity = "1m"'),
    ],
)
def test_what_a_profile_allows(folder: Path, profile: str, terms: str) -> None:
    """The bounds themselves are allowed."""
    text = GOOD.replace('name = "corp"', f'name = "corp"\nprofile = "{profile}"').replace('validity = "4d"', terms)
    assert load_config(write(folder, text)).ca[0].profile == profile
