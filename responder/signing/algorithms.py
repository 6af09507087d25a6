"""Which keys may sign, how, and by what exact AlgorithmIdentifier bytes; and checking a signature.

BR §7.1.3.2 (exact bytes, hash bound to the curve), RFC 4055 §3 and §5, RFC 5758 §3.2, RFC 8410 §3, RFC 9881 §2. Holds
no key. Called by the signers, which must agree with each other on every byte, and by the delegation's checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.errors import InvariantBroken

RSAPadding = Literal["pkcs1", "pss"]

RSA_BITS = (2048, 3072, 4096)
ALLOWED_KEYS = (
    "RSA of 2048, 3072 or 4096 bits, EC on P-256, P-384 or P-521, Ed25519, "
    "and with the key in a file ML-DSA-44, ML-DSA-65 or ML-DSA-87"
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of key signs. ``hash_name`` is hashlib's; empty where the scheme takes the message itself."""

    name: str
    family: Literal["rsa", "rsa-pss", "ecdsa", "ed25519", "ml-dsa"]
    hash_name: str
    algorithm_der: bytes
    coordinate_bytes: int = 0  # ECDSA: length of r and of s in a token's raw signature

    @property
    def in_baseline_requirements(self) -> bool:
        """True where BR §7.1.3.2 lists its AlgorithmIdentifier."""
        return self.family in ("rsa", "rsa-pss", "ecdsa")


# BR §7.1.3.2.1 and RFC 4055 §5: parameters are NULL; of PSS they are all written out, but for trailerField, whose default
# DER leaves out. BR §7.1.3.2.2 and RFC 5758 §3.2: ECDSA's are absent, and the hash belongs to the curve. RFC 8410 §3 and
# RFC 9881 §2: those of Ed25519 and ML-DSA are absent, and the message is not hashed first.
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
RSA_PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034"
    "a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"
    "a203020120"
)
PSS_SALT_OCTETS = 32  # BR §7.1.3.2.1; RFC 4055 §3.1: the size of the hash
_EC_SCHEMES = {
    "secp256r1": Scheme("P-256", "ecdsa", "sha256", bytes.fromhex("300a06082a8648ce3d040302"), 32),
    "secp384r1": Scheme("P-384", "ecdsa", "sha384", bytes.fromhex("300a06082a8648ce3d040303"), 48),
    "secp521r1": Scheme("P-521", "ecdsa", "sha512", bytes.fromhex("300a06082a8648ce3d040304"), 66),
}
_ED25519 = Scheme("Ed25519", "ed25519", "", bytes.fromhex("300506032b6570"))
# RFC 9881 §2: the pure variant, whose context is empty; HashML-DSA has no place in X.509.
_ML_DSA_SCHEMES = {
    mldsa.MLDSA44PublicKey: Scheme("ML-DSA-44", "ml-dsa", "", bytes.fromhex("300b0609608648016503040311")),
    mldsa.MLDSA65PublicKey: Scheme("ML-DSA-65", "ml-dsa", "", bytes.fromhex("300b0609608648016503040312")),
    mldsa.MLDSA87PublicKey: Scheme("ML-DSA-87", "ml-dsa", "", bytes.fromhex("300b0609608648016503040313")),
}
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def scheme_of(public_key: object, rsa_padding: RSAPadding | None = None) -> Scheme:
    """Return how a key of this kind signs; raises ValueError, naming what is allowed, for one that may not.

    ``rsa_padding`` None: pkcs1 where it is an RSA key. Any other key refuses to be told a padding.
    """
    scheme: Scheme | None = None
    name = type(public_key).__name__.removesuffix("PublicKey")
    if isinstance(public_key, rsa.RSAPublicKey):
        name = f"RSA-{public_key.key_size}"
        if public_key.key_size in RSA_BITS:
            if rsa_padding == "pss":
                return Scheme(name, "rsa-pss", "sha256", RSA_PSS_SHA256)
            return Scheme(name, "rsa", "sha256", _RSA_SHA256)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        name = f"EC {public_key.curve.name}"
        scheme = _EC_SCHEMES.get(public_key.curve.name)
    elif isinstance(public_key, ed25519.Ed25519PublicKey):
        scheme = _ED25519
    else:
        scheme = next((one for kind, one in _ML_DSA_SCHEMES.items() if isinstance(public_key, kind)), None)
    if scheme is None:
        raise ValueError(f"a key of type {name} cannot sign answers; allowed: {ALLOWED_KEYS}")
    if rsa_padding is not None:
        raise ValueError(f"rsa_padding is for RSA keys, and this is a {scheme.name} key; leave it out")
    return scheme


def public_key_to_der(public_key: PublicKeyTypes) -> bytes:
    """Encode a SubjectPublicKeyInfo: always the same bytes for the same key, so that keys can be compared by them."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=64)  # samples of a few keys, again and again
def _loaded(public_key_der: bytes) -> PublicKeyTypes:
    return serialization.load_der_public_key(public_key_der)


def pss_padding() -> padding.PSS:
    """Return the one form of PSS that is signed here."""
    return padding.PSS(padding.MGF1(hashes.SHA256()), PSS_SALT_OCTETS)


def verify_signature(public_key_der: bytes, algorithm_der: bytes, signature: bytes, message: bytes) -> bool:
    """Check a signature (the BIT STRING's octets) as a client would; raises ValueError for an unsupported key.

    ``algorithm_der`` is the AlgorithmIdentifier that goes with it; one that is not this kind of key's own is False.
    """
    public_key = _loaded(public_key_der)
    is_pss = algorithm_der == RSA_PSS_SHA256 and isinstance(public_key, rsa.RSAPublicKey)
    scheme = scheme_of(public_key, "pss" if is_pss else None)
    if scheme.algorithm_der != algorithm_der:
        return False
    try:
        if isinstance(public_key, rsa.RSAPublicKey):
            padded = pss_padding() if scheme.family == "rsa-pss" else padding.PKCS1v15()
            public_key.verify(signature, message, padded, HASHES[scheme.hash_name])
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, message, ec.ECDSA(HASHES[scheme.hash_name]))
        elif isinstance(
            public_key,
            ed25519.Ed25519PublicKey | mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey,
        ):
            public_key.verify(signature, message)
        else:
            raise InvariantBroken(f"no way to verify with {scheme.name}, which scheme_of let pass")
    except InvalidSignature:
        return False
    return True
