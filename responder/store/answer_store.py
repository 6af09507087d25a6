"""The store's answers: what is due, who signs it, where it is kept, and the streams of live questions and replies.

For the presigning role. Called through redis_store.Store alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from responder.store import layout, scripts, values
from responder.store.link import Command
from responder.store.store_base import BULK_BUCKETS, PARTITIONS, StoreBase, batches, made_or_conflict, score_text
from responder.store.values import AnswerBucket, Claim, SignedAnswer, SignerRecord


class AnswerStore(StoreBase):
    """Due buckets, answers and signers."""

    # --- due buckets and answers: the presigner ---------------------------------------------------------------------

    def claim_due(self, partitions: Iterable[int], now: float, lease_s: float, limit: int) -> list[Claim]:
        """Claim up to ``limit`` buckets that are due at ``now``, the most urgent first.

        A claim that is not finished comes due again at ``now + lease_s``.
        """
        partitions = list(partitions)
        peeks = [
            ("ZRANGEBYSCORE", self.layout.due(p), "-inf", score_text(now), "WITHSCORES", "LIMIT", 0, limit)
            for p in partitions
        ]
        waiting = [
            (float(score), p, member)
            for p, flat in zip(partitions, self._read(peeks), strict=True)
            for member, score in values.pairs(flat).items()
        ]
        chosen = sorted(waiting)[:limit]
        if not chosen:
            return []
        lease = now + lease_s
        by_partition = [(p, [one for one in chosen if one[1] == p]) for p in sorted({one[1] for one in chosen})]
        commands = [
            (
                *("EVALSHA", scripts.CLAIM.sha, 1, self.layout.due(p), score_text(lease)),
                *itertools.chain.from_iterable((member, score_text(score)) for score, _, member in mine),
            )
            for p, mine in by_partition
        ]
        claims: list[Claim] = []
        for (_, mine), won in zip(by_partition, self._run(commands, scripts.CLAIM), strict=True):
            for (score, _, member), is_mine in zip(mine, won, strict=True):
                if is_mine:
                    claims.append(Claim(*layout.parse_due_member(member.decode()), score, lease))
        return sorted(claims, key=lambda claim: claim.score)

    def finish_claim(self, claim: Claim, next_due: float) -> bool:
        """Say when a claimed bucket is due again; False: it came due meanwhile, and stays so."""
        due, member = self.layout.due(layout.partition_of(claim.bucket)), layout.due_member(claim.ca, claim.bucket)
        command = ("EVALSHA", scripts.FINISH.sha, 1, due, member, score_text(claim.lease), score_text(next_due))
        return bool(self._run([command], scripts.FINISH)[0])

    def make_due(self, ca: str, bucket: int, at: float) -> None:
        """Bring a bucket's due time forward to ``at``; never back."""
        due, member = self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket)
        self._link.call("ZADD", due, "XX", "LT", score_text(at), member)

    def due_at(self, ca: str, bucket: int) -> float | None:
        """Return a bucket's score in the due set; None: it is not there."""
        score = self._link.call("ZSCORE", self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket))
        return None if score is None else float(score)

    def due_counts(self, now: float) -> tuple[int, int]:
        """Return how many buckets are due at ``now``, and how many of these for a revocation."""
        due = self._read([("ZCOUNT", self.layout.due(p), "-inf", score_text(now)) for p in PARTITIONS])
        urgent = self._read([("ZCOUNT", self.layout.due(p), "-inf", layout.DUE_REVOKED) for p in PARTITIONS])
        return sum(due), sum(urgent)

    def finish_claims(self, finished: Sequence[tuple[Claim, float]]) -> None:
        """Finish claims in one round trip, as ``finish_claim`` does each."""
        commands = [
            (
                *("EVALSHA", scripts.FINISH.sha, 1, self.layout.due(layout.partition_of(claim.bucket))),
                *(layout.due_member(claim.ca, claim.bucket), score_text(claim.lease), score_text(next_due)),
            )
            for claim, next_due in finished
        ]
        if commands:
            self._run(commands, scripts.FINISH)

    def due_slice(self, partition: int, first: int, count: int) -> list[tuple[str, int]]:
        """Return (CA, bucket) of ``count`` buckets of a partition from rank ``first``, the soonest due first."""
        members = self._link.call("ZRANGE", self.layout.due(partition), first, first + count - 1) if count > 0 else []
        return [layout.parse_due_member(member.decode()) for member in members]

    def read_headers(self, places: Sequence[tuple[str, int]], hash_name: str) -> list[list[bytes]]:
        """Return the headers of answers hashes, named by (CA, bucket)."""
        replies = self._read(
            [("HMGET", self.layout.answers(ca, bucket, hash_name), *layout.HEADER_FIELDS) for ca, bucket in places]
        )
        return [[header for header in reply if header is not None] for reply in replies]

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
        for answer in answers:
            arguments += (answer.serial_octets, answer.serial_octets.hex(), answer.status_text, answer.packed)
        command = ("EVALSHA", scripts.PUT_ANSWERS.sha, len(keys), *keys, *arguments)
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

    # --- streams of live questions and answers (responder/live.py) ------------------------------------------------------

    def xadd(self, key: str, fields: Mapping[Any, Any], *, maxlen: int, expire_s: int | None = None) -> None:
        """Add an entry to a stream that keeps about ``maxlen``, and vanishes when unused for ``expire_s``."""
        flat = itertools.chain.from_iterable(fields.items())
        commands: list[Command] = [("XADD", key, "MAXLEN", "~", maxlen, "*", *flat)]
        if expire_s is not None:
            commands.append(("EXPIRE", key, expire_s))
        self._read(commands)

    def xread(self, key: str, after: bytes | str, count: int = 100) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries (id, fields) after an id, without waiting."""
        return _entries(self._link.call("XREAD", "COUNT", count, "STREAMS", key, after))

    def xreadgroup(
        self, key: str, group: str, consumer: str, *, count: int = 100, block_ms: int | None = None
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries that no consumer of the group has seen, making stream and group if need be.

        ``block_ms``: how long to wait for one, at most a second or so (this connection is blocked meanwhile).
        """
        block = () if block_ms is None else ("BLOCK", block_ms)
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">")
        reply = self._link.pipeline([command])[0]
        if isinstance(reply, Exception) and "NOGROUP" in str(reply):
            self._link.pipeline([("XGROUP", "CREATE", key, group, "0", "MKSTREAM")])
            reply = self._link.pipeline([command])[0]
        return _entries(self._link.good(reply))

    def xack(self, key: str, group: str, ids: Sequence[bytes]) -> None:
        """Say that a group is done with entries."""
        if ids:
            self._link.call("XACK", key, group, *ids)


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry, values.pairs(flat or ())) for _, entries in reply or () for entry, flat in entries]
