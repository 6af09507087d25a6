"""The store's answers: what is due, who signs it, and where it is kept.

For the presigning role. Called through redis_store.Store alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import hiredis

from fastpath.redis_commands import pack_answer_writes
from responder.store import layout, scripts, values
from responder.store.link import Command
from responder.store.store_base import BULK_BUCKETS, PARTITIONS, StoreBase, batches, made_or_conflict, score_text
from responder.store.values import AnswerBucket, Claim, Finished, SignedAnswer, SignerRecord

LOOK_MOST = 128  # buckets of a partition whose answers run out first that are looked at for one claim, over all CAs
LOOK_LEAST = 16  # the same, of each CA

# A due bucket in the order of its claim: class of urgency, nextUpdate, score, partition, member of the due set.
_Candidate = tuple[float, float, float, int, bytes]


class AnswerStore(StoreBase):
    """Due buckets, answers and signers."""

    # --- due buckets and answers: the presigner ---------------------------------------------------------------------

    def claim_due(
        self, partitions: Iterable[int], now: float, lease_s: float, limit: int, cas: Sequence[str] = ()
    ) -> list[Claim]:
        """Claim up to ``limit`` buckets that are due at ``now``, the most urgent first; none: there are none.

        Revocations, what was asked for, then those whose answers run out first, and at last those that have none yet.
        Of other CAs than ``cas`` it is not known when answers run out. A claim that is not finished comes due again at
        ``now + lease_s``.
        """
        look = max(LOOK_LEAST, limit, LOOK_MOST // max(1, len(cas)))
        peeks: dict[int, Command] = {}
        for p in partitions:
            keys = (self.layout.due(p), *(self.layout.expiry(ca, p) for ca in cas))
            peeks[p] = ("EVALSHA", scripts.PEEK.sha, len(keys), *keys, score_text(now), limit, look, *cas)
        # Where others were quicker with every one of them, they have the work: it is looked for again.
        while chosen := self._most_urgent(peeks, limit):
            if claims := self._win(chosen, now + lease_s):
                return claims
        return []

    def _most_urgent(self, peeks: Mapping[int, Command], limit: int) -> list[_Candidate]:
        waiting: list[_Candidate] = []
        for p, reply in zip(peeks, self._run(list(peeks.values()), scripts.PEEK), strict=True):
            for member, sent, next_update in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
                score = float(sent)
                waiting.append((min(score, layout.DUE_ASKED_FOR + 1), float(next_update), score, p, member))
        return sorted(waiting)[:limit]

    def _win(self, chosen: Sequence[_Candidate], lease: float) -> list[Claim]:
        by_partition = {p: [one for one in chosen if one[3] == p] for p in sorted({one[3] for one in chosen})}
        commands = [
            (
                *("EVALSHA", scripts.CLAIM.sha, 1, self.layout.due(p), score_text(lease)),
                *itertools.chain.from_iterable((member, score_text(score)) for *_, score, _, member in mine),
            )
            for p, mine in by_partition.items()
        ]
        won = {
            one
            for mine, replies in zip(by_partition.values(), self._run(commands, scripts.CLAIM), strict=True)
            for one, is_mine in zip(mine, replies, strict=True)
            if is_mine
        }
        return [Claim(*layout.parse_due_member(one[4].decode()), one[2], lease) for one in chosen if one in won]

    def finish_claim(self, claim: Claim, next_due: float, next_update: float | None = None) -> bool:
        """Say when a claimed bucket is due again; False: it came due meanwhile, and stays so."""
        return self.finish_claims([Finished(claim, next_due, next_update)])[0]

    def finish_claims(self, finished: Iterable[Finished]) -> list[bool]:
        """Finish claims in one round trip, as ``finish_claim`` does each."""
        commands: list[Command] = []
        for claim, next_due, next_update in finished:
            partition = layout.partition_of(claim.bucket)
            keys = (self.layout.due(partition), self.layout.expiry(claim.ca, partition))
            times = (layout.due_member(claim.ca, claim.bucket), score_text(claim.lease), score_text(next_due))
            until = "" if next_update is None else score_text(next_update)
            commands.append(("EVALSHA", scripts.FINISH.sha, len(keys), *keys, *times, f"{claim.bucket:x}", until))
        return [bool(done) for done in self._run(commands, scripts.FINISH)] if commands else []

    def make_due(self, ca: str, bucket: int, at: float) -> None:
        """Bring a bucket's due time forward to ``at``; never back."""
        due, member = self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket)
        self._link.call("ZADD", due, "XX", "LT", score_text(at), member)

    def take_up_certid(self, ca: str, certid: str, at: float) -> str | None:
        """Make every bucket of a CA due at ``at`` where its answers were last made with other CertIDs.

        Returns the configuration's word for those others; None: nothing has changed.
        """
        before = self._link.call("HGET", self.layout.ca(ca), layout.CA_CERTID)
        if before == certid.encode():
            return None
        start = f"{ca}:".encode()
        for p in PARTITIONS if before is not None else ():
            members = self._link.call("ZRANGE", self.layout.due(p), 0, -1)
            for batch in batches((member for member in members if member.startswith(start)), BULK_BUCKETS):
                scored = itertools.chain.from_iterable((score_text(at), member) for member in batch)
                self._link.call("ZADD", self.layout.due(p), "XX", "LT", *scored)
        # Last: cut short before, it is done again.
        self._link.call("HSET", self.layout.ca(ca), layout.CA_CERTID, certid)
        return None if before is None else before.decode()

    def due_at(self, ca: str, bucket: int) -> float | None:
        """Return a bucket's score in the due set; None: it is not there."""
        score = self._link.call("ZSCORE", self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket))
        return None if score is None else float(score)

    def due_counts(self, now: float) -> tuple[int, int]:
        """Return how many buckets are due at ``now``, and how many of these for a revocation."""
        due = self._read([("ZCOUNT", self.layout.due(p), "-inf", score_text(now)) for p in PARTITIONS])
        urgent = self._read([("ZCOUNT", self.layout.due(p), "-inf", layout.DUE_REVOKED) for p in PARTITIONS])
        return sum(due), sum(urgent)

    def soonest_next_updates(self, cas: Sequence[str]) -> dict[str, float]:
        """Return when the first of each CA's answers runs out; without the CAs that have none."""
        names = [(ca, p) for ca in cas for p in PARTITIONS]
        commands = [("ZRANGE", self.layout.expiry(ca, p), 0, 0, "WITHSCORES") for ca, p in names]
        soonest: dict[str, float] = {}
        for (ca, _), first in zip(names, self._link.pipeline(commands), strict=True):
            # A worker on Redis 6.2 can put a stream there while no key has the name; whoever finishes a claim puts it right.
            at = float(first[1]) if first and not isinstance(first, Exception) else layout.NEVER_DUE
            if at < soonest.get(ca, layout.NEVER_DUE):
                soonest[ca] = at
        return soonest

    def due_slice(self, partition: int, first: int, count: int) -> list[tuple[str, int]]:
        """Return (CA, bucket) of ``count`` buckets of a partition from rank ``first``, the soonest due first."""
        members = self._link.call("ZRANGE", self.layout.due(partition), first, first + count - 1) if count > 0 else []
        return [layout.parse_due_member(member.decode()) for member in members]

    def bucket_sizes(self, places: Sequence[tuple[str, int]]) -> list[int]:
        """Return how many certificates are in buckets, named by (CA, bucket)."""
        replies = self._read([("HLEN", self.layout.status(ca, bucket)) for ca, bucket in places])
        return [max(0, size - 1) for size in replies]  # one field is .bits

    def read_answer_bucket(self, ca: str, bucket: int, hash_name: str) -> AnswerBucket:
        """Read a whole answers hash; empty where there is none."""
        return self.read_answer_buckets(ca, [bucket], hash_name)[0]

    def read_answer_buckets(self, ca: str, buckets: Sequence[int], hash_name: str) -> list[AnswerBucket]:
        """Read whole answers hashes."""
        found: list[AnswerBucket] = []
        for batch in batches(buckets, BULK_BUCKETS):
            replies = self._read([("HGETALL", self.layout.answers(ca, bucket, hash_name)) for bucket in batch])
            found += map(values.answer_bucket, replies)
        return found

    def put_answers(
        self,
        ca: str,
        bucket: int,
        hash_name: str,
        slot: int,
        header: bytes,
        answers: Sequence[SignedAnswer],
        *,
        seen: AnswerBucket,
        override: str | None = None,
        replace: bool = False,
    ) -> int:
        """Store answers under ``header`` in ``slot``; returns how many: those whose status text still stands.

        ``replace``: they become the whole hash; else they join it, and ``slot`` must be one that no answer of ``seen``
        uses. ``seen``: the hash as it was read before signing; ``override``: the override that was signed. Raises
        CommitConflict where another presigner changed the headers meanwhile, or the override changed: read again.
        """
        return self.send_answers(
            ca, bucket, hash_name, slot, header, answers, seen=seen, override=override, replace=replace
        )()

    def send_answers(
        self,
        ca: str,
        bucket: int,
        hash_name: str,
        slot: int,
        header: bytes,
        answers: Sequence[SignedAnswer],
        *,
        seen: AnswerBucket,
        override: str | None = None,
        replace: bool = False,
    ) -> Callable[[], int]:
        """As ``put_answers``, without waiting for Redis: what is returned waits, and returns or raises what that does."""
        partition = layout.partition_of(bucket)
        keys = (self.layout.answers(ca, bucket, hash_name), self.layout.journal(partition))
        arguments: list[Any] = [
            *(self.layout.status(ca, bucket), self.layout.override(ca, partition), override or ""),
            *(ca, f"{bucket:x}", "1" if replace else "0", layout.HEADER_FIELDS[slot], header),
            *(seen.headers.get(number, b"") for number in range(layout.HEADER_SLOTS)),
        ]
        head = ("EVALSHA", scripts.PUT_ANSWERS.sha, len(keys), *keys, *arguments)
        count = b"*%d" % (len(head) + 4 * len(answers))
        packed_head = hiredis.pack_command(head)
        command = count + packed_head[packed_head.index(b"\r") :] + pack_answer_writes(list(answers))
        finish = self._link.send_scripts([command], [scripts.PUT_ANSWERS])
        return lambda: made_or_conflict(self._link.good(finish()[0]), ca, bucket)[1]

    def drop_answers(self, ca: str, bucket: int, hash_name: str) -> None:
        """Drop a whole answers hash: nobody has asked for its kind for long."""
        self._link.call("DEL", self.layout.answers(ca, bucket, hash_name))

    def put_signer(self, signer_id: str, template: bytes, certificate: bytes) -> None:
        """Store what workers need to put a signer's answers together: before its first answer."""
        fields = (layout.SIGNER_TEMPLATE, template, layout.SIGNER_CERTIFICATE, certificate)
        self._link.call("HSET", self.layout.signer(signer_id), *fields)

    def get_signer(self, signer_id: str) -> SignerRecord | None:
        """Return a signer's record."""
        return values.signer_record(self._link.call("HGETALL", self.layout.signer(signer_id)))
