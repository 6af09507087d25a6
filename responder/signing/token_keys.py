"""How tokens spell public keys, signatures and ways to sign, turned into what the standards ask for.

PKCS#11 v2.40 §2.1 (RSA), §2.3 (elliptic curves), v3.0 §2.3.5 (Edwards curves). Bytes in, bytes out: no token here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.signing.algorithms import PSS_SALT_OCTETS, Scheme

_CURVES: dict[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
}
_ED25519_PARAMS = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")  # by OID, or by name as in PKCS#11 v3.0

# RFC 8017 §9.2 note 1: DER of DigestInfo up to the digest of SHA-256.
DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


@dataclass(frozen=True, slots=True)
class TokenMechanism:
    """One way to have a token sign, in the numbers and octets that C_SignInit and C_Sign take.

    ``parameter`` is the mechanism's parameter as it lies in memory (CK_RSA_PKCS_PSS_PARAMS), empty for none.
    ``prepared``: what C_Sign is given of the message. ``hash_name`` is hashlib's, for digest and digest_info.
    """

    name: str
    number: int
    prepared: Literal["message", "digest", "digest_info"]
    parameter: bytes = b""
    hash_name: str = ""

    @property
    def takes_digests(self) -> bool:
        """Say whether C_Sign needs no more of a message than its digest."""
        return self.prepared != "message"

    def prepare_digest(self, digest: bytes) -> bytes:
        """Return what C_Sign is to be given for a message with that digest."""
        return DIGEST_INFO_SHA256 + digest if self.prepared == "digest_info" else digest

    def prepare(self, messages: Sequence[bytes]) -> list[bytes]:
        """Return what C_Sign is to be given for each message."""
        if self.prepared == "message":
            return list(messages)
        digest = getattr(hashlib, self.hash_name)  # twice as fast as hashlib.new
        head = DIGEST_INFO_SHA256 if self.prepared == "digest_info" else b""
        return [head + digest(message).digest() for message in messages]


# PKCS#11 v2.40 §2.1.9: hashAlg CKM_SHA256, mgf CKG_MGF1_SHA256, sLen; each a CK_ULONG.
PSS_SHA256_PARAMETER = struct.pack("@3L", 0x250, 2, PSS_SALT_OCTETS)
_MECHANISMS = {
    ("rsa", "sha256"): (
        TokenMechanism("CKM_SHA256_RSA_PKCS", 0x40, "message"),
        TokenMechanism("CKM_RSA_PKCS", 0x01, "digest_info", hash_name="sha256"),
    ),
    ("rsa-pss", "sha256"): (
        TokenMechanism("CKM_SHA256_RSA_PKCS_PSS", 0x43, "message", PSS_SHA256_PARAMETER),
        TokenMechanism("CKM_RSA_PKCS_PSS", 0x0D, "digest", PSS_SHA256_PARAMETER, "sha256"),
    ),
    **{
        ("ecdsa", hash_name): (
            TokenMechanism("CKM_ECDSA", 0x1041, "digest", hash_name=hash_name),
            TokenMechanism(f"CKM_ECDSA_{hash_name.upper()}", number, "message"),
        )
        for hash_name, number in (("sha256", 0x1044), ("sha384", 0x1045), ("sha512", 0x1046))
    },
    ("ed25519", ""): (TokenMechanism("CKM_EDDSA", 0x1057, "message"),),
}


def mechanisms_for(scheme: Scheme) -> tuple[TokenMechanism, ...]:
    """Return the ways to make a scheme's signatures in a token, the one with the least work for it first.

    Empty for a scheme that no token is asked for.
    """
    return _MECHANISMS.get((scheme.family, scheme.hash_name), ())


def rsa_public_key(modulus: bytes, public_exponent: bytes) -> PublicKeyTypes:
    """Build a key from CKA_MODULUS and CKA_PUBLIC_EXPONENT; raises ValueError where they are no key."""
    return rsa.RSAPublicNumbers(int.from_bytes(public_exponent, "big"), int.from_bytes(modulus, "big")).public_key()


def ec_public_key(ec_params: bytes, ec_point: bytes) -> PublicKeyTypes:
    """Build a key from CKA_EC_PARAMS and CKA_EC_POINT; raises ValueError for any other than a named NIST curve."""
    try:
        oid = core.ObjectIdentifier.load(ec_params, strict=True).native
    except ValueError as error:
        raise ValueError("its curve is not a named one (CKA_EC_PARAMS is no OBJECT IDENTIFIER)") from error
    if oid not in _CURVES:
        raise ValueError(f"its curve is {oid}; allowed: P-256, P-384, P-521")
    curve = _CURVES[oid]
    uncompressed_length = 1 + 2 * ((curve.key_size + 7) // 8)
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, _point(ec_point, uncompressed_length))


def ed25519_public_key(ec_params: bytes, ec_point: bytes) -> PublicKeyTypes:
    """Build a key from CKA_EC_PARAMS and CKA_EC_POINT; raises ValueError for any Edwards curve but Ed25519."""
    if ec_params not in _ED25519_PARAMS:
        raise ValueError(f"its Edwards curve is {ec_params.hex()}; allowed: Ed25519")
    return ed25519.Ed25519PublicKey.from_public_bytes(_point(ec_point, 32))


def _point(ec_point: bytes, bare_length: int) -> bytes:
    """Take off the OCTET STRING that PKCS#11 v2.40 §2.3.3 puts around a point, and that some tokens leave out.

    Told apart by length: a bare point begins with octet 04 too, and may look like an OCTET STRING.
    """
    if len(ec_point) == bare_length:
        return ec_point
    return bytes(core.OctetString.load(ec_point, strict=True).native)
