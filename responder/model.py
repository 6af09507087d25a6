"""The values that every part shares: a certificate's status, and how the store spells it.

RFC 6960 §4.2.1 (CertStatus, RevokedInfo), RFC 5280 §5.3.1 (CRLReason). Knows no bytes of any protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from responder.clock import format_utc, parse_utc


class CertStatus(IntEnum):
    """CertStatus of RFC 6960 §4.2.1, numbered as its context tags."""

    GOOD = 0
    REVOKED = 1
    UNKNOWN = 2


class CRLReason(IntEnum):
    """CRLReason of RFC 5280 §5.3.1; 7 is not used."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10

    @property
    def asn1_name(self) -> str:
        """The name in the ASN.1 module, such as ``keyCompromise``."""
        return REASON_NAMES[self]


REASON_NAMES: dict[CRLReason, str] = {
    CRLReason.UNSPECIFIED: "unspecified",
    CRLReason.KEY_COMPROMISE: "keyCompromise",
    CRLReason.CA_COMPROMISE: "cACompromise",
    CRLReason.AFFILIATION_CHANGED: "affiliationChanged",
    CRLReason.SUPERSEDED: "superseded",
    CRLReason.CESSATION_OF_OPERATION: "cessationOfOperation",
    CRLReason.CERTIFICATE_HOLD: "certificateHold",
    CRLReason.REMOVE_FROM_CRL: "removeFromCRL",
    CRLReason.PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
    CRLReason.AA_COMPROMISE: "aACompromise",
}
REASONS_BY_NAME: dict[str, CRLReason] = {name: reason for reason, name in REASON_NAMES.items()}


class OCSPResponseStatus(IntEnum):
    """OCSPResponseStatus of RFC 6960 §4.2.1; 4 is not used."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIG_REQUIRED = 5
    UNAUTHORIZED = 6


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of one certificate. Times are POSIX seconds UTC.

    ``cert_status`` is GOOD or REVOKED: a serial that nobody issued has no Status at all. ``reason`` is None where
    the CA gave none or said *unspecified* (RFC 5280 §5.3.1 wants that left out). ``revoked_at`` may lie ahead: the
    revocation takes effect then. ``by_operator`` marks a revocation that did not come from the CA's database.
    """

    cert_status: CertStatus
    not_after: int | None = None
    revoked_at: int | None = None
    reason: CRLReason | None = None
    invalidity_date: int | None = None
    by_operator: bool = False

    def at(self, now: float) -> CertStatus:
        """Return the status in effect at ``now``: a revocation dated ahead is still good."""
        if self.revoked_at is not None and self.revoked_at > now:
            return CertStatus.GOOD
        return self.cert_status

    @property
    def is_hold(self) -> bool:
        """True for a suspension, the only revocation that may ever be released."""
        return self.cert_status is CertStatus.REVOKED and self.reason is CRLReason.CERTIFICATE_HOLD

    def to_text(self) -> str:
        """Spell it as the store does, such as ``revoked 2026-11-20T10:00:00Z keyCompromise exp=2027-…Z``."""
        words: list[str]
        if self.cert_status is CertStatus.GOOD:
            words = ["good"]
        else:
            assert self.revoked_at is not None  # noqa: S101 - a revoked Status without a time is our bug
            words = ["revoked", format_utc(self.revoked_at)]
            if self.reason is not None:
                words.append(self.reason.asn1_name)
        if self.not_after is not None:
            words.append("exp=" + format_utc(self.not_after))
        if self.invalidity_date is not None:
            words.append("invalid=" + format_utc(self.invalidity_date))
        if self.by_operator:
            words.append("by=operator")
        return " ".join(words)

    @classmethod
    def from_text(cls, text: str) -> Status:
        """Read what ``to_text`` wrote; raises ValueError for anything else."""
        words = text.split(" ")
        revoked_at: int | None = None
        reason: CRLReason | None = None
        match words[0]:
            case "good":
                cert_status, rest = CertStatus.GOOD, words[1:]
            case "revoked" if len(words) >= 2:
                cert_status, rest = CertStatus.REVOKED, words[2:]
                revoked_at = parse_utc(words[1])
                if rest and "=" not in rest[0]:
                    if rest[0] not in REASONS_BY_NAME:
                        raise ValueError(f"unknown CRLReason {rest[0]!r} in status {text!r}")
                    reason = REASONS_BY_NAME[rest[0]]
                    rest = rest[1:]
            case _:
                raise ValueError(f"not a status: {text!r}")
        fields = dict(word.split("=", 1) for word in rest)
        if unknown := fields.keys() - {"exp", "invalid", "by"}:
            raise ValueError(f"unknown words {sorted(unknown)} in status {text!r}")
        return cls(
            cert_status=cert_status,
            not_after=parse_utc(fields["exp"]) if "exp" in fields else None,
            revoked_at=revoked_at,
            reason=reason,
            invalidity_date=parse_utc(fields["invalid"]) if "invalid" in fields else None,
            by_operator=fields.get("by") == "operator",
        )


def serial_to_octets(serial_number: int) -> bytes:
    """Encode a serial as the contents octets of its DER INTEGER (X.690 §8.3: two's complement, minimal)."""
    return serial_number.to_bytes(
        (serial_number if serial_number >= 0 else ~serial_number).bit_length() // 8 + 1, "big", signed=True
    )


def serial_from_octets(octets: bytes) -> int:
    """Decode the contents octets of a DER INTEGER."""
    return int.from_bytes(octets, "big", signed=True)


def serial_to_text(octets: bytes) -> str:
    """Spell a serial for people and for the store's status hash: its contents octets in lower-case hex."""
    return octets.hex()
