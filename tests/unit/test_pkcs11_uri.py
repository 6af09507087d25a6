"""RFC 7512 URIs: what is read, and that nothing is ignored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from responder.signing.pkcs11_uri import PKCS11URI, parse_pkcs11_uri

MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"


@pytest.mark.clause("RFC 7512", "2.3", "MUST")
def test_every_attribute() -> None:
    """Every attribute that names a token or a key is read, %-decoded."""
    uri = parse_pkcs11_uri(
        "pkcs11:token=The%20Software%20PKCS%2311%20softtoken;serial=4711;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
        f"slot-id=327;object=my-key;id=%69%95%3E%00;type=private?{MODULE}&pin-source=file:/etc/pin"
    )
    assert uri == PKCS11URI(
        module_path="/usr/lib/softhsm/libsofthsm2.so",
        token="The Software PKCS#11 softtoken",
        serial="4711",
        manufacturer="Snake Oil, Inc.",
        model="1.0",
        slot_id=327,
        object="my-key",
        id=b"\x69\x95\x3e\x00",
        pin_source=Path("/etc/pin"),
    )
    assert uri.describe_key() == "private key object='my-key' id='69953e00'"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        (f"pkcs11:token=t;object=o?{MODULE}&pin-value=1234", "pin-value is refused"),
        (f"pkcs11:token=t;object=o;pin-value=1234?{MODULE}", "pin-value is refused"),
        (
            f"pkcs11:token=t;object=o;x-vendor=1?{MODULE}",
            "unknown attribute 'x-vendor' in the URI's path; allowed there: token",
        ),
        (
            f"pkcs11:token=t;object=o?{MODULE}&x=1",
            "unknown attribute 'x' in the URI's query; allowed there: module-path",
        ),
        (f"pkcs11:token=t;object=o;{MODULE}", "unknown attribute 'module-path' in the URI's path"),
        (f"pkcs11:token=t;object=o;?{MODULE}", "unknown attribute ''"),
        (f"pkcs11:token;object=o?{MODULE}", "unknown attribute 'token'"),
        (f"pkcs11:token=t;token=u;object=o?{MODULE}", "the attribute token stands twice"),
        (f"pkcs11:token=a b;object=o?{MODULE}", "must be %-encoded"),
        (f"pkcs11:token=%zz;object=o?{MODULE}", "must be %-encoded"),
        (f"pkcs11:token=t;object=o;type=public?{MODULE}", "type must be private"),
        (f"pkcs11:object=o?{MODULE}", "must say which token"),
        (f"pkcs11:token=t?{MODULE}", "must say which key"),
        (f"pkcs11:slot-id=0x1;object=o?{MODULE}", "slot-id must be a decimal number"),
        ("pkcs11:token=t;object=o", "one of module-path and module-name"),
        (f"pkcs11:token=t;object=o?{MODULE}&module-name=softhsm2", "one of module-path and module-name"),
        ("pkcs11:token=t;object=o?module-name=../evil", "module-name is a name"),
        (f"pkcs11:token=t;object=o?{MODULE}&pin-source=|cat%20/etc/pin", "pin-source must be"),
        (f"pkcs11:token=t;object=o?{MODULE}&pin-source=pin", "pin-source must be"),
        ("pkcs12:token=t", "starts with pkcs11:"),
        (f"pkcs11:token=%FF;object=o?{MODULE}", "codec can't decode"),
    ],
)
def test_refusals(uri: str, problem: str) -> None:
    """What is not understood is refused by one line, and a PIN never shows in it."""
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        parse_pkcs11_uri(uri)
    assert "\n" not in str(caught.value)
    assert "1234" not in str(caught.value)


def test_module_by_name() -> None:
    """module-name is looked for where distributions put modules; the error says where."""
    found = parse_pkcs11_uri("pkcs11:token=t;object=o?module-name=softhsm2").module_file()
    assert found.name == "libsofthsm2.so"
    with pytest.raises(ValueError, match=r"no PKCS#11 module none\.so or libnone\.so .*/usr/lib/pkcs11"):
        parse_pkcs11_uri("pkcs11:token=t;object=o?module-name=none").module_file()
