"""Names and encodings of everything in Redis: the only place that spells them.

Certificates live in buckets; a bucket is one status hash and one answers hash per CertID hash algorithm (the SHA-1 one
also has the dual answers, which speak of both: docs/adr/0009), and is the
unit of storage, scheduling and invalidation. A bucket's number is the low bits of SHA-256(serial's contents octets);
its low 4 bits are its partition, the Redis Cluster hash tag, within which one script changes everything at once.

A status hash also holds ``.bits``: the bucket with number n and bits b holds exactly the serials whose hash h has
``h & (2**b - 1) == n``. Absence of a serial may be believed only where ``.bits`` is there and says that the bucket is
the right one; a missing bucket means that the store cannot know (docs/redis-layout.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

PARTITIONS = 16
MIN_BITS = 4  # at least one bucket for each partition
MAX_BITS = 24  # 2**24 buckets of 128: two thousand million certificates
BUCKET_TARGET = 128  # entries of a bucket when it is made: packed hashes stay cheap up to 512 (DESIGN §5)
BUCKET_SPLIT_ABOVE = 256  # entries above which a bucket is split in two
# Hashes of the revoked index: fixed, so that they never need splitting; packed up to 16 million revoked (docs/adr/0018).
REVOKED_BITS = 14
# What CRLs are made of piece by piece, and ordered by (docs/adr/0013): a chunk lies in 2 ** (REVOKED_BITS - CHUNK_BITS) of those.
CHUNK_BITS = 12
HEADER_SLOTS = 16  # headers that one answers hash may hold: a packed answer names its own in four bits
BITS_FIELD = b".bits"
# X.690 §8.3.2: an INTEGER's first nine bits are never all zero, so no serial's contents octets begin with 00 2e, while
# a bare ".0" would be the serial 11824. redis-cli shows these fields as "\x00.0" to "\x00.f".
HEADER_FIELDS = tuple(f"\x00.{slot:x}".encode() for slot in range(HEADER_SLOTS))
STORED_HASHES = ("sha1", "sha256")  # CertID hash algorithms whose answers are stored; others are signed live

# What a journal entry may say happened (docs/redis-layout.md).
JournalKind = Literal["new", "revoked", "released", "changed", "purged", "signed", "split", "override"]
JOURNAL_MAXLEN = 10_000  # entries of a partition's journal, roughly: a follower this far behind forgets everything
JOURNAL_SERIALS = 16  # serials that one entry names; above that it says "*"
ALL = "*"  # every bucket of the CA in the partition, or every serial of the bucket
# Members of a changed set that are no serials, scored by journal numbers. A serial's own ends in LISTED_MARK besides where
# it was revoked at the cut of the base or of a CRL since: it may be listed there, and deltas have to say when that is over.
BASE_MEMBER = ".base"  # what every change is known since
CUT_MEMBER = ".cut"  # of the last CRL's cut, whether it was published or not
LISTED_MARK = "+"

# Scores of the due set below any real second: what must be signed before all routine work.
DUE_REVOKED = 0
DUE_ASKED_FOR = 1
NEVER_DUE = float("inf")  # a bucket that holds nothing to sign; it stays in the set, which names every bucket


def serial_hash(serial_octets: bytes) -> int:
    """Return the number whose low bits place a serial (its DER INTEGER contents octets)."""
    return int.from_bytes(hashlib.sha256(serial_octets).digest()[-4:], "big")


def bucket_number(hash_value: int, bits: int) -> int:
    """Return the number of the bucket that holds a serial hash at ``bits``."""
    return hash_value & ((1 << bits) - 1)


def could_hold(bucket: int, hash_value: int) -> bool:
    """Say whether a bucket of that number, at whatever bits, could hold a serial hash.

    A journal entry names a bucket's number and not its bits, and the bucket may have been split or made anew since.
    """
    bits = max(MIN_BITS, bucket.bit_length())
    return hash_value & ((1 << bits) - 1) == bucket


def partition_of(bucket: int) -> int:
    """Return the partition (0 to 15) of a bucket, or of a serial hash."""
    return bucket & (PARTITIONS - 1)


def ca_id(subject_der: bytes, public_key_octets: bytes) -> str:
    """Return the store's name of a CA: 16 hex digits of SHA-256(subject Name DER || subjectPublicKey bits)."""
    return hashlib.sha256(subject_der + public_key_octets).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Layout:
    """Key names under one prefix. Buckets are spelled in lower-case hex without leading zeros."""

    prefix: str = "rc:"

    def ca(self, ca: str) -> str:
        """Hash of one CA; its fields are the ``CA_*`` names of this module."""
        return f"{self.prefix}ca:{ca}"

    def status(self, ca: str, bucket: int) -> str:
        """Hash: serial in hex -> status text; and ``.bits``."""
        return f"{self.prefix}{{{bucket & 15:x}}}:status:{ca}:{bucket:x}"

    def answers(self, ca: str, bucket: int, hash_name: str) -> str:
        """Hash: ``HEADER_FIELDS`` -> header, serial's contents octets -> packed answer (fastpath.ocsp_response)."""
        return f"{self.prefix}{{{bucket & 15:x}}}:answers:{ca}:{bucket:x}:{hash_name}"

    def revoked(self, ca: str, hash_value: int) -> str:
        """Hash of the revoked alone: serial in hex -> status text; ``hash_value`` is ``serial_hash``."""
        return f"{self.prefix}{{{hash_value & 15:x}}}:revoked:{ca}:{hash_value & ((1 << REVOKED_BITS) - 1):x}"

    def changed(self, ca: str, partition: int) -> str:
        """Sorted set: serial in hex, scored by the journal number of its last change; and the ``*_MEMBER`` above.

        Only serials whose revocation changed, and only once a publisher has put ``BASE_MEMBER`` in, before it takes
        the cut of a first base.
        """
        return f"{self.prefix}{{{partition:x}}}:changed:{ca}"

    def due(self, partition: int) -> str:
        """Sorted set: ``<ca>:<bucket>``, scored by the second at which it must be signed again."""
        return f"{self.prefix}{{{partition:x}}}:due"

    def expiry(self, ca: str, partition: int) -> str:
        """Sorted set: bucket in hex, scored by the soonest nextUpdate of its answers; ``NEVER_DUE``: it has none.

        For the order of signing and for the operator alone; what an answer says is in its header.
        """
        return f"{self.prefix}{{{partition:x}}}:expiry:{ca}"

    def journal(self, partition: int) -> str:
        """Stream whose entry ids are ``<n>-0`` with n gapless from 1."""
        return f"{self.prefix}{{{partition:x}}}:journal"

    def override(self, ca: str, partition: int) -> str:
        """String: status text that holds for every certificate of the CA (RFC 6960 §2.7); usually absent."""
        return f"{self.prefix}{{{partition:x}}}:override:{ca}"

    def crl(self, ca: str) -> str:
        """Hash of a CA's CRLs: its fields are the ``CRL_*`` names of this module."""
        return f"{self.prefix}crl:{ca}"

    def crl_lease(self, ca: str) -> str:
        """String with an end: who issues or mirrors the CA's CRLs just now."""
        return f"{self.prefix}crl:{ca}:lease"

    def crl_body(self, ca: str, sha256: str, number: int) -> str:
        """String: so many-th ``CRL_BODY_CHUNK`` octets of the CRL with that SHA-256 (hex), counted from 0."""
        return f"{self.prefix}crl:{ca}:body:{sha256}:{number}"

    def signer(self, signer_id: str) -> str:
        """Hash of one answer signer: what puts its answers together (``SIGNER_*`` fields)."""
        return f"{self.prefix}signer:{signer_id}"

    def audit(self, machine: str) -> str:
        """Hash: audit log of a machine -> ``<number> <time> <hash>`` of the last line known to be on its disk."""
        return f"{self.prefix}audit:{machine}"

    def ask(self) -> str:
        """Stream of questions to the presigning role."""
        return f"{self.prefix}live:ask"

    def replies(self, worker_id: str) -> str:
        """Stream of the presigning role's answers to one worker."""
        return f"{self.prefix}live:reply:{worker_id}"


def due_member(ca: str, bucket: int) -> str:
    """Spell a bucket as a member of the due set."""
    return f"{ca}:{bucket:x}"


def parse_due_member(member: str) -> tuple[str, int]:
    """Read what ``due_member`` wrote."""
    ca, bucket = member.split(":")
    return ca, int(bucket, 16)


# Fields of rc:ca:<ca>. Times are spelled 2026-11-20T10:00:00Z for the operator's eyes.
CA_NAME = "name"  # the config's name
CA_SUBJECT = "subject"  # RFC 4514 text, for people
CA_CERTIFICATE = "certificate"  # DER
CA_BITS = "bits"  # readers' first guess of a bucket's bits: the deepest in use
CA_AS_OF = "as_of"  # the source's state is known as of this second; absent until the first whole load is in
CA_OVERRIDE = "override"  # copy of the override, for people; the partitions' own keys decide
CA_SETTLED = "settled"  # "yes"; written only to have replicas report (Store.settle)
CA_SOURCE_UNTIL = (
    "source_until"  # the source itself says that it holds no longer (a CRL's nextUpdate); absent: it does not
)
LISTS_ISSUED, LISTS_REVOKED = "issued", "revoked"
CA_LISTS = "lists"  # what the source lists: "issued" certificates or only "revoked" ones; absent: issued
CA_LOADED = "loaded"  # rows of the last full pass
CA_CURSOR = "cursor"  # the loader's own, opaque
CA_CERTID = "certid"  # ocsp.certid, as the presigner last found it: another one makes every bucket due
CA_SHA256_ASKED = "sha256_asked"  # when a SHA-256 CertID was last asked for: its answers are kept up while recent

# Fields of rc:crl:<ca>. Those that end in a colon are followed by the slot: full, delta, a shard's number, or that with -delta.
CRL_NUMBER = "number"  # the cRLNumber that was given away last, decimal: every CRL of the CA has a greater one
CRL_SHARDS = "shards"  # fixed for ever by the first publication
CRL_ENDED = "ended"  # the last CRL was issued, at this time: no number is given away again
CRL_PUBLISHED = "published:"  # JSON of the CRL that is published
CRL_REGULAR = "regular:"  # thisUpdate of the last complete CRL that was issued by schedule
CRL_LET_GO = "let_go:"  # the complete CRL left out the certificates that had expired before; with none left out, 1970
CRL_BASE = "base:"  # JSON: at which journal numbers the complete CRL was cut, for delta CRLs
CRL_BODY_CHUNK = 1 << 20  # octets: Redis and workers are never busy with one for more than a millisecond

# Fields of rc:signer:<id>; <id> = first 16 hex digits of SHA-256(responder certificate DER || template bytes).
SIGNER_TEMPLATE = "template"  # fastpath.ocsp_response.ResponseTemplate bytes
SIGNER_CERTIFICATE = "certificate"  # DER, for people and for checks
