"""Signs one CA's messages in short slices and verifies samples of what the key makes.

A slice is what a key signs in about 10 ms: between two of them the caller looks at questions that wait (DESIGN §6.4). Knows
no store and nothing of what it signs. Used by the presigner and the live signing role, by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from responder import audit, metrics
from responder.clock import Clock
from responder.errors import SignerUnavailable
from responder.log import get_logger
from responder.signing.algorithms import verify_signature
from responder.signing.signer import Signer

log = get_logger(__name__)

SLICE_S = 0.008  # aimed at, so that a slower signature or two stay under 10 ms
FIRST_SLICE = 4  # messages, until the key's pace is known: a slow token needs 50 ms for one
MOST_IN_SLICE = 512
SAMPLE_EVERY = 256  # signatures, of which one is verified; and the first of every batch
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 30.0


class Press:
    """One CA's key at work. ``ca`` is the config's name, for logs and metrics."""

    def __init__(self, ca: str, signer: Signer, clock: Clock) -> None:
        self._ca = ca
        self._signer = signer
        self._clock = clock
        self._public_key_der = signer.public_key_der
        self._algorithm_der = signer.signature_algorithm_der
        self._until_sample = SAMPLE_EVERY
        self._backoff_s = BACKOFF_FIRST_S
        self._not_before = 0.0  # monotonic: no try before that
        self.slice_size = FIRST_SLICE
        self.seconds_each = SLICE_S / FIRST_SLICE

    def sign(self, messages: Sequence[bytes], why: str, between: Callable[[], object] = lambda: None) -> list[bytes]:
        """Sign a batch, calling ``between`` after each slice but the last; returns the signatures in order.

        ``why`` is a label of the metric. Raises SignerUnavailable, with nothing signed that counts, where the key fails
        or what it made does not verify; then for a while at once, without another try.
        """
        if self._clock.monotonic() < self._not_before:
            raise SignerUnavailable(f"the signer of {self._ca} failed a moment ago")
        signatures: list[bytes] = []
        try:
            while len(signatures) < len(messages):
                if signatures:
                    between()
                part = messages[len(signatures) : len(signatures) + self.slice_size]
                signatures += self._sign_slice(part, first=not signatures)
        except BaseException:
            if signatures:  # the key was used, though nothing comes of it
                audit.record("signatures_dropped", ca=self._ca, count=len(signatures))
            raise
        metrics.SIGNATURES.labels(self._ca, why).inc(len(messages))
        return signatures

    def _sign_slice(self, messages: Sequence[bytes], *, first: bool) -> list[bytes]:
        began = self._clock.monotonic()
        try:
            signatures = self._signer.sign(messages)
            self._pace(self._clock.monotonic() - began, len(messages))
            self._verify(messages, signatures, first=first)
        except SignerUnavailable as error:
            self._not_before = self._clock.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
            audit.record("sign_failed", ca=self._ca, count=len(messages), reason=str(error))
            log.error("signer_unavailable", ca=self._ca, reason=str(error))
            raise
        self._backoff_s = BACKOFF_FIRST_S
        return signatures

    def _pace(self, took_s: float, count: int) -> None:
        each = took_s / count
        # Slower counts at once, faster little by little: one hiccup of the machine must not make the next slice long.
        self.seconds_each = each if each > self.seconds_each else (3 * self.seconds_each + each) / 4
        self.slice_size = max(1, min(MOST_IN_SLICE, int(SLICE_S / max(self.seconds_each, 1e-9))))

    def _verify(self, messages: Sequence[bytes], signatures: Sequence[bytes], *, first: bool) -> None:
        # A token that signs nonsense, or with another key, must not fill the store with it.
        self._until_sample -= len(messages)
        samples = [0] if first else []
        if self._until_sample <= 0:
            samples.append(len(messages) - 1)
            self._until_sample = SAMPLE_EVERY
        for at in samples:
            if not verify_signature(self._public_key_der, self._algorithm_der, signatures[at], messages[at]):
                raise SignerUnavailable("a signature does not verify with the key's public key; nothing of it is used")
