"""What a live answer says: from a question and the statuses of its serials to the message that is signed.

RFC 6960 §2.2 and §4.2, RFC 9919 §3.2.1, RFC 9654. Knows no store and no queue. Called by live.py, for each question of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastpath.ocsp_response import EXTENDED_REVOKE_DER, encode_response_extension_nonce
from responder.live import Question, ReplyKind
from responder.log import get_logger
from responder.model import CertStatus
from responder.signing.answers import NO_TIME, Moment, Wanted
from responder.signing.desk import Desk
from responder.store.layout import STORED_HASHES

log = get_logger(__name__)


class Waiting(NamedTuple):
    """A question, whom to reply to, and when it is void (on the monotonic clock)."""

    worker: str
    question: Question
    void_at: float


class Draft(NamedTuple):
    """What is to be signed for one question. ``texts``: the statuses of its serials, which must be the same afterwards."""

    place: int  # in the slice
    waiting: Waiting
    moment: Moment
    texts: list[str | None]
    bucket: int  # of the first serial
    singles: list[Wanted]
    message: bytes

    @property
    def times(self) -> tuple[int, int, int, int]:
        """thisUpdate, nextUpdate, producedAt, archiveCutoff of an answer with one CertID."""
        return (*self.singles[0][-2:], self.moment.now, self.moment.archive_cutoff)

    @property
    def may_be_kept(self) -> bool:
        """The worker may give it to others until the journal names its bucket."""
        return _may_be_kept(self.waiting.question, self.texts, self.singles)


def draft_answer(
    desk: Desk, moment: Moment, place: int, one: Waiting, texts: list[str | None], bucket: int
) -> Draft | ReplyKind:
    """Decide what one question's answer says, or how it ends without one."""
    question = one.question
    if question.nonce_octets is not None and len(texts) == 1 and texts[0] is not None:
        draft = draft_usual(desk, moment, place, one, texts, texts[0], question.nonce_octets, bucket)
        if draft is not None:
            return draft
    try:
        known = [moment.wanted(text) if text is not None else None for text in texts]
    except ValueError as error:
        log.error("status_not_understood", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    singles: list[Wanted] = []
    extensions: list[bytes] = []
    for text, want in zip(texts, known, strict=True):
        if want is None and text is None:
            want = moment.override_for_unassigned()
            if want is None and moment.terms.unassigned == "revoked":
                # RFC 6960 §4.4.8: the extension says that this responder answers so for serials not issued.
                want = moment.extended_revoke()
                extensions = [EXTENDED_REVOKE_DER]
            elif want is None and moment.terms.unassigned == "unknown":
                want = moment.unknown()
            elif want is None and moment.terms.unassigned == "good":
                want = moment.good_unlisted()
        if want is None and any(known):
            # RFC 9919 §3.2.1: the most complete response possible; of this one nothing is known, or no longer.
            want = moment.unknown()
        if want is None:
            return ReplyKind.UNAUTHORIZED
        if not moment.can_sign(want):
            return ReplyKind.TRY_LATER
        singles.append(want)
    if question.nonce_octets is not None:
        try:
            extensions.insert(0, encode_response_extension_nonce(question.nonce_octets))
        except ValueError:
            return ReplyKind.TRY_LATER  # no worker of ours lets such a nonce through
    cutoff = moment.archive_cutoff
    is_dual = desk.is_dual and _may_be_kept(question, texts, singles)
    try:
        encoded = [
            desk.single_response(
                hash_name,
                serial,
                want,
                (want.this_update, want.next_update, moment.now, cutoff if want.has_archive_cutoff else NO_TIME),
            )
            for serial, want in zip(question.serials, singles, strict=True)
            for hash_name in (STORED_HASHES if is_dual else (question.hash_name,))
        ]
        message = desk.signer.template.tbs_response_data(encoded, moment.now, extensions)
    except ValueError as error:
        log.error("live_answer_not_encoded", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    return Draft(place, one, moment, texts, bucket, singles, message)


def draft_usual(
    desk: Desk,
    moment: Moment,
    place: int,
    one: Waiting,
    texts: list[str | None],
    text: str,
    nonce_octets: bytes,
    bucket: int,
) -> Draft | None:
    """As ``draft_answer`` does it, in less time, for one certificate with a nonce; None where anything is out of the way."""
    question, issuer = one.question, desk.issuer
    hash_name = question.hash_name
    try:
        want = moment.wanted(text)
        if want is None or not moment.can_sign(want):
            return None
        message = desk.signer.template.nonce_answer(
            hash_name,
            issuer.name_hashes[hash_name],
            issuer.key_hashes[hash_name],
            question.serials[0],
            want,
            moment.now,
            moment.archive_cutoff if want.has_archive_cutoff else NO_TIME,
            nonce_octets,
        )
    except ValueError:
        return None  # told of by draft_answer, which meets it too
    return Draft(place, one, moment, texts, bucket, [want], message)


def _may_be_kept(question: Question, texts: Sequence[str | None], singles: Sequence[Wanted]) -> bool:
    """RFC 6960 §4.4.1: an answer with a nonce is for nobody else; one for an unassigned serial is true today only.

    But for good, where the source lists no issued ones: the journal will name the serial once it is revoked.
    """
    return (
        question.nonce_octets is None
        and len(question.serials) == 1
        and question.hash_name in STORED_HASHES
        and (texts[0] is not None or singles[0].cert_status == CertStatus.GOOD)
    )
