from collections.abc import Callable, Sequence
from typing import Self, final

from fastpath.answer_table import AnswerTable

@final
class Missing:
    """A plain request that lacks nothing but its answer; only ``ExpressLane.read`` makes one."""

    @property
    def issuer(self) -> int:
        """Its CA's place in the list that the lane was given."""

    @property
    def is_post(self) -> bool: ...
    @property
    def closes(self) -> bool:
        """The connection ends with its answer."""

    @property
    def hash_name(self) -> str: ...
    @property
    def serial_octets(self) -> bytes: ...
    @property
    def cert_id_der(self) -> bytes:
        """The CertID in encode_cert_id's form."""

    @property
    def nonce_octets(self) -> bytes | None:
        """The nonce extension's extnValue contents; None: there is none. Of a CA that ignores nonces none gets here."""

@final
class ExpressLane:
    """Ready answers as whole HTTP messages; see the module for what is taken and what is left."""

    def __new__(
        cls,
        table: AnswerTable,
        issuers: Sequence[tuple[Sequence[tuple[str, bytes, bytes]], float, bool]],
        heads: tuple[bytes, bytes, bytes, bytes, bytes, bytes],
        now: Callable[[], float],
        age: Callable[[], float],
        date_line: Callable[[int], bytes],
        *,
        max_target_bytes: int,
        max_header_bytes: int,
        max_body_bytes: int,
    ) -> Self:
        """Answer out of ``table``.

        ``issuers``: in the table's order, each with (hash name, issuerNameHash, issuerKeyHash), its max_blind in
        seconds, and whether it honours nonces. ``heads``: responder.http.caching.HeadParts. ``now`` gives POSIX seconds, ``age`` seconds since the
        journal was seen to its end, ``date_line`` the Date field's line of a second.
        """

    def ready(self, is_post: bool, target: bytes, body: bytes) -> bytes | None:
        """Return the message that answers a framed GET (by ``target``) or POST (by ``body``), or None: not mine."""

    def read(self, data: bytes) -> bytes | tuple[bytes] | Missing | None:
        """Return the messages that answer a whole read, or None: not mine.

        In a tuple of one where the connection ends with them. Missing: fetch it, then ask ``message``; with a nonce, have it signed.
        """

    def message(self, missing: Missing) -> bytes | None:
        """Return the message that answers it now, uncounted, as on a connection that goes on.

        None: it is still missing, or no longer mine.
        """

    def ready_count(self) -> int:
        """Return how many messages ``ready`` and ``read`` ever made."""

    def take_counts(self) -> tuple[int, int, int, int]:
        """Return how many messages were made since the last call, and how many of them said good, revoked, unknown."""
