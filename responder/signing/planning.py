"""Which answers of a bucket are to be signed now, under which headers, and when the bucket is to be looked at again.

Pure: the presigner reads a bucket, asks here, signs and stores. A bucket's answers share at most 16 headers. Routine work
signs the whole bucket afresh, so that one header holds nearly all; what changed in between is signed alone, under a
free one: a revocation costs one signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastpath.ocsp_response import AnswerHeader, unpack_answer
from responder.model import CertStatus
from responder.signing.answers import Moment, Wanted
from responder.store.layout import DUE_ASKED_FOR, DUE_REVOKED, HEADER_SLOTS, NEVER_DUE
from responder.store.values import AnswerBucket

# A header's slot is not given to another this long after its signing, though no answer may name it: another presigner may
# be about to add one under the very same header, which a comparison of contents cannot tell from nobody.
SLOT_RESERVED_S = 60
MISSING_ALONE = 16  # missing answers that are signed with an urgent one
ALONE_SLOTS = 4  # a bucket whose answers want more headers than are free, or than this, is signed afresh


@dataclass(frozen=True, slots=True)
class Group:
    """Answers to be signed under one header in ``slot``."""

    slot: int
    header: AnswerHeader
    serials: list[bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one answers hash.

    ``afresh``: the first group is to replace the whole hash. ``next_due``: when to look again, if all is carried out.
    ``next_update``: the soonest one that will stand then; NEVER_DUE: no answer. ``unsigned``: how many cannot be signed.
    """

    groups: list[Group]
    afresh: bool
    next_due: float
    next_update: float
    unsigned: int


@dataclass(slots=True)
class _Stored:
    """An answers hash, read: the headers that can be read, and each answer's slot."""

    headers: dict[int, AnswerHeader] = field(default_factory=dict)
    slots: dict[bytes, int] = field(default_factory=dict)  # of answers that say what is wanted, by serial
    used: set[int] = field(default_factory=set)  # slots that any answer names


def plan_bucket(
    moment: Moment,
    wanted: Mapping[bytes, Wanted],
    seen: AnswerBucket,
    spread: float,
    only: frozenset[bytes] | None = None,
    *,
    score: float = NEVER_DUE,
    is_dual: bool = False,
) -> Plan:
    """Plan one answers hash. ``wanted`` has every serial that is to be answered for; ``seen`` is what stands.

    ``only``: sign none but these, and none of the others counts as missing; for a revocation's sake. ``score``: the
    claim's. Where it is urgent, what is missing comes first; what would only be refreshed is due at once, as routine work.
    ``is_dual``: the answers are to be dual ones, or are not; the other kind counts as missing.
    """
    stored = _read(wanted, seen, is_dual)
    stale_slots: dict[tuple[int, int, int], bool] = {}
    missing: list[bytes] = []
    stale: list[bytes] = []
    kept: set[int] = set()
    unsigned = 0
    for serial, want in wanted.items():
        slot = stored.slots.get(serial)
        if slot is None:
            if only is not None and serial not in only:
                continue
            if moment.can_sign(want):
                missing.append(serial)
            else:
                unsigned += 1
            continue
        key = (slot, want.this_update, want.next_update)
        if key not in stale_slots:
            header = stored.headers[slot]
            stale_slots[key] = moment.is_stale(
                want, header.signer_id, header.this_update, header.next_update, header.produced_at, spread
            )
        if stale_slots[key]:
            stale.append(serial)
        else:
            kept.add(slot)
            if stored.headers[slot].next_update <= moment.now:
                unsigned += 1
    puts_off = bool(stale) and (only is not None or (score <= DUE_ASKED_FOR and bool(missing)))
    if puts_off:
        kept |= {stored.slots[serial] for serial in stale}
        stale = []
    revoked = [serial for serial in missing if wanted[serial].cert_status == CertStatus.REVOKED]
    is_alone = score <= DUE_REVOKED and 0 < len(revoked) < len(missing) > MISSING_ALONE
    if is_alone:  # amid a first load: a revocation does not wait for, or cost, its whole bucket
        missing, puts_off = revoked, True
    if not missing and not stale:
        return _finished(moment, stored, [], kept, unsigned, spread, afresh=False, puts_off=puts_off)
    # With everything missing or half of it stale, one header for all is the better deal.
    if only is not None or is_alone or len(stored.slots) > 2 * len(stale):
        alone = _grouped(wanted, [*missing, *stale])
        slots = _free_slots(moment, stored, alone)
        if slots is not None:
            groups = [
                Group(slot, _header(moment, times), serials)
                for slot, (times, serials) in zip(slots, alone, strict=True)
            ]
            return _finished(moment, stored, groups, kept, unsigned, spread, afresh=False, puts_off=puts_off)
    everything = [serial for serial, want in wanted.items() if moment.can_sign(want)]
    fresh = _grouped(wanted, everything)
    groups = [Group(slot, _header(moment, times), serials) for slot, (times, serials) in enumerate(fresh)]
    return _finished(moment, stored, groups, set(), unsigned, spread, afresh=True)


def _read(wanted: Mapping[bytes, Wanted], seen: AnswerBucket, is_dual: bool) -> _Stored:
    stored = _Stored()
    for slot, data in seen.headers.items():
        try:
            stored.headers[slot] = AnswerHeader.from_bytes(data)
        except ValueError:
            continue  # another version's, or damaged: its answers are signed again
    for serial, packed in seen.answers.items():
        try:
            answer = unpack_answer(packed)
        except ValueError:
            continue
        stored.used.add(answer.slot)
        want = wanted.get(serial)
        if (
            want is not None
            and answer.slot in stored.headers
            and answer.cert_status == want.cert_status
            and answer.revoked_at == want.revoked_at
            and answer.reason == want.reason
            and answer.is_dual == is_dual
            and (answer.has_archive_cutoff or not want.expired)
        ):
            stored.slots[serial] = answer.slot
    return stored


Times = tuple[int, int]  # thisUpdate, nextUpdate


def _grouped(wanted: Mapping[bytes, Wanted], serials: list[bytes]) -> list[tuple[Times, list[bytes]]]:
    """Group serials by the times of their answers, the largest group first, into no more groups than headers."""
    groups: dict[Times, list[bytes]] = {}
    for serial in serials:
        want = wanted[serial]
        groups.setdefault((want.this_update, want.next_update), []).append(serial)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    while len(ordered) > HEADER_SLOTS:
        # Too many revocations dated ahead, each with its own nextUpdate: two share the earlier of their times, which is
        # as true of the other. The first group, which nearly all belong to, is left alone.
        rest = sorted(ordered[1:], key=lambda item: item[0][1])
        (one, ones), (other, others) = rest[-2], rest[-1]
        times = (min(one[0], other[0]), min(one[1], other[1]))
        ordered = [ordered[0], *rest[:-2], (times, ones + others)]
    return ordered


def _header(moment: Moment, times: Times) -> AnswerHeader:
    return AnswerHeader(times[0], times[1], moment.now, moment.signer_id, moment.archive_cutoff)


def _free_slots(moment: Moment, stored: _Stored, groups: list[tuple[Times, list[bytes]]]) -> list[int] | None:
    """Find a slot for each group: one that holds the very same header, else a free one. None: there are too few."""
    if len(groups) > ALONE_SLOTS:
        return None
    reserved = {slot for slot, header in stored.headers.items() if header.produced_at > moment.now - SLOT_RESERVED_S}
    free = [slot for slot in range(HEADER_SLOTS) if slot not in stored.used | reserved]
    same = {header.to_bytes(): slot for slot, header in stored.headers.items()}
    slots: list[int] = []
    for times, _ in groups:
        slot = same.get(_header(moment, times).to_bytes())
        if slot is None or slot in slots:
            if not free:
                return None
            slot = free.pop(0)
        elif slot in free:
            free.remove(slot)
        slots.append(slot)
    return slots


def _finished(
    moment: Moment,
    stored: _Stored,
    groups: list[Group],
    kept: set[int],
    unsigned: int,
    spread: float,
    *,
    afresh: bool,
    puts_off: bool = False,
) -> Plan:
    headers = [*(group.header for group in groups), *(stored.headers[slot] for slot in kept)]
    next_due: float = min(
        (moment.next_due(header.this_update, header.next_update, header.produced_at, spread) for header in headers),
        default=NEVER_DUE,
    )
    if puts_off:
        next_due = moment.now
    if unsigned:
        next_due = min(next_due, moment.recheck_at())
    next_update = min((header.next_update for header in headers), default=NEVER_DUE)
    return Plan(groups, afresh, next_due, next_update, unsigned)


def free_slot(seen: AnswerBucket, header: AnswerHeader) -> int | None:
    """Find a slot for one more header in an answers hash: one that holds the very same, else one that nothing uses."""
    used = {packed[0] & (HEADER_SLOTS - 1) for packed in seen.answers.values()}
    for slot, data in seen.headers.items():
        if data == header.to_bytes():
            return slot
        try:
            if AnswerHeader.from_bytes(data).produced_at > header.produced_at - SLOT_RESERVED_S:
                used.add(slot)
        except ValueError:
            continue
    return next((slot for slot in range(HEADER_SLOTS) if slot not in used), None)
