"""Keys in PEM files, through ``cryptography``. For shops without an HSM, and for the quickstart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asn1crypto import pem
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from responder.errors import ConfigError, InvariantBroken, SignerUnavailable
from responder.signing.algorithms import HASHES, RSAPadding, Scheme, pss_padding, public_key_to_der, scheme_of
from responder.signing.pins import PinSource

# 2.16.840.1.101.3.4.3.17, 18 and 19 but for their last octet.
ML_DSA_OID_DER = bytes.fromhex("06096086480165030403")


class SoftKeySigner:
    """A private key in this process's memory. See Signer."""

    def __init__(self, private_key: PrivateKeyTypes, rsa_padding: RSAPadding | None = None) -> None:
        """Raises ValueError, naming what is allowed, for a kind of key that may not sign (so)."""
        public_key = private_key.public_key()
        self._scheme = scheme_of(public_key, rsa_padding)
        self._public_key_der = public_key_to_der(public_key)
        self._sign_one: Callable[[bytes], bytes] | None = _sign_function(private_key, self._scheme)
        self._sign_digest: Callable[[bytes], bytes] | None = _sign_function(private_key, self._scheme, digests=True)

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo DER."""
        return self._public_key_der

    @property
    def signature_algorithm_der(self) -> bytes:
        """AlgorithmIdentifier DER of its signatures."""
        return self._scheme.algorithm_der

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message; raises SignerUnavailable once closed."""
        if self._sign_one is None:
            raise SignerUnavailable("the key is closed")
        return [self._sign_one(message) for message in messages]

    @property
    def digest_name(self) -> str:
        """hashlib's name of the digest that ``sign_digest`` takes; empty: none."""
        return self._scheme.hash_name

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a message by its digest; raises SignerUnavailable once closed."""
        if not self._scheme.hash_name:
            raise InvariantBroken(f"{self._scheme.name} signs whole messages, not digests")
        if self._sign_digest is None:
            raise SignerUnavailable("the key is closed")
        return self._sign_digest(digest)

    def close(self) -> None:
        """Let go of the key."""
        self._sign_one = self._sign_digest = None


def _sign_function(key: PrivateKeyTypes, scheme: Scheme, *, digests: bool = False) -> Callable[[bytes], bytes]:
    """Return what signs a message, or its digest where the scheme has one."""
    if isinstance(
        key, ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
    ):
        return key.sign
    algorithm = Prehashed(HASHES[scheme.hash_name]) if digests else HASHES[scheme.hash_name]
    if isinstance(key, rsa.RSAPrivateKey):
        padded = pss_padding() if scheme.family == "rsa-pss" else padding.PKCS1v15()
        return lambda message: key.sign(message, padded, algorithm)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvariantBroken(f"no way to sign with {type(key).__name__}, which scheme_of let pass")
    ecdsa = ec.ECDSA(algorithm)
    return lambda message: key.sign(message, ecdsa)


def load_soft_key(
    path: Path, passphrase: PinSource, config_file: str, config_key: str, rsa_padding: RSAPadding | None = None
) -> SoftKeySigner:
    """Read a private key from PEM, encrypted or not; raises ConfigError, one line, where it will not do.

    ``passphrase`` is read only where the file is encrypted. ``config_key`` is the key that names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(config_file, config_key, f"cannot read {path}: {error.strerror}") from error
    try:
        try:
            private_key = serialization.load_pem_private_key(data, None)
        except TypeError:  # encrypted
            private_key = serialization.load_pem_private_key(data, passphrase.read().encode())
            # A wrong passphrase is a ValueError like any other that says the file cannot be read.
        return SoftKeySigner(private_key, rsa_padding)
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())
        if _is_ml_dsa(data):
            # RFC 9881 §6 has three forms; cryptography reads one, and its own words do not say so.
            reason = "an ML-DSA key must be in the form that holds its seed alone: openssl pkey -provparam ml-dsa.output_formats=seed-only"
        raise ConfigError(config_file, config_key, f"{path}: {reason}") from error


def _is_ml_dsa(data: bytes) -> bool:
    """Say whether a file holds an ML-DSA key, by its OID, as far as it is not encrypted."""
    try:
        return ML_DSA_OID_DER in pem.unarmor(data)[2][:32]
    except ValueError:
        return False
