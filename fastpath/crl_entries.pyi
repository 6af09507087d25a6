from collections.abc import Sequence
from typing import Final, final

MAX_SERIAL_OCTETS: Final[int]
ALL_REASONS: Final[int]  # a bit for each reason that an entry of a full CRL may have

@final
class Terms:
    """On what terms records become entries of one CRL."""

    this_update: int
    now: int
    drop_expired_before: int  # -1: nothing is dropped
    shard: int
    shards: int
    reasons: int
    delta: bool
    certificate_issuer: bytes | None

    def __init__(
        self,
        this_update: int,
        *,
        now: int | None = None,
        drop_expired_before: int | None = None,
        shard: int = 0,
        shards: int = 1,
        delta: bool = False,
        reasons: int = ...,
        certificate_issuer: bytes | None = None,
    ) -> None:
        """Times are POSIX seconds. ``now`` (None: this_update): what is dated later is not revoked yet, and left out.

        ``drop_expired_before``: what expired before is left out, None: nothing. ``shards``: how many CRLs the serials are spread
        over, ``shard`` which of them this is. ``delta``: records of what is not revoked become removeFromCRL; a full CRL
        refuses them. ``reasons``: bits of those that may be written; entries with others lose them and stay.
        ``certificate_issuer``: Name DER of who issued the certificates where the CRL is indirect. Raises ValueError.
        """

@final
class Encoded:
    """Entries of one chunk."""

    der: bytes  # DER of elements of revokedCertificates, one behind the other
    count: int
    soonest_ahead: int | None  # POSIX seconds of the first revocation that is dated ahead, and so left out
    expired: int  # left out since they expired before drop_expired_before
    reasons_left_out: int
    without_reason: int  # entries, those among them whose reason was left out

def pack_revoked(flat: Sequence[bytes]) -> bytes:
    """Turn a reply of HGETALL (serial in hex, status text, …) into a chunk of records, sorted.

    A record is u16 length ‖ serial's contents octets ‖ u16 length ‖ status text, big-endian; records are sorted by the
    serial's length, then its octets. An empty text: the certificate is not known any more (deltas). Raises ValueError,
    one line, naming what is no serial or no status.
    """

def unpack_records(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """Return a chunk's serials (contents octets) and status texts; raises ValueError where it is no chunk."""

def encode_entries(chunk: bytes, terms: Terms, *, first: bool = False) -> Encoded:
    """Encode a chunk's records as elements of revokedCertificates (RFC 5280 §5.1.2.6, §5.3).

    ``first``: nothing was written before, so the first entry names the certificates' issuer where the CRL is indirect. Raises
    ValueError, one line, for what is no chunk, and for a record that is not revoked where the CRL is a full one.
    """

def shard_of(serial_octets: bytes, shards: int) -> int:
    """Return the shard of a serial: its value as an INTEGER, modulo ``shards`` (1 to 65535)."""
