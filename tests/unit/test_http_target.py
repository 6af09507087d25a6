"""fastpath.http_target: every spelling of a GET that is taken, and everything else refused."""

from __future__ import annotations

import base64
import random
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.http_target import MAX_TARGET_OCTETS, TargetError, decode_target
from fastpath.ocsp_request import parse_ocsp_request
from tests.reference import http_target
from tests.reference import request_builder as build
from tests.reference.outcome import check_http_target

# The query of STANDARDS HTR-03: a serial whose base64 holds two slashes in a row.
BOULDER = (
    b"MFQwUjBQME4wTDAJBgUrDgMCGgUABBQ55F6w46hhx%2Fo6OXOHa%2BYfe32YhgQU%2B3hPEvlgFYMsnxd%2F"
    b"NBmzLjbqQYkCEwD6Wh0MaVKu9gJ3By9DI%2F%2Fxsd4%3D"
)


def refusal(target: bytes) -> tuple[str, int]:
    """Return code and offset of the TargetError that must come."""
    with pytest.raises(TargetError) as caught:
        decode_target(target)
    assert http_target.decode(target) is None
    return caught.value.code, caught.value.offset


def text_of(data: bytes) -> bytes:
    return base64.b64encode(data)


def request_whose_base64_holds(wanted: bytes) -> bytes:
    """Return a request that has ``wanted`` in its base64."""
    rng = random.Random(1)
    while True:
        data = build.request([build.single(build.cert_id(b"\x7f" + b"\xff" * 8 + rng.randbytes(6)))])
        if wanted in text_of(data):
            return data


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text,
        lambda text: urllib.parse.quote_from_bytes(text, safe="").encode(),
        lambda text: text.replace(b"/", b"%2f").replace(b"+", b"%2b").replace(b"=", b"%3d"),
        lambda text: text.replace(b"/", b"%2F"),
        lambda text: text.replace(b"+", b"%2B", 1),
        lambda text: text.replace(b"=", b"%3D", 1),
        lambda text: b"".join(b"%%%02X" % octet for octet in text),
        lambda text: b"".join(b"%%%02x" % octet for octet in text),
    ],
    ids=["raw", "quoted", "lower-case-hex", "slash", "one-plus", "one-equals", "everything", "everything-lower"],
)
@pytest.mark.parametrize("slashes", [b"/", b"//", b"/%2F", b"/%2f"])
@pytest.mark.parametrize("wanted", [b"+", b"//", b"=", b"=="])
def test_every_spelling_is_the_same_request(respell: object, slashes: bytes, wanted: bytes) -> None:
    """HTR-02, HTR-03: raw, encoded in either case, mixed; with the slash of the AIA URL."""
    data = request_whose_base64_holds(wanted)
    target = slashes + respell(text_of(data))  # type: ignore[operator]
    assert decode_target(target) == data == http_target.decode(target)


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
@pytest.mark.parametrize("slashes", [b"/", b"//"])
@pytest.mark.parametrize(
    "text", [BOULDER, urllib.parse.unquote_to_bytes(BOULDER.decode()), BOULDER.replace(b"%2F", b"/")]
)
def test_a_query_that_others_stumbled_on(slashes: bytes, text: bytes) -> None:
    """HTR-03: two slashes in its base64, encoded and raw."""
    (cert_id,) = parse_ocsp_request(decode_target(slashes + text)).cert_ids
    assert cert_id.hash_name == "sha1"
    assert cert_id.serial_octets.hex() == "00fa5a1d0c6952aef60277072f4323fff1b1de"


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
def test_only_one_extra_slash_is_taken_for_one() -> None:
    """HTR-03: base64 of a SEQUENCE begins with M, so whatever slash stands before it is not of it; a third is."""
    text = text_of(build.request())
    assert text.startswith(b"M")
    assert decode_target(b"///" + b"AAA") == b"\xfc\x00\x00"
    assert refusal(b"///" + text)[0] == "padding-invalid"


@pytest.mark.clause("RFC 9919", "6", "MUST")
@pytest.mark.parametrize(
    ("target", "code", "offset"),
    [
        (b"", "not-origin-form", 0),
        (b"*", "not-origin-form", 0),
        (b"MAA=", "not-origin-form", 0),
        (b"http://ocsp.example/MAA=", "not-origin-form", 0),
        (b"\\MAA=", "not-origin-form", 0),
        (b"%2FMAA=", "not-origin-form", 0),
        (b"/", "empty", 1),
        (b"//", "empty", 2),
        (b"/=", "padding-invalid", 1),
        (b"/MAA", "padding-invalid", 4),
        (b"/MA", "padding-invalid", 3),
        (b"/MA=", "padding-invalid", 4),
        (b"/M", "padding-invalid", 2),
        (b"/M=", "padding-invalid", 2),
        (b"/M===", "padding-invalid", 2),
        (b"/MA===", "padding-invalid", 5),
        (b"/MAA==", "padding-invalid", 5),
        (b"/MAAA=", "padding-invalid", 5),
        (b"/MA==MAAA", "padding-invalid", 5),
        (b"/MA=A", "padding-invalid", 4),
        (b"/MAA=/", "padding-invalid", 5),
        (b"/MB==", "trailing-bits", 3),
        (b"/MAB=", "trailing-bits", 4),
        (b"/MAA=?x=1", "query", 5),
        (b"/?MAA=", "query", 1),
        (b"/MAA=#top", "fragment", 5),
        (b"/MAA%3F", "character-invalid", 4),
        (b"/MAA%23", "character-invalid", 4),
        (b"/MA-_", "character-invalid", 3),
        (b"/MA%2D%5F", "character-invalid", 3),
        (b"/MAAA MAAA", "character-invalid", 5),
        (b"/MAAA%20", "character-invalid", 5),
        (b"/MAAA%0A", "character-invalid", 5),
        (b"/MAAA%0D%0AMAAA", "character-invalid", 5),
        (b"/MAAA\n", "character-invalid", 5),
        (b"/%", "percent-invalid", 1),
        (b"/MAAA%", "percent-invalid", 5),
        (b"/MAAA%4", "percent-invalid", 5),
        (b"/MAAA%4G", "percent-invalid", 5),
        (b"/MAAA%%41", "percent-invalid", 5),
        (b"/MAAA%u0041", "percent-invalid", 5),
        (b"/MAAA%+1", "percent-invalid", 5),
    ],
)
def test_everything_else_is_refused(target: bytes, code: str, offset: int) -> None:
    """HTR-04: base64url, missing padding, white space, trailing bits, query, fragment: one result each."""
    assert refusal(target) == (code, offset)


@pytest.mark.clause("RFC 3986", "2.4", "MUST")
@pytest.mark.parametrize(
    "target",
    [
        b"/../../etc/passwd",
        b"/..%2f..%2fetc%2fpasswd",
        b"/%2e%2e/%2e%2e/",
        b"/%252e%252e%252f",
        b"/MAAA%252F",
        b"/MAAA%00",
        b"/MAAA\x00",
        b"/%5c..%5c",
        b"/\\..\\",
        b"/MAAA\xc0\xaf",
        b"/MAAA%c0%af",
        b"/MAAA\xff",
        b"/~root",
        b"/MAAA;x",
        b"/MAAA&MAAA",
        b"/crl.pem",
    ],
)
def test_nothing_outside_the_alphabet_gets_through(target: bytes) -> None:
    """SEC-04: dots, NUL, backslash, overlong UTF-8; and nothing is decoded twice."""
    assert refusal(target)[0] == "character-invalid"


@pytest.mark.clause("RFC 9919", "6", "SHOULD")
@pytest.mark.parametrize("size", [300, 2_000, 8_000, MAX_TARGET_OCTETS])
def test_long_targets_are_taken(size: int) -> None:
    """HTR-05: neither 255 nor 1024 octets is a limit."""
    letters = (size - 1) // 4 * 4
    assert decode_target(b"/" + b"M" * letters) == base64.b64decode(b"M" * letters)


def test_too_long_a_target_is_refused_before_it_is_read() -> None:
    """SEC-02: one octet above the limit."""
    assert refusal(b"/" + b"A" * MAX_TARGET_OCTETS) == ("too-long", 0)
    assert refusal(b"/" + b"A" * 10_000_000) == ("too-long", 0)


@pytest.mark.parametrize("wrong", [None, "/MAA=", bytearray(b"/MAA=")])
def test_only_bytes_are_taken(wrong: object) -> None:
    with pytest.raises(TypeError):
        decode_target(wrong)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_what_a_client_encodes_is_decoded(data: bytes, rng: random.Random) -> None:
    """Encoding, with any choice of characters percent-encoded, and decoding give the octets back."""
    text = b"".join(b"%%%02X" % octet if rng.random() < 0.3 else bytes([octet]) for octet in text_of(data))
    slash = b"//" if text[:1] in (b"/",) or text.startswith(b"%2F") else b"/"
    assert decode_target(slash + text) == data


ALPHABET = [*(bytes([octet]) for octet in b"MAB/+=%?#-_ 2Fg\n\x00\xff"), b"%2F", b"%3d", b"%", b"MAAA", b"MA=="]


@settings(max_examples=1_000, deadline=None)
@given(st.one_of(st.binary(max_size=20), st.lists(st.sampled_from(ALPHABET), max_size=12).map(b"".join)))
def test_agrees_with_the_slow_decoder(text: bytes) -> None:
    """Value or refusal, the same from two decoders that share nothing."""
    check_http_target(text)
    check_http_target(b"/" + text)


def test_mutated_targets_agree_with_the_slow_decoder() -> None:
    """20 000 real targets with up to three characters exchanged, put in or taken out."""
    rng = random.Random(20261123)
    for _ in range(20_000):
        target = bytearray(b"/" + text_of(build.random_request(rng)[: rng.randrange(1, 120)]))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(target))
            target[at : at + rng.randrange(2)] = rng.choice(ALPHABET)
        check_http_target(bytes(target))
