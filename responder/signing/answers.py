"""What is to be signed, and when: from a status and the times to a SingleResponse's values, in pure functions.

RFC 6960 §2.4 (times), §4.4.4 (archiveCutoff), §2.7 (a CA's key compromised); Mozilla policy §6 (nextUpdate and the signer's
end); BR §4.9.9 and Microsoft TRP 3.2.2 (when to refresh). Knows no store, no key and no clock: the presigner and the
live signing role pass ``now`` in. Times are POSIX seconds UTC, whole.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

from responder.clock import format_utc
from responder.config import DAY_S
from responder.issuers import Issuer
from responder.model import CertStatus, CRLReason, Status

GOLDEN_RATIO_2_64 = 0x9E3779B97F4A7C15  # its fraction, times 2**64
NO_REASON = -1
NO_TIME = -1
# Of the age at which an answer must have been replaced (``age_limit``): each bucket is signed afresh once in REFRESH_PERIOD,
# at a moment of its own, so that load is flat from the first day (ADR 10). What is left up to REFRESH_AGE makes up for a source
# that lags a little; the rest is time to sign.
REFRESH_AGE = 31 / 32
REFRESH_PERIOD = 28 / 32
REFRESH_HALVINGS = 6  # of the period, where the source lags more than a little
CLOCK_TOLERANCE_S = 2  # how far clocks may be apart before somebody's is wrong
# BR §4.9.9 wants an authoritative answer within 15 minutes of a certificate's issue, so "unknown" is not for longer.
UNKNOWN_VALIDITY_S = 900
RECHECK_LEAST_S = 2  # how soon a bucket is looked at again that could not be signed
RECHECK_MOST_S = 3_600
SIGNER_RECHECK_S = 300  # the same, where the next signer certificate is waited for

_PLAIN_GOOD_CHARS = len("good exp=2026-11-20T10:00:00Z")
# RFC 5280 §5.3.1: unspecified is left out, 7 is not used; removeFromCRL never gets here (see Moment._decide).
_SHOWN_REASONS = frozenset(CRLReason) - {CRLReason.UNSPECIFIED, CRLReason.REMOVE_FROM_CRL}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a CA's configuration says about its answers. Durations in seconds."""

    validity: int
    retention: int
    archive_cutoff: Literal["none", "retention", "issuer"]
    issuer_not_before: int
    unassigned: Literal["unauthorized", "unknown", "revoked", "good"]
    profile: Literal["webpki", "etsi", "private"] = "webpki"

    @property
    def age_limit(self) -> int:
        """The age (from thisUpdate) at which an answer must have been replaced, by the strictest of the profile's rules."""
        # Microsoft TRP 3.2.2 wants it at half of the validity, and so does BR §4.9.9 below 16 hours; above, BR's eight hours
        # before nextUpdate are no earlier than half. For the others half is what leaves time to mend what fails.
        half = self.validity // 2
        # BR §4.9.9 and Mozilla policy §6: every four days. ETSI's web certificates are under the BR too.
        return half if self.profile == "private" else min(half, 4 * DAY_S)

    @classmethod
    def of(cls, issuer: Issuer) -> Terms:
        """Read the terms of a CA."""
        config = issuer.config
        return cls(
            validity=config.ocsp.validity,
            retention=config.retention,
            archive_cutoff=config.ocsp.archive_cutoff,
            issuer_not_before=issuer.not_before,
            unassigned=config.ocsp.unassigned,
            profile=config.profile,
        )


class Wanted(NamedTuple):
    """What a SingleResponse shall say. ``revoked_at`` 0 and ``reason`` -1 unless revoked.

    ``expired``: the certificate has run out already, so archiveCutoff must not be missing; ``has_archive_cutoff`` is set
    earlier, for one that runs out before the answer does.
    """

    cert_status: int
    revoked_at: int
    reason: int
    has_archive_cutoff: bool
    expired: bool
    this_update: int
    next_update: int


class Moment:
    """The rules of one CA at one second: what its answers shall say, and whether those that exist still do.

    ``as_of`` was read before the statuses. ``latest_next_update`` is the end of the certificates in the answer.
    ``signer_id`` names the signer that would sign now. ``override``: status text that holds for the whole CA.
    """

    def __init__(
        self,
        terms: Terms,
        now: int,
        as_of: int,
        latest_next_update: int,
        signer_id: str,
        override: str | None = None,
    ) -> None:
        self.terms = terms
        self.now = now
        self.latest_next_update = latest_next_update
        self.signer_id = signer_id
        self.override = override
        # RFC 6960 §2.4: thisUpdate is the latest time at which the status was known to be correct. Never later than
        # as_of, and never in the future where the source's clock runs a little ahead of ours.
        self.as_of = min(as_of, now)
        # Where the source's state is about to be refreshed itself, what we know first-hand rides with it.
        self._as_of_is_young = now < self.as_of + terms.validity // 4
        self._override = Status.from_text(override) if override else None
        if self._override is not None:
            _check_time(self._override)
        self._good = Wanted(
            CertStatus.GOOD, 0, NO_REASON, False, False, self.as_of, self._next_update(self.as_of, None)
        )
        # ISO dates sort as text: most certificates are good and outlive their answer, and need no parsing.
        self._outlives_answer = "good exp=" + format_utc(max(self._good.next_update, now))

    @property
    def archive_cutoff(self) -> int:
        """The archiveCutoff of answers signed now; -1: none are to have one."""
        match self.terms.archive_cutoff:
            case "retention":
                # RFC 6960 §4.4.4: producedAt minus the retention interval.
                return max(0, self.now - self.terms.retention)
            case "issuer":
                # EN 319 411-2 CSS-6.3.10-10: the CA certificate's notBefore.
                return self.terms.issuer_not_before
            case "none":
                return NO_TIME

    def wanted(self, text: str) -> Wanted | None:
        """Return what an answer shall say for a status text; None: the certificate is past its retention.

        It can be signed only if ``can_sign``. Raises ValueError for a text that is no status.
        """
        if (
            len(text) == _PLAIN_GOOD_CHARS
            and self._override is None
            and text > self._outlives_answer
            and text.startswith("good exp=")
        ):
            return self._good
        return self._decide(Status.from_text(text))

    def _decide(self, status: Status) -> Wanted | None:
        now, not_after = self.now, status.not_after
        if not_after is not None and not_after + self.terms.retention <= now:
            return None
        takes_effect: int | None = None
        if self._override is not None:
            if self._override.at(now) is CertStatus.REVOKED:
                # RFC 6960 §2.7: the CA's key is compromised, so what the CA says of one certificate no longer counts.
                status = self._override
            else:
                takes_effect = self._override.revoked_at
        cert_status, revoked_at, reason = CertStatus.GOOD, 0, NO_REASON
        # RFC 5280 §5.3.1: removeFromCRL tells that a certificate is no longer revoked; an answer cannot show it.
        if status.cert_status is CertStatus.REVOKED and status.reason is not CRLReason.REMOVE_FROM_CRL:
            assert status.revoked_at is not None  # noqa: S101 - Status.from_text sees to it
            _check_time(status)
            if status.revoked_at > now:
                takes_effect = min(status.revoked_at, takes_effect or status.revoked_at)
            else:
                cert_status, revoked_at = CertStatus.REVOKED, status.revoked_at
                if status.reason in _SHOWN_REASONS:
                    reason = int(status.reason)
        this_update = self.as_of
        first_hand = cert_status is CertStatus.REVOKED and (status.by_operator or status is self._override)
        if first_hand and not (self._as_of_is_young and self.as_of >= revoked_at):
            this_update = now
        next_update = self._next_update(this_update, takes_effect)
        # An answer that outlives its certificate must serve for the expired one too: it is not signed again for that.
        ends_before_answer = not_after is not None and not_after <= max(next_update, now)
        return Wanted(
            int(cert_status),
            revoked_at,
            reason,
            ends_before_answer and self.archive_cutoff != NO_TIME,
            not_after is not None and not_after <= now and self.archive_cutoff != NO_TIME,
            this_update,
            next_update,
        )

    def good_unlisted(self) -> Wanted:
        """Return what an answer for a serial that no list knows shall say where ``unassigned = "good"``: RFC 6960 §2.2."""
        return self._good

    def unknown(self) -> Wanted:
        """Return what an answer for a serial that nobody issued shall say: unknown, and not for long."""
        next_update = min(self._next_update(self.as_of, None), self.now + UNKNOWN_VALIDITY_S)
        return Wanted(CertStatus.UNKNOWN, 0, NO_REASON, False, False, self.as_of, next_update)

    def extended_revoke(self) -> Wanted:
        """Return what an answer for a serial that nobody issued shall say where ``unassigned = "revoked"``.

        RFC 6960 §2.2: revocationTime 1970-01-01, reason certificateHold; and the response has the extension of §4.4.8.
        """
        return self.unknown()._replace(cert_status=int(CertStatus.REVOKED), reason=int(CRLReason.CERTIFICATE_HOLD))

    def override_for_unassigned(self) -> Wanted | None:
        """Return what holds for a serial that is on no list where the CA's key is compromised; None: no override."""
        # Whoever holds the CA's key issues certificates that are on no list.
        if self._override is None or self._override.at(self.now) is not CertStatus.REVOKED:
            return None
        return self._decide(self._override)

    def _next_update(self, this_update: int, takes_effect: int | None) -> int:
        # Mozilla policy §6: not past the end of any certificate in the answer.
        next_update = min(this_update + self.terms.validity, self.latest_next_update)
        return next_update if takes_effect is None else min(next_update, takes_effect)

    def can_sign(self, wanted: Wanted) -> bool:
        """Say whether an answer may be signed at all: with the source too old, or the signer at its end, it may not."""
        return wanted.next_update > self.now and wanted.next_update > wanted.this_update

    # --- when an answer is to be replaced -------------------------------------------------------------------------

    def refresh_at(self, this_update: int, signed_at: int, spread: float) -> int:
        """Return when an answer is to be signed again; ``spread`` (0 to 1) is the bucket's own.

        ``signed_at``: when it was signed, or looked at in vain. Every bucket has its moment in each period, which it keeps,
        whenever it was signed in between: so a first load of a million in one instant is spread over a whole period, and
        stays so. Where the answer is not good for that long, since the source was behind, it is the bucket's moment in half
        a period, a quarter and so on; never that of the source, which would have all buckets signed at once.
        """
        latest = int(this_update + self.terms.age_limit * REFRESH_AGE)
        period = self.terms.age_limit * REFRESH_PERIOD
        moment = spread * period
        for _ in range(REFRESH_HALVINGS + 1):
            at = int(latest - (latest - moment) % period)
            if at > signed_at:
                return at
            period /= 2
        return latest

    def is_stale(
        self, wanted: Wanted, signer_id: str, this_update: int, next_update: int, signed_at: int, spread: float
    ) -> bool:
        """Say whether an answer that says what is wanted is to be signed again all the same, for its times or signer."""
        if not self.can_sign(wanted):
            return False
        if next_update <= self.now:
            return True
        if (
            signer_id != self.signer_id
            and next_update < this_update + self.terms.age_limit + self.terms.validity // 4
            and wanted.next_update > next_update
        ):
            # The old signer's certificate ends before, or soon after, the answer would be refreshed.
            return True
        if self.now < self.refresh_at(this_update, signed_at, spread):
            return False
        # Nothing newer can be said while the source stands still. Where it always lags, not every step is worth it.
        gain = wanted.this_update - this_update
        enough = min(self.terms.validity // 8, (next_update - self.now) // 2)
        worth = self.terms.age_limit // 64
        return gain > 0 and (gain >= enough or self.refresh_at(wanted.this_update, self.now, spread) > self.now + worth)

    def next_due(self, this_update: int, next_update: int, signed_at: int, spread: float) -> int:
        """Return when an answer that stands is to be looked at again."""
        due = self.refresh_at(this_update, signed_at, spread)
        if due <= self.now:  # in vain, just now
            due = self.refresh_at(this_update, self.now, spread)
        due = min(due, next_update)
        ends_with_signer = self.latest_next_update <= next_update < this_update + self.terms.validity
        if due <= self.now:
            return self.recheck_at(next_update)
        if ends_with_signer and next_update <= this_update + self.terms.age_limit:
            # Nothing is signed afresh until there is a new signer certificate, which is then to be used in time.
            return min(due, self.recheck_at(next_update), self.now + SIGNER_RECHECK_S)
        return due

    def recheck_at(self, next_update: int | None = None) -> int:
        """Return when to look again at what cannot be signed now; the less time is left, the sooner."""
        left = 0 if next_update is None else (next_update - self.now) // 16
        return self.now + min(max(left, RECHECK_LEAST_S), RECHECK_MOST_S)


def _check_time(status: Status) -> None:
    """Raise ValueError for a revocationTime that no answer can say: one bad row must not stop its whole batch."""
    if status.revoked_at is not None and status.revoked_at < 0:
        raise ValueError(f"revoked before 1970: {status.to_text()!r}")


def spread_of(ca: str, bucket: int) -> float:
    """Return the bucket's own number from 0 to 1 that spreads refreshes; always the same.

    Multiples of the golden ratio: those of any number of consecutive buckets lie evenly, and so do a partition's. Chance would
    have hours with a quarter more than others.
    """
    return (zlib.crc32(ca.encode()) / 2**32 + (bucket * GOLDEN_RATIO_2_64 % 2**64) / 2**64) % 1.0
