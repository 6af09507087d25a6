"""One CA's key at work: batches in, signatures out, the most urgent first, and a sample of what the key makes verified.

A key in this process signs in slices of some 8 ms, one at each ``pump``, so that between two of them the caller looks at
what has become urgent. A token's signs elsewhere: batches are sent off, and ``pump`` sees what has come back. Knows no store
and nothing of what it signs. Used by the presigner and the live signing role, by one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from responder import audit, metrics
from responder.clock import Clock
from responder.errors import SignerUnavailable
from responder.log import get_logger
from responder.signing.algorithms import verify_signature
from responder.signing.signer import AsyncSigner, Signer, Signing

log = get_logger(__name__)

SLICE_S = 0.008  # aimed at, so that a slower signature or two stay under 10 ms
FIRST_SLICE = 4  # messages, until the key's pace is known: a slow token needs 50 ms for one
MOST_IN_SLICE = 512
SAMPLE_EVERY = 256  # signatures, of which one is verified; and one of every batch
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 30.0
LIVE_WITHIN_S = 2.0  # a live question is void by then


class Batch:
    """Messages that are signed together or not at all. ``done`` once there are signatures or an error."""

    __slots__ = ("error", "messages", "sent", "signatures", "why")

    def __init__(self, messages: Sequence[bytes], why: str) -> None:
        self.messages = messages
        self.why = why
        self.signatures: list[bytes] = []
        self.error: SignerUnavailable | None = None
        self.sent: Signing | None = None

    @property
    def done(self) -> bool:
        """Say whether nothing more comes."""
        return self.error is not None or len(self.signatures) == len(self.messages)

    @property
    def uses(self) -> int:
        """How often the key was used for it, or may have been: a token goes on with what it was given."""
        return len(self.signatures if self.sent is None else self.messages)


class Press:
    """One CA's key at work. ``ca`` is the config's name, for logs and metrics."""

    def __init__(self, ca: str, signer: Signer, clock: Clock) -> None:
        self._ca = ca
        self._signer = signer
        self._elsewhere = signer if isinstance(signer, AsyncSigner) else None
        self._clock = clock
        self._public_key_der = signer.public_key_der
        self._algorithm_der = signer.signature_algorithm_der
        self._queues: tuple[deque[Batch], deque[Batch]] = (deque(), deque())  # urgent, routine
        self._until_sample = SAMPLE_EVERY
        self._batches = 0
        self._backoff_s = BACKOFF_FIRST_S
        self._not_before = 0.0  # monotonic: no try before that
        self._paced_at = 0.0  # monotonic: when a batch last came back from elsewhere
        self.slice_size = FIRST_SLICE
        self.seconds_each = SLICE_S / FIRST_SLICE

    @property
    def is_resting(self) -> bool:
        """Say whether the key failed a moment ago, and is not tried now."""
        return self._clock.monotonic() < self._not_before

    @property
    def signs_elsewhere(self) -> bool:
        """Say whether another process signs, so that this one may do something else meanwhile."""
        return self._elsewhere is not None

    @property
    def is_busy(self) -> bool:
        """Say whether batches are under way."""
        return any(self._queues)

    def fileno(self) -> int | None:
        """Return what becomes readable when ``pump`` has something to do; None: it need not be waited for."""
        return self._elsewhere.fileno() if self._elsewhere is not None and self.is_busy else None

    def submit(self, messages: Sequence[bytes], why: str, *, urgent: bool = False) -> Batch:
        """Queue a batch; ``why`` is a label of the metric. One that the key's rest forbids is done at once, in error."""
        batch = Batch(messages, why)
        try:
            self._check_rest()
            if self._elsewhere is not None:
                if not self.is_busy:
                    self._paced_at = self._clock.monotonic()
                batch.sent = self._elsewhere.submit(messages, urgent=urgent)
            self._queues[0 if urgent else 1].append(batch)
        except SignerUnavailable as error:
            batch.error = error
        return batch

    def sign(self, messages: Sequence[bytes], why: str) -> list[bytes]:
        """Sign at once, before all that waits. Raises SignerUnavailable, with nothing signed that counts."""
        self._check_rest()
        batch = Batch(messages, why)
        try:
            if self._elsewhere is not None:
                signatures = self._elsewhere.submit(messages, urgent=True).result(LIVE_WITHIN_S)
            else:
                signatures = self._signer.sign(messages)
            self._accept(batch, messages, signatures)
        except SignerUnavailable as error:
            self._fail(error)
            raise
        return batch.signatures

    def pump(self) -> int:
        """Sign a slice, or see what has come back; returns how many signatures were made."""
        batch = next((queue[0] for queue in self._queues if queue), None)
        if batch is None:
            return 0
        if self._elsewhere is not None:
            return self._collect(self._elsewhere)
        began = self._clock.monotonic()
        part = batch.messages[len(batch.signatures) : len(batch.signatures) + self.slice_size]
        try:
            signatures = self._signer.sign(part)
            self._pace(self._clock.monotonic() - began, len(part))
            self._accept(batch, part, signatures)
        except SignerUnavailable as error:
            self._fail(error)
            return 0
        if batch.done:
            self._remove(batch)
        return len(part)

    def _collect(self, signer: AsyncSigner) -> int:
        signer.poll()
        made = 0
        for batch in [*self._queues[0], *self._queues[1]]:
            assert batch.sent is not None  # noqa: S101 - submit has sent it
            if batch.error is not None or not batch.sent.done:
                continue
            try:
                signatures = batch.sent.result(0.0)
                self._accept(batch, batch.messages, signatures)
            except SignerUnavailable as error:
                self._fail(error)
                return made
            made += len(signatures)
            self._remove(batch)
        if made:
            now = self._clock.monotonic()
            self._pace(now - self._paced_at, made)
            self._paced_at = now
        return made

    def drop(self, batches: Sequence[Batch]) -> None:
        """Let go of batches: whatever has come of them, or comes yet, is not used."""
        for batch in batches:
            if batch.error is None:
                self._record_dropped(batch.uses)
            batch.error = batch.error or SignerUnavailable("its answers are not wanted any more")
            self._remove(batch)

    def _remove(self, batch: Batch) -> None:
        for queue in self._queues:
            if batch in queue:
                queue.remove(batch)

    def _check_rest(self) -> None:
        if self.is_resting:
            raise SignerUnavailable(f"the signer of {self._ca} failed a moment ago")

    def _fail(self, error: SignerUnavailable) -> None:
        """Rest for a while, longer each time; whatever was under way has failed."""
        self._not_before = self._clock.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
        log.error("signer_unavailable", ca=self._ca, reason=str(error))
        audit.record("sign_failed", ca=self._ca, reason=str(error))
        for queue in self._queues:
            for batch in queue:
                batch.error = error
                self._record_dropped(batch.uses)
            queue.clear()

    def _record_dropped(self, count: int) -> None:
        """Write down that the key was used, though nothing comes of it."""
        if count:
            audit.record("signatures_dropped", ca=self._ca, count=count)

    def _pace(self, took_s: float, count: int) -> None:
        each = took_s / max(1, count)
        # Slower counts at once, faster little by little: one hiccup of the machine must not make the next slice long.
        self.seconds_each = each if each > self.seconds_each else (3 * self.seconds_each + each) / 4
        self.slice_size = max(1, min(MOST_IN_SLICE, int(SLICE_S / max(self.seconds_each, 1e-9))))

    def _accept(self, batch: Batch, messages: Sequence[bytes], signatures: Sequence[bytes]) -> None:
        """Take signatures in, after a look at a sample: a token that signs nonsense must not fill the store with it."""
        self._until_sample -= len(messages)
        samples: list[int] = []
        if messages and not batch.signatures:
            # Another place each time: a token's sessions each sign their part of a batch, and one alone may be ill.
            self._batches += 1
            samples.append(self._batches % len(messages))
        if self._until_sample <= 0:
            samples.append(len(messages) - 1)
            self._until_sample = SAMPLE_EVERY
        for at in samples:
            if not verify_signature(self._public_key_der, self._algorithm_der, signatures[at], messages[at]):
                if batch.sent is None:  # else it stands in a queue, and _fail writes it down
                    self._record_dropped(len(messages))
                raise SignerUnavailable("a signature does not verify with the key's public key; nothing of it is used")
        batch.signatures += signatures
        metrics.SIGNATURES.labels(self._ca, batch.why).inc(len(messages))
        self._backoff_s = BACKOFF_FIRST_S
