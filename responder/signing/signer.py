"""What the presigner needs of a key, whatever holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from responder.errors import SignerUnavailable


class Signer(Protocol):
    """One private key that signs batches. Used by one thread of one process."""

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

    @property
    def digest_name(self) -> str:
        """hashlib's name of the digest that ``sign_digest`` takes; empty: it takes none, messages are signed whole."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a message of which only the digest is here; returns BIT STRING octets, as ``sign`` would for the message.

        For messages too large to be passed around. Raises SignerUnavailable; InvariantBroken where ``digest_name`` is empty.
        """
        ...

    def close(self) -> None:
        """Let go of the key, log out, end sessions."""
        ...


class Signing(Protocol):
    """Messages on their way through a key that signs elsewhere."""

    signatures: list[bytes] | None
    error: SignerUnavailable | None

    @property
    def done(self) -> bool:
        """Say whether there are signatures or an error, as far as ``poll`` has seen."""
        ...

    def result(self, within_s: float) -> list[bytes]:
        """Wait for the signatures; raises SignerUnavailable where there are none by then."""
        ...


@runtime_checkable
class AsyncSigner(Signer, Protocol):
    """A key that another process signs with, several messages at a time."""

    def submit(self, messages: Sequence[bytes], *, urgent: bool) -> Signing:
        """Have messages signed, without waiting; urgent ones before all that are not. Raises SignerUnavailable."""
        ...

    def poll(self) -> None:
        """Take in what has come, without waiting."""
        ...

    def fileno(self) -> int | None:
        """Return what becomes readable when something has come; None: there is nothing to wait for."""
        ...
