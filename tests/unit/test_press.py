"""What a press believes of a key."""

from __future__ import annotations

from collections.abc import Sequence

from responder.clock import ManualClock
from responder.signing.press import Press
from responder.signing.softkey import SoftKeySigner
from tests.pki import key_of

BATCH = [b"%d" % number for number in range(12)]


class _PartlyIll:
    """Spoils one signature of each batch, always in the same place, as a token with one bad session of several may."""

    def __init__(self, spoilt: int) -> None:
        self._signer = SoftKeySigner(key_of("p256", "press"))
        self._spoilt = spoilt
        self.public_key_der = self._signer.public_key_der
        self.signature_algorithm_der = self._signer.signature_algorithm_der

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        signatures = self._signer.sign(messages)
        last = signatures[self._spoilt]
        signatures[self._spoilt] = last[:-1] + bytes([last[-1] ^ 1])
        return signatures

    def close(self) -> None:
        self._signer.close()


def test_wherever_a_batch_is_bad_it_is_found() -> None:
    """ALG-08: the sample of a batch is not always the same one."""
    for spoilt in range(len(BATCH)):
        press = Press("corp", _PartlyIll(spoilt), ManualClock(1_800_000_000))
        press.slice_size = len(BATCH)
        for _ in range(len(BATCH)):
            batch = press.submit(BATCH, "routine")
            press.pump()
            if batch.error is not None:
                break
            press.slice_size = len(BATCH)
        assert batch.error is not None
        assert "does not verify" in str(batch.error)
