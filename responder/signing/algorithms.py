"""Which keys may sign, how, and by what exact AlgorithmIdentifier bytes; and checking a signature.

BR §7.1.3.2 (exact bytes, hash bound to the curve), RFC 4055 §5, RFC 5758 §3.2, RFC 8410 §3. Holds no key. Called by
the signers, which must agree with each other on every byte, and by the delegation's checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

RSA_BITS = (2048, 3072, 4096)
ALLOWED_KEYS = "RSA of 2048, 3072 or 4096 bits, EC on P-256, P-384 or P-521, Ed25519"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of key signs. ``hash_name`` is hashlib's; empty where the scheme takes the message itself."""

    name: str
    family: Literal["rsa", "ecdsa", "ed25519"]
    hash_name: str
    algorithm_der: bytes
    coordinate_bytes: int = 0  # ECDSA: length of r and of s in a token's raw signature

    @property
    def in_baseline_requirements(self) -> bool:
        """True where BR §7.1.3.2 lists its AlgorithmIdentifier."""
        return self.family != "ed25519"


# BR §7.1.3.2.1 and RFC 4055 §5: parameters are NULL. BR §7.1.3.2.2 and RFC 5758 §3.2: ECDSA's are absent, and the hash
# belongs to the curve. RFC 8410 §3: Ed25519's are absent, and the message is not hashed first.
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
_EC_SCHEMES = {
    "secp256r1": Scheme("P-256", "ecdsa", "sha256", bytes.fromhex("300a06082a8648ce3d040302"), 32),
    "secp384r1": Scheme("P-384", "ecdsa", "sha384", bytes.fromhex("300a06082a8648ce3d040303"), 48),
    "secp521r1": Scheme("P-521", "ecdsa", "sha512", bytes.fromhex("300a06082a8648ce3d040304"), 66),
}
_ED25519 = Scheme("Ed25519", "ed25519", "", bytes.fromhex("300506032b6570"))
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def scheme_of(public_key: object) -> Scheme:
    """Return how a key of this kind signs; raises ValueError, naming what is allowed, for one that may not."""
    name = type(public_key).__name__.removesuffix("PublicKey")
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return _ED25519
    if isinstance(public_key, rsa.RSAPublicKey):
        name = f"RSA-{public_key.key_size}"
        if public_key.key_size in RSA_BITS:
            return Scheme(name, "rsa", "sha256", _RSA_SHA256)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        name = f"EC {public_key.curve.name}"
        if public_key.curve.name in _EC_SCHEMES:
            return _EC_SCHEMES[public_key.curve.name]
    raise ValueError(f"a key of type {name} cannot sign answers; allowed: {ALLOWED_KEYS}")


def public_key_to_der(public_key: PublicKeyTypes) -> bytes:
    """Encode a SubjectPublicKeyInfo: always the same bytes for the same key, so that keys can be compared by them."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def verify_signature(public_key_der: bytes, signature: bytes, message: bytes) -> bool:
    """Check a signature (the BIT STRING's octets) as a client would; raises ValueError for an unsupported key."""
    public_key = serialization.load_der_public_key(public_key_der)
    scheme = scheme_of(public_key)
    try:
        if isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, message, padding.PKCS1v15(), HASHES[scheme.hash_name])
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, message, ec.ECDSA(HASHES[scheme.hash_name]))
        elif isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
