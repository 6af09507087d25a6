"""How tokens spell keys and signatures, against asn1crypto and cryptography."""

from __future__ import annotations

import hashlib
import struct

import pkcs11
import pytest
from asn1crypto import algos, core
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from responder.signing.algorithms import RSAPadding, public_key_to_der, scheme_of
from responder.signing.cryptoki import ecdsa_der
from responder.signing.token_keys import (
    ec_public_key,
    ed25519_public_key,
    mechanisms_for,
    rsa_public_key,
)
from tests.pki import key_of

P256 = bytes.fromhex("06082a8648ce3d030107")


class _Pair(core.Sequence):
    _fields = [("r", core.Integer), ("s", core.Integer)]  # noqa: RUF012 - asn1crypto's way


@pytest.mark.clause("RFC 5758", "3.2", "MUST")
@given(st.sampled_from([32, 48, 66]), st.data())
def test_raw_signature_becomes_minimal_integers(size: int, data: st.DataObject) -> None:
    """ALG-03: any r and s become what an independent encoder writes: minimal, and positive."""
    number = st.one_of(
        st.integers(1, 2 ** (8 * size) - 1),
        st.integers(0, 8 * size - 1).map(lambda bit: 1 << bit),
        st.integers(1, 8 * size).map(lambda bits: (1 << bits) - 1),
    )
    r, s = data.draw(number), data.draw(number)
    der = ecdsa_der(r.to_bytes(size, "big") + s.to_bytes(size, "big"), size)
    assert der == _Pair({"r": r, "s": s}).dump()
    assert _Pair.load(der, strict=True).native == {"r": r, "s": s}


@given(st.binary(max_size=140))
@example(bytes(64))
@example(bytes(31) + b"\1" + bytes(32))
def test_other_lengths_and_zeros_are_refused(raw: bytes) -> None:
    """ALG-08: what is no signature raises, and is never turned into one."""
    if len(raw) == 64 and any(raw[:32]) and any(raw[32:]):
        return
    with pytest.raises(ValueError, match="the token returned"):
        ecdsa_der(raw, 32)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("key_type", ["p256", "p384", "p521"])
def test_ec_points(key_type: str, wrapped: bool) -> None:
    """CKA_EC_POINT is read in DER, and bare as some tokens give it."""
    public_key = key_of(key_type, "hsm").public_key()
    point = public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    oid = {"p256": "1.2.840.10045.3.1.7", "p384": "1.3.132.0.34", "p521": "1.3.132.0.35"}[key_type]
    params = core.ObjectIdentifier(oid).dump()
    found = ec_public_key(params, core.OctetString(point).dump() if wrapped else point)
    assert public_key_to_der(found) == public_key_to_der(public_key)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("params", ["06032b6570", "130c656477617264733235353139"])
def test_ed25519_points(wrapped: bool, params: str) -> None:
    """An Ed25519 key is read by OID and by name, its point in DER and bare."""
    public_key = key_of("ed25519", "hsm").public_key()
    point = public_key.public_bytes_raw()
    found = ed25519_public_key(bytes.fromhex(params), core.OctetString(point).dump() if wrapped else point)
    assert public_key_to_der(found) == public_key_to_der(public_key)


@pytest.mark.parametrize(
    ("key_type", "rsa_padding", "numbers"),
    [
        ("rsa2048", None, [0x40, 0x01]),
        ("rsa2048", "pss", [0x43, 0x0D]),
        ("p256", None, [0x1041, 0x1044]),
        ("p384", None, [0x1041, 0x1045]),
        ("p521", None, [0x1041, 0x1046]),
        ("ed25519", None, [0x1057]),
        ("mldsa65", None, []),
    ],
)
def test_mechanisms_are_those_of_the_standard(
    key_type: str, rsa_padding: RSAPadding | None, numbers: list[int]
) -> None:
    """PKCS#11 v2.40 and v3.0: numbers, names and parameters, against python-pkcs11's own; no token does ML-DSA yet."""
    choices = mechanisms_for(scheme_of(key_of(key_type, "hsm").public_key(), rsa_padding))
    assert [choice.number for choice in choices] == numbers
    assert [choice.name for choice in choices] == [f"CKM_{pkcs11.Mechanism(number).name}" for number in numbers]
    for choice in choices:
        if rsa_padding == "pss":
            words = struct.unpack("@3L", choice.parameter)
            assert words == (pkcs11.Mechanism.SHA256, pkcs11.MGF.SHA256, 32)
        else:
            assert choice.parameter == b""


def test_what_a_token_is_given_of_a_message() -> None:
    """RFC 8017 §9.2: the message, its digest, or its DigestInfo, as an independent encoder writes it."""
    pkcs1 = {choice.prepared: choice for choice in mechanisms_for(scheme_of(key_of("rsa2048", "hsm").public_key()))}
    ecdsa = {choice.prepared: choice for choice in mechanisms_for(scheme_of(key_of("p384", "hsm").public_key()))}
    info = algos.DigestInfo(
        {
            "digest_algorithm": {"algorithm": "sha256", "parameters": core.Null()},
            "digest": hashlib.sha256(b"m").digest(),
        }
    )
    assert pkcs1["message"].prepare([b"m"]) == [b"m"]
    assert pkcs1["digest_info"].prepare([b"m"]) == [info.dump()]
    assert ecdsa["digest"].prepare([b"m"]) == [hashlib.sha384(b"m").digest()]


def test_rsa_numbers() -> None:
    """CKA_MODULUS may begin with a zero octet."""
    public_key = key_of("rsa2048", "hsm").public_key()
    modulus = public_key.public_numbers().n.to_bytes(257, "big")
    assert public_key_to_der(rsa_public_key(modulus, b"\1\0\1")) == public_key_to_der(public_key)


@pytest.mark.parametrize(
    ("params", "point", "problem"),
    [
        (b"\x30\x00", b"\x04" + bytes(64), "not a named one"),
        (b"", b"\x04" + bytes(64), "not a named one"),
        (core.ObjectIdentifier("1.3.132.0.10").dump(), b"\x04" + bytes(64), "its curve is 1.3.132.0.10"),
        (P256, b"\x04" + bytes(64), "[Ii]nvalid|point"),
        (P256, b"", "."),
    ],
)
def test_keys_that_are_none(params: bytes, point: bytes, problem: str) -> None:
    """Explicit parameters, other curves and points off the curve are refused."""
    with pytest.raises(ValueError, match=problem):
        ec_public_key(params, point)
    with pytest.raises(ValueError, match="its Edwards curve"):
        ed25519_public_key(params, point)


def test_compressed_point_is_read() -> None:
    """A token that compresses points inside the OCTET STRING is not misread as bare."""
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    assert public_key_to_der(ec_public_key(P256, core.OctetString(point).dump())) == public_key_to_der(public_key)
