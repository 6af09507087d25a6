"""A desk: one CA's issuer, terms and key, at which the presigner and the live signing role sign. Knows no schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastpath.ocsp_response import encode_single_response
from responder import audit, metrics
from responder.clock import Clock, format_utc
from responder.issuers import Issuer, Issuers
from responder.log import get_logger
from responder.signing.answers import CLOCK_TOLERANCE_S, NO_TIME, Moment, Terms, Wanted
from responder.signing.delegation import ResponseSigner
from responder.signing.press import Press
from responder.store.layout import STORED_HASHES
from responder.store.redis_store import Store
from responder.store.values import CAInfo

log = get_logger(__name__)

LEAST_VALIDITY_S = 2  # of a CRL that ends as soon as it begins: there is nothing to refresh in less


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """One CA's issuer, terms and key. The live signing role signs at the same desks."""

    issuer: Issuer
    terms: Terms
    signer: ResponseSigner
    press: Press

    @property
    def certid(self) -> str:
        """Which CertIDs its stored answers have: sha1, sha256, each or dual."""
        return self.issuer.config.ocsp.certid

    @property
    def is_dual(self) -> bool:
        """Its stored answers speak of a certificate's SHA-1 and SHA-256 CertID at once (RFC 9919 §3.2.1)."""
        return self.certid == "dual"

    def kept(self, info: CAInfo, now: float) -> list[str]:
        """Return the hash algorithms of the answers hashes that are kept up, the first one for every certificate."""
        if self.certid != "each":
            return ["sha256" if self.certid == "sha256" else "sha1"]
        # Nobody has asked for SHA-256 for a whole validity: those answers are let go, not kept to run out.
        asked = info.sha256_asked is not None and now - info.sha256_asked < self.terms.validity
        return ["sha1", "sha256"] if asked else ["sha1"]

    def stores(self, hash_name: str) -> bool:
        """Say whether the answer to one question by that hash algorithm is stored for the next who asks."""
        return hash_name in STORED_HASHES and self.certid in (hash_name, "each", "dual")

    def messages(
        self,
        hash_name: str,
        serials: list[bytes],
        wanted: Mapping[bytes, Wanted],
        times: tuple[int, int, int, int],
    ) -> list[bytes]:
        """Encode what is signed for each serial to be stored; ``times``: thisUpdate, nextUpdate, producedAt, archiveCutoff or -1."""
        names = STORED_HASHES if self.is_dual else (hash_name,)
        issuer = self.issuer
        issuers = [(name, issuer.name_hashes[name], issuer.key_hashes[name]) for name in names]
        return self.signer.template.stored_answers(issuers, serials, wanted, *times)

    def single_response(
        self, hash_name: str, serial_octets: bytes, wanted: Wanted, times: tuple[int, int, int, int]
    ) -> bytes:
        """Encode a SingleResponse; ``times`` as of ``messages``."""
        return encode_single_response(
            self.issuer.cert_id(hash_name, serial_octets),
            wanted.cert_status,
            wanted.revoked_at,
            wanted.reason,
            times[0],
            times[1],
            times[3] if wanted.has_archive_cutoff else NO_TIME,
        )

    def terms_by(self, info: CAInfo) -> Terms:
        """Return the terms as far as the source lets them hold.

        Promise 2: what a CRL alone says is not said beyond its nextUpdate. As a shorter validity, answers are also looked at
        again as often as that asks for. Good for a serial that no list knows: only where the source lists no issued ones.
        """
        terms = self.terms
        if info.source_until is not None and info.as_of is not None:
            terms = replace(terms, validity=max(LEAST_VALIDITY_S, min(terms.validity, info.source_until - info.as_of)))
        if terms.unassigned == "good" and info.lists_issued:
            terms = replace(terms, unassigned="unauthorized")
        return terms

    def moment(self, now: float, info: CAInfo) -> Moment | None:
        """Return the rules that hold now; None: nothing may be signed for this CA."""
        if info.as_of is None:
            return None
        if info.as_of > now + CLOCK_TOLERANCE_S:
            # RFC 9919 §5: somebody's clock is wrong; what would be signed now is dated before the source was read.
            log.error("source_is_ahead_of_clock", ca=self.issuer.name, as_of=info.as_of, now=int(now))
            return None
        signer = self.signer
        try:
            return Moment(
                self.terms_by(info), int(now), info.as_of, signer.latest_next_update, signer.signer_id, info.override
            )
        except ValueError as error:
            # Somebody wrote it by hand. What it was meant to say is not known, so nothing is said.
            log.error("override_not_understood", ca=self.issuer.name, error=str(error))
            return None


def open_desks(store: Store, issuers: Issuers, signers: Mapping[str, ResponseSigner], clock: Clock) -> dict[str, Desk]:
    """Set up a desk for each CA that has a signer (``signers`` by the CA's id in the store); raises StoreUnavailable."""
    desks: dict[str, Desk] = {}
    for issuer in issuers:
        signer = signers.get(issuer.id)
        if signer is None:
            continue
        certid = issuer.config.ocsp.certid
        before = store.take_up_certid(issuer.id, certid, clock.now())
        if before is not None:
            log.info("certid_changed", ca=issuer.name, certid=certid, consequence="every answer is looked at again")
        if before == "sha256" and certid == "each":
            # There are SHA-256 answers, and clients who got them: kept up for a validity, as if just asked for.
            store.set_sha256_asked(issuer.id, clock.now())
        put_desk(desks, store, issuer, signer, clock)
    return desks


def put_desk(desks: dict[str, Desk], store: Store, issuer: Issuer, signer: ResponseSigner, clock: Clock) -> None:
    """Put a CA's desk, with this signer, in the place of the one it had; raises StoreUnavailable, and changes nothing.

    A desk is replaced whole: what was begun at the old one is finished with its key and its certificate. Stores what
    workers need to put the signer's answers together, which has to be there before the first of them.
    """
    store.put_signer(signer.signer_id, signer.template.to_bytes(), signer.certificate_der or issuer.certificate_der)
    metrics.SIGNER_NOT_AFTER.labels(issuer.name).set(signer.not_after)
    audit.record("signer_in_use", ca=issuer.name, signer=signer.signer_id, not_after=format_utc(signer.not_after))
    desks[issuer.id] = Desk(issuer, Terms.of(issuer), signer, Press(issuer.name, signer.signer, clock))
