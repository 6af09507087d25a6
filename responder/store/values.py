"""The values that pass between the store and its callers, and how a reply of Redis becomes one.

Knows no connection. Serials are DER INTEGER contents octets, statuses are ``responder.model.Status`` texts, times are
POSIX seconds UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from responder.clock import parse_utc
from responder.store import layout
from responder.store.layout import JournalKind


@dataclass(frozen=True, slots=True)
class CAInfo:
    """What ``rc:ca:<ca>`` says. ``as_of`` None: no whole load is in yet, so nothing may be said about any serial.

    ``source_until``: nothing that the source alone says may be said to hold longer; None: it sets no such end.
    ``lists_issued`` False: the source lists the revoked alone, so that a serial it does not list may well be issued.
    """

    ca: str
    name: str
    subject: str
    certificate: bytes
    bits: int | None  # None: no bucket was made yet
    as_of: int | None
    cursor: str | None
    loaded: int | None
    override: str | None  # status text; for readers that cannot ask the partition, and for people
    sha256_asked: int | None
    source_until: int | None = None
    lists_issued: bool = True


@dataclass(frozen=True, slots=True)
class StatusBucket:
    """One status hash, whole. It holds exactly the serials whose hash ends in ``bucket`` at ``bits``."""

    bucket: int
    bits: int
    entries: dict[bytes, str]


@dataclass(frozen=True, slots=True)
class Located:
    """Where a serial lives, and its status text; None: its CA never issued it, or it was purged."""

    bucket: int
    bits: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One serial's change: ``old_text`` must still stand there (None: nothing), ``new_text`` takes its place."""

    serial_octets: bytes
    old_text: str | None
    new_text: str | None
    kind: JournalKind


@dataclass(frozen=True, slots=True)
class Commit:
    """The changes of one bucket that are made together or not at all. ``due_at``: when it must be signed."""

    ca: str
    bucket: int
    bits: int
    changes: Sequence[Change]
    due_at: float


@dataclass(frozen=True, slots=True)
class NewBucket:
    """A bucket that is not there, made with all that it holds: {serial octets: status text}."""

    ca: str
    bucket: int
    bits: int
    entries: Mapping[bytes, str]
    due_at: float


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was made: the number of its last journal entry, and how many serials the bucket holds now."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A due bucket that this presigner signs now. ``score``: when it was due. It comes due again at ``lease``."""

    ca: str
    bucket: int
    score: float
    lease: float


class Finished(NamedTuple):
    """The end of a claim: when the bucket is due again, and the soonest nextUpdate of its answers.

    ``next_update``: ``layout.NEVER_DUE`` where it has none; None: as it was.
    """

    claim: Claim
    next_due: float
    next_update: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerBucket:
    """One answers hash, whole: headers by slot, packed answers by serial octets (fastpath.ocsp_response)."""

    headers: dict[int, bytes] = field(default_factory=dict)
    answers: dict[bytes, bytes] = field(default_factory=dict)


class SignedAnswer(NamedTuple):
    """A packed answer and the status text that was signed: stored only while that text still stands."""

    serial_octets: bytes
    status_text: str
    packed: bytes


@dataclass(frozen=True, slots=True)
class SignerRecord:
    """What workers need of an answer signer: ``ResponseTemplate`` bytes, and its certificate's DER."""

    template: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry of a partition's journal. ``bucket`` None: every bucket of the CA there; ``serials`` None: all."""

    partition: int
    number: int
    ca: str
    kind: str
    bucket: int | None
    serials: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``Store.check`` looked at."""

    level: Literal["ok", "info", "warning", "error"]
    subject: str
    text: str


@dataclass(frozen=True)
class BucketMap:
    """Every bucket of a CA with its bits, and the holes: where a bucket should be and none is."""

    bits: int  # the deepest
    buckets: dict[int, int]
    missing: frozenset[int]  # numbers at ``bits``

    @property
    def least_bits(self) -> int:
        """The shallowest: a group of rows by that many bits or fewer holds whole buckets."""
        return min([*self.buckets.values(), *([self.bits] if self.missing else [])])

    @cached_property
    def leaves(self) -> list[int]:
        """By a serial hash's low ``bits``: the number of the bucket that holds, or should hold, the serial."""
        found = list(range(1 << self.bits))
        for number, bits in self.buckets.items():
            for leaf in range(number, 1 << self.bits, 1 << bits):
                found[leaf] = number
        return found

    def bits_of(self, bucket: int) -> int:
        """Return a bucket's bits, also of a missing one."""
        return self.bits if bucket in self.missing else self.buckets[bucket]


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """Turn a RESP2 reply that alternates names and values into a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def ca_info(ca: str, flat: Sequence[bytes]) -> CAInfo | None:
    """Read the reply of HGETALL on ``Layout.ca``."""
    fields: dict[bytes, bytes] = pairs(flat)

    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return None if value is None else value.decode("utf-8", "replace")

    def number(name: str) -> int | None:
        value = text(name)
        return None if value is None else int(value)

    def seconds(name: str) -> int | None:
        value = text(name)
        return None if value is None else parse_utc(value)

    if layout.CA_NAME.encode() not in fields:
        return None
    return CAInfo(
        ca=ca,
        name=text(layout.CA_NAME) or "",
        subject=text(layout.CA_SUBJECT) or "",
        certificate=fields.get(layout.CA_CERTIFICATE.encode(), b""),
        bits=number(layout.CA_BITS),
        as_of=seconds(layout.CA_AS_OF),
        cursor=text(layout.CA_CURSOR),
        loaded=number(layout.CA_LOADED),
        override=text(layout.CA_OVERRIDE),
        sha256_asked=seconds(layout.CA_SHA256_ASKED),
        source_until=seconds(layout.CA_SOURCE_UNTIL),
        lists_issued=text(layout.CA_LISTS) != layout.LISTS_REVOKED,
    )


def signer_record(flat: Sequence[bytes]) -> SignerRecord | None:
    """Read the reply of HGETALL on ``Layout.signer``."""
    fields: dict[bytes, bytes] = pairs(flat)
    template = fields.get(layout.SIGNER_TEMPLATE.encode())
    if template is None:
        return None
    return SignerRecord(template, fields.get(layout.SIGNER_CERTIFICATE.encode(), b""))


def answer_bucket(flat: Sequence[bytes]) -> AnswerBucket:
    """Read the reply of HGETALL on ``Layout.answers``."""
    fields: dict[bytes, bytes] = pairs(flat)
    headers = {
        slot: header for slot, name in enumerate(layout.HEADER_FIELDS) if (header := fields.pop(name, None)) is not None
    }
    return AnswerBucket(headers, fields)


def journal_entries(reply: Sequence[Any] | None) -> list[JournalEntry]:
    """Read the reply of XREAD on journals. An entry that nobody of ours wrote says ``*``: everything may have changed."""
    found: list[JournalEntry] = []
    for key, entries in reply or ():
        partition = int(key[key.index(b"{") + 1 : key.index(b"}")], 16)
        for entry_id, flat in entries:
            fields = pairs(flat or ())
            bucket, serials = fields.get(b"bucket", b"*"), fields.get(b"serials", b"*")
            try:
                found.append(
                    JournalEntry(
                        partition=partition,
                        number=int(entry_id.split(b"-")[0]),
                        ca=fields.get(b"ca", b"").decode(),
                        kind=fields.get(b"kind", b"").decode(),
                        bucket=None if bucket == b"*" else int(bucket, 16),
                        serials=None
                        if serials == b"*"
                        else tuple(bytes.fromhex(serial.decode()) for serial in serials.split()),
                    )
                )
            except ValueError:
                found.append(JournalEntry(partition, int(entry_id.split(b"-")[0]), "", "", None, None))
    return found


def last_number(reply: Any) -> int:
    """Read the reply of XINFO STREAM on a journal: the number of its last entry, 0 where there is no journal."""
    if isinstance(reply, Exception):
        return 0
    return int(pairs(reply)[b"last-generated-id"].split(b"-")[0])


def info_fields(reply: bytes) -> dict[str, str]:
    """Read the reply of INFO."""
    return dict(
        line.split(":", 1) for line in reply.decode("utf-8", "replace").splitlines() if ":" in line and line[0] != "#"
    )


# Of INFO: who answers, and whose history it holds.
RUN_COMMANDS = (("INFO", "server"), ("INFO", "replication"))


def run_id(server: bytes, replication: bytes) -> str:
    """Name a server's run and the history of writes that it holds, from the replies to RUN_COMMANDS.

    A primary that was demoted holds another's history from then on: in the same process, on the same connections.
    """
    return f"{info_fields(server)['run_id']}/{info_fields(replication)['master_replid']}"
