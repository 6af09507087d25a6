from collections.abc import Callable, Sequence
from typing import Final, Self, final

from fastpath.ocsp_response import AnswerHeader, ResponseTemplate

MAX_TABLE_BYTES: Final[int]
"""The largest max_bytes."""

@final
class AnswerTerms:
    """What answers of one header share, as a worker needs it: times, and the lines of the HTTP head made of them.

    Times are POSIX seconds. Without template and header it is for answers that are kept whole. Immutable.
    """

    def __new__(
        cls,
        this_update: int,
        next_update: int,
        fresh_base: int,
        fresh_span: int,
        last_modified_line: bytes,
        expires_line: bytes,
        template: ResponseTemplate | None = None,
        header: AnswerHeader | None = None,
    ) -> Self:
        """Caches may use an answer until ``fresh_base`` and up to ``fresh_span`` seconds more, by its serial's hash.

        Raises ValueError for a span below 1, and for a template without header or the other way round.
        """

    @property
    def this_update(self) -> int: ...
    @property
    def next_update(self) -> int: ...
    def fresh_until(self, bucket_hash: int) -> int:
        """Return the second until which caches may use the answer for a serial; before nextUpdate (RFC 9919 §7.2)."""

@final
class TableAnswer:
    """A found answer, put together; only ``AnswerTable.get`` makes one."""

    @property
    def cert_status(self) -> int: ...
    @property
    def terms(self) -> AnswerTerms: ...
    @property
    def etag_digest(self) -> bytes:
        """SHA-256 of ``response_der``."""

    @property
    def response_der(self) -> bytes: ...

class Records:
    """A bounded ring of records with its index and the journal's groups; not for use by itself."""

    def __new__(cls, max_bytes: int, ca_ids: Sequence[str], *, first_epoch: int = 0) -> Self:
        """Take room for ``max_bytes``, all in all; pages are used as they fill.

        ``ca_ids`` are the store's ids of all CAs that will be asked for. ``first_epoch`` is for tests of what happens
        when an epoch has no next one. Raises ValueError for a size out of bounds, MemoryError where there is no room.
        """

    @property
    def max_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int:
        """What index, groups and records take now; outdated records count until the ring has passed them."""

    @property
    def fullness(self) -> float:
        """From 0 to 1, from where on each put makes room: of the ring or of the index, whichever is fuller."""

    def __len__(self) -> int:
        """How many records the index names; those that the journal has ended, and nobody has asked for since, too."""

    def drop_bucket(self, ca: str, bucket: int) -> None:
        """Forget every entry of a CA that could lie in a bucket of that number, at any bits; a few others go too."""

    def drop_partition(self, partition: int) -> None:
        """Forget every entry of a partition, of all CAs."""

    def clear(self) -> None:
        """Forget everything."""

@final
class AnswerTable(Records):
    """Ready answers by CA, CertID hash algorithm and serial.

    A dual answer is kept once, whichever of its two algorithms it was put by, and found by both.
    ``ca`` is the store's id of the CA, ``hash_name`` sha1, sha256, sha384 or sha512, ``bucket_hash``
    layout.serial_hash of the serial. Other names raise ValueError. Serials are contents octets; none longer than a
    request may have is kept, nor a body above 65535 octets.
    """

    def put(
        self,
        ca: str,
        hash_name: str,
        serial_octets: bytes,
        bucket_hash: int,
        terms: AnswerTerms,
        packed: bytes,
        etag_digest: bytes,
    ) -> None:
        """Remember a packed answer, whose OCSPResponse has that SHA-256; raises ValueError where it is none."""

    def put_whole(
        self,
        ca: str,
        hash_name: str,
        serial_octets: bytes,
        bucket_hash: int,
        terms: AnswerTerms,
        cert_status: int,
        response_der: bytes,
        etag_digest: bytes,
        is_dual: bool = False,
    ) -> None:
        """Remember an OCSPResponse as it is; ``is_dual``: it has the CertIDs of both SHA-1 and SHA-256."""

    def get(
        self,
        ca: str,
        hash_name: str,
        serial_octets: bytes,
        cert_id_der: bytes,
        both: Callable[[bytes], tuple[bytes, bytes]] = ...,
    ) -> TableAnswer | None:
        """Return what is remembered, or None; it may be past its nextUpdate.

        ``cert_id_der`` is the CertID of that CA, algorithm and serial, in encode_cert_id's form; ``both`` makes the
        CA's SHA-1 and SHA-256 CertIDs of a serial, for an answer that has both.
        """

    def drop(self, ca: str, hash_name: str, serial_octets: bytes) -> None:
        """Forget one answer, if it is there."""

@final
class AbsentTable(Records):
    """Serials that the store said are not there. Its budget is its own: made-up serials must not push out answers."""

    def put(self, ca: str, serial_octets: bytes, bucket_hash: int) -> None:
        """Remember that a CA has no such serial."""

    def has(self, ca: str, serial_octets: bytes) -> bool:
        """Tell whether it is remembered as not there."""
