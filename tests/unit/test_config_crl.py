"""The [ca.crl] table: its short form, what fits together, and what each profile's standards bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from responder.config import Config, load_config
from responder.config_crl import delta_slot
from responder.errors import ConfigError

SHORT = 'issue = true, key = "ca.key", validity = "7d", every = "12h", delta_every = "1h", shards = 1, url = "http://crl.example.test/crl/corp.crl"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca.pem", "ocsp.key", "ca.key", "crl.pem", "last.crl"):
        (tmp_path / name).write_text("x")
    return tmp_path


def load(folder: Path, crl: str, profile: str = "private") -> Config:
    path = folder / "revocast.toml"
    path.write_text(
        f"""
[[ca]]
name = "corp"
profile = "{profile}"
certificate = "ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ key = "ocsp.key" }}
crl = {{ {crl} }}
"""
    )
    return load_config(path)


def test_the_short_form(folder: Path) -> None:
    """It works as it stands, and everything else has a default."""
    crl = load(folder, SHORT).ca[0].crl
    assert crl is not None
    assert (crl.validity, crl.every, crl.delta_every, crl.debounce) == (7 * 86400, 43200, 3600, 10)
    assert crl.complete_slots == ("full",)
    assert delta_slot("full") == "delta"
    assert crl.url_of("full") == "http://crl.example.test/crl/corp.crl"
    assert crl.url_of("delta") == "http://crl.example.test/crl/corp-delta.crl"
    signer = crl.signer
    assert (signer.table, signer.key, signer.certificate) == ("crl", str(folder / "ca.key"), None)


def test_shards(folder: Path) -> None:
    """Each shard has its URL, and its deltas theirs."""
    crl = load(
        folder,
        'issue = true, key = "ca.key", shards = 3, delta_every = "1h", url = "http://x.test/crl/corp/{shard}.crl"',
    )
    assert (found := crl.ca[0].crl) is not None
    assert found.complete_slots == ("0", "1", "2")
    assert found.url_of("2") == "http://x.test/crl/corp/2.crl"
    assert found.url_of(delta_slot("2")) == "http://x.test/crl/corp/2-delta.crl"


def test_a_mirror(folder: Path) -> None:
    """A path is relative to the file and need not be there; it is looked for often unless said otherwise."""
    crl = load(folder, 'mirror = "there/corp.crl", mirror_delta = "http://x.test/delta.crl"').ca[0].crl
    assert crl is not None
    assert crl.mirror == str(folder / "there/corp.crl")
    assert crl.mirror_delta == "http://x.test/delta.crl"
    assert crl.every == 900
    crl = load(folder, 'mirror = "file:///var/ca/corp.crl", every = "1m"'.replace("file://", "file:")).ca[0].crl
    assert crl is not None
    assert (crl.mirror, crl.every) == ("/var/ca/corp.crl", 60)


@pytest.mark.parametrize(
    ("crl", "words"),
    [
        ('key = "ca.key"', ["ca[0].crl", "either issue = true", "or mirror"]),
        (SHORT + ', mirror = "x.crl"', ["ca[0].crl", "not both"]),
        ("issue = true", ["ca[0].crl", "key is required"]),
        (SHORT.replace("ca.key", "no.key"), ["ca[0].crl.key", "no such file"]),
        (SHORT.replace('"12h"', '"7d"'), ["ca[0].crl", "every must be less than validity", "604800"]),
        (SHORT.replace('"1h"', '"12h"'), ["ca[0].crl", "delta_every must be less than every", "43200"]),
        (SHORT.replace('"7d"', '"7"'), ["ca[0].crl.validity", '"4d", "12h"', "'7'"]),
        (SHORT.replace("shards = 1", "shards = 0"), ["ca[0].crl.shards", "greater than or equal to 1"]),
        (SHORT.replace("shards = 1", "shards = 2"), ["ca[0].crl", "url must hold {shard}"]),
        (SHORT.replace("corp.crl", "{shard}.crl"), ["ca[0].crl", "only there"]),
        (SHORT.replace("http://", "ftp://"), ["ca[0].crl", "url must be a URL", "http://", "ftp://"]),
        (SHORT.replace("corp.crl", "a b.crl"), ["ca[0].crl", "url must be a URL"]),
        (SHORT.replace("corp.crl", "corp"), ["ca[0].crl", "delta_url is required"]),
        ('issue = true, key = "ca.key", shards = 2', ["ca[0].crl", "url is required with shards"]),
        ('issue = true, key = "ca.key", scope = "cas"', ["ca[0].crl", "url is required with scope"]),
        ('issue = true, key = "ca.key", delta_every = "1h"', ["ca[0].crl", "url or delta_url"]),
        (SHORT + ', previous = "gone.crl"', ["ca[0].crl.previous", "no such file"]),
        ('mirror = "ftp://x/y.crl"', ["ca[0].crl.mirror", "http://, https:// or ldap://"]),
        (SHORT + ', expires = "drop"', ["ca[0].crl.expires", "Extra inputs"]),
        (SHORT + ', debounce = "2h"', ["ca[0].crl.debounce", "3600"]),
    ],
)
def test_each_mistake_is_one_line(folder: Path, crl: str, words: list[str]) -> None:
    """An error names the key, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load(folder, crl)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


WITH_URL = 'issue = true, key = "ca.key", url = "http://x.test/a.crl"'


@pytest.mark.parametrize(
    ("profile", "crl", "words"),
    [
        ("webpki", ', validity = "864001s"', ["crl.validity", "at most 10d", "BR §7.2", "864001"]),
        ("webpki", ', validity = "366d", scope = "cas"', ["crl.validity", "at most 365d"]),
        (
            "webpki",
            ', validity = "10d", every = "97h"',
            ["crl.every", "at most 4d", "certificates_name_ocsp", "§4.9.7"],
        ),
        (
            "webpki",
            ', validity = "10d", every = "8d", certificates_name_ocsp = true',
            ["crl.every", "at most 7d", "§4.9.7"],
        ),
        ("webpki", ', certificate = "crl.pem"', ["crl.certificate", "§7.2.2.1"]),
        ("webpki", ', expired = "keep"', ["crl.expired", '"drop"', "BR §7.2"]),
        ("webpki", ', delta_url = "https://x.test/d.crl"', ["crl.delta_url", "http://", "BR §7.1.2.11.2"]),
        ("webpki", ', every = "25h", on_revocation = false', ["crl.every", "24h", "on_revocation", "§4.9.7"]),
        ("webpki", ', every = "25h", delta_every = "1h"', ["crl.every", "24h", "delta_every", "§4.9.7"]),
        ("webpki", ', validity = "365d", every = "25h", scope = "cas", on_revocation = false', ["crl.every", "24h"]),
        ("etsi", ', every = "25h", scope = "cas", on_revocation = false', ["crl.every", "24h", "on_revocation"]),
        ("etsi", ', every = "25h"', ["crl.every", "at most 1d", "CSS-6.3.9-05"]),
        ("etsi", ', every = "3d", delta_every = "25h"', ["crl.delta_every", "at most 1d"]),
        ("etsi", ', scope = "cas", validity = "366d"', ["crl.validity", "at most 365d", "CSS-6.3.9-12"]),
        ("private", ', validity = "367d"', ["crl.validity", "at most 366d"]),
    ],
)
@pytest.mark.clause("BR", "4.9.7", "MUST")
@pytest.mark.clause("BR", "7.2", "MUST")
def test_what_a_profile_forbids(folder: Path, profile: str, crl: str, words: list[str]) -> None:
    """BR-07, BR-08, IDP-04, ETS-01 and ETS-03: refused with the clause."""
    with pytest.raises(ConfigError) as caught:
        load(folder, WITH_URL + crl, profile)
    for word in ("ca[0]", f"profile {profile}", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("profile", "crl"),
    [
        ("webpki", ', validity = "10d", every = "4d"'),
        ("webpki", ', validity = "10d", every = "7d", certificates_name_ocsp = true'),
        ("webpki", ', validity = "365d", every = "300d", scope = "cas"'),
        ("etsi", ', every = "1d", expired = "keep", certificate = "crl.pem"'),
        ("webpki", ', every = "24h", on_revocation = false, delta_every = "1h"'),
        ("etsi", ', every = "3d", delta_every = "24h"'),
        ("etsi", ', every = "3d", delta_every = "24h", on_revocation = false'),
        ("etsi", ', every = "3d", delta_every = "25h", scope = "cas"'),
    ],
)
def test_what_a_profile_allows(folder: Path, profile: str, crl: str) -> None:
    """The bounds themselves are allowed."""
    assert load(folder, WITH_URL + crl, profile).ca[0].crl is not None


def test_a_mirrored_crl_is_not_bounded(folder: Path) -> None:
    """How often another issues is not for us to say."""
    assert load(folder, 'mirror = "x.crl", every = "30d"', "webpki").ca[0].crl is not None
