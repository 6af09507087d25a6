"""Whether a CRL has become too large for clients: they fetch all of it, and many have no other way (STANDARDS DST-06).

Microsoft Trusted Root Program 3.2.3: without OCSP a CRL is to be under 10 MB. Called by the publisher, the mirror and
``revocast check``.
"""

from __future__ import annotations

from collections.abc import Iterable

from responder import metrics
from responder.crl.published import Published
from responder.issuers import Issuer
from responder.log import get_logger

log = get_logger(__name__)


def why_large(issuer: Issuer, published: Published) -> str | None:
    """Say that a CRL is above ``crl.large_bytes``, and what helps; None: it is not."""
    crl = issuer.config.crl
    if crl is None or published.size <= crl.large_bytes:
        return None
    helps = "more shards, for certificates to come" if crl.shards > 1 else "shards, for certificates to come"
    if published.base_number is not None:
        helps = "a complete CRL more often"
    return f"{published.slot} has {published.size:,} octets, more than crl.large_bytes, {crl.large_bytes:,} (Microsoft 3.2.3); {helps}, would make it smaller"


def show_sizes(issuer: Issuer, kind: str, found: Iterable[Published]) -> None:
    """Bring the sizes of a CA's CRLs of one kind into the metrics."""
    sizes = [(one.size, why_large(issuer, one) is not None) for one in found]
    metrics.CRL_BYTES.labels(issuer.name, kind).set(sum(size for size, _ in sizes))
    metrics.CRL_LARGE.labels(issuer.name, kind).set(sum(is_large for _, is_large in sizes))


def say_if_large(issuer: Issuer, published: Iterable[Published]) -> None:
    """Log what has just been published and is too large: the first of them, and how many there are."""
    said = [text for one in published if (text := why_large(issuer, one)) is not None]
    if said:
        log.warning("crl_large", ca=issuer.name, text=said[0], count=len(said))
