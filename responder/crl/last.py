"""The last CRL of a CA that ends: after it nobody asks for another (EN 319 411-1 CSS-6.3.9-06, EN 319 411-2 CSS-6.3.10-07, -09).

Its nextUpdate is 99991231235959Z. Called by ``revocast crl last``; refuses while there is a certificate that may still be used.
"""

from __future__ import annotations

from responder.clock import format_utc
from responder.crl.publisher import Series
from responder.errors import OperatorError
from responder.issuers import Issuer
from responder.model import CertStatus, Status
from responder.store.redis_store import Store
from responder.store.store_base import batches

BUCKETS_AT_ONCE = 256


def issue_last(series: Series) -> None:
    """Issue the last complete CRLs of a CA; raises OperatorError where it may not have one (yet)."""
    issuer = series.office.issuer
    if issuer.profile == "webpki":
        raise OperatorError(
            f"ca {issuer.name}: profile webpki has no last CRL, since nextUpdate is bounded (BR §7.2); its CRLs go on"
        )
    now = series.office.clock.now()
    if (found := first_in_use(series.office.store, issuer, now)) is not None:
        serial, status = found
        until = (
            f"is good until {format_utc(status.not_after)}"
            if status.not_after
            else "is good, and nobody knows until when"
        )
        raise OperatorError(
            f"ca {issuer.name}: serial {serial.hex()} {until}: a last CRL comes after all certificates have expired or are revoked (EN 319 411-1 CSS-6.3.9-06)"
        )
    series.now(full=True, last=True)


def first_in_use(store: Store, issuer: Issuer, now: float) -> tuple[bytes, Status] | None:
    """Return a certificate of the CA's that is neither expired nor revoked, or None; reads every status."""
    info = store.ca_info(issuer.id)
    if info is None or info.as_of is None or info.bits is None:
        raise OperatorError(f"ca {issuer.name}: its database was not read yet")
    for batch in batches(sorted(store.bucket_map(issuer.id, info.bits).buckets), BUCKETS_AT_ONCE):
        for bucket in store.read_status_buckets(issuer.id, batch):
            for serial, text in bucket.entries.items():
                status = Status.from_text(text)
                in_use = status.not_after is None or status.not_after >= now
                if in_use and status.at(now) is CertStatus.GOOD:
                    return serial, status
    return None
