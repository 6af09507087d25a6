"""What the presigner needs of a key, whatever holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Signer(Protocol):
    """One private key that signs batches. Used by one thread of one process at a time."""

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo DER of the key, read from where the key is."""
        ...

    @property
    def signature_algorithm_der(self) -> bytes:
        """AlgorithmIdentifier DER of its signatures, exact bytes as in BR §7.1.3.2 where that lists them."""
        ...

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message (unhashed); returns BIT STRING octets in order, ECDSA as DER SEQUENCE{r,s}.

        All or nothing: raises SignerUnavailable and returns no signature where any fails.
        """
        ...

    def close(self) -> None:
        """Let go of the key, log out, end sessions."""
        ...
