"""Finds out how fast a key signs, with messages that could be nobody's answer or certificate. For ``revocast plan``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from responder.clock import Clock
from responder.errors import SignerUnavailable
from responder.signing.algorithms import verify_signature
from responder.signing.delegation import TRIAL_TEXT
from responder.signing.signer import Signer

TRIAL_S = 1.0
FIRST_BATCH = 4
MOST_IN_BATCH = 512
BATCH_S = 0.1  # aimed at


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it: signatures a second, and how long one is on the average."""

    per_second: float
    signature_bytes: float
    count: int


def try_pace(signer: Signer, clock: Clock, for_s: float) -> Trial:
    """Sign for about ``for_s`` seconds; raises SignerUnavailable. One signature of each batch is verified."""
    batch, count, octets, took_s, last_s = FIRST_BATCH, 0, 0, 0.0, 0.0
    while True:
        messages = [TRIAL_TEXT + os.urandom(16) for _ in range(batch)]
        began = clock.monotonic()
        signatures = signer.sign(messages)
        last_s = max(clock.monotonic() - began, 1e-6)
        algorithm_der = signer.signature_algorithm_der
        if not verify_signature(signer.public_key_der, algorithm_der, signatures[-1], messages[-1]):
            raise SignerUnavailable("the key signs, but its signature does not verify with its public key")
        count, octets, took_s = count + batch, octets + sum(map(len, signatures)), took_s + last_s
        if took_s + last_s > for_s:
            return Trial(count / took_s, octets / count, count)
        batch = max(1, min(MOST_IN_BATCH, 2 * batch, int(batch * BATCH_S / last_s) or 1))


def usual_signature_bytes(public_key: object) -> float:
    """Return how long the signatures of a key are that cannot be tried."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return public_key.key_size / 8
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        # SEQUENCE of two INTEGERs, each with a leading zero octet half the time (RFC 3279 §2.2.3).
        return 2 * ((public_key.key_size + 7) // 8) + 7
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return 64
    # FIPS 204: ML-DSA-44, -65 and -87, by the length of the public key.
    raw = getattr(public_key, "public_bytes_raw", bytes)()
    return {1312: 2420, 1952: 3309, 2592: 4627}.get(len(raw), 512)
