"""What is wrong with a CRL's entries, by the standards' clauses, in memory that does not grow with their number.

RFC 5280 §5.1.2.6 and §5.3; profile ``webpki``: BR §4.9.13 and §7.2.2. The head is lint.py's. Called by ``revocast crl show``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from fastpath.crl_decode import Entry
from responder.crl.gather import Gather
from responder.crl.head import Head
from responder.crl.lint import Problem, Profile
from responder.model import CRLReason

BR_REASONS = frozenset({1, 3, 4, 5, 9})  # BR §7.2.2, Mozilla §6.1.1
NAMED = 3  # serials that a problem names

_reason = attrgetter("reason")
_date = attrgetter("revocation_date")
_unknown = attrgetter("unknown_critical")
_issuer = attrgetter("certificate_issuer")
_serial = attrgetter("serial_octets")


def serial_key(entry: Entry) -> bytes:
    """Return what no two entries of a CRL may share: in an indirect CRL a serial means one certificate of each issuer."""
    return (entry.certificate_issuer or b"") + entry.serial_octets


class EntryLint:
    """Looks at a CRL's entries, batch by batch, and counts them. Close it: it may hold temporary files."""

    def __init__(self, head: Head, profile: Profile, certificates: str) -> None:
        """``certificates``: users or cas, whom the CRL is about."""
        self._head = head
        self._profile = profile
        self._certificates = certificates
        self._serials = Gather()
        self._found: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
        self.count = 0
        self.reasons: Counter[int | None] = Counter()
        self.earliest: int | None = None
        self.latest: int | None = None
        self.other_issuers = 0  # entries of an indirect CRL that are about another CA's certificates
        self._forbidden = self._forbidden_reasons()

    def __enter__(self) -> EntryLint:
        return self

    def __exit__(self, *error: object) -> None:
        self._serials.__exit__(*error)

    def see(self, batch: Sequence[Entry]) -> None:
        """Take the next entries."""
        # Most batches have nothing amiss: each is looked at by a few passes in C, and closely only where one of them tells.
        self.count += len(batch)
        reasons = Counter(map(_reason, batch))
        self.reasons.update(reasons)
        earliest, latest = min(map(_date, batch)), max(map(_date, batch))
        self.earliest = earliest if self.earliest is None else min(self.earliest, earliest)
        self.latest = latest if self.latest is None else max(self.latest, latest)
        if latest > self._head.this_update:
            self._note(
                batch,
                lambda entry: entry.revocation_date > self._head.this_update,
                "revocationDate is after thisUpdate",
                "RFC 5280 §5.1.2.6",
            )
        for reason in reasons.keys() & self._forbidden.keys():
            text, clause = self._forbidden[reason]
            self._note(batch, lambda entry, reason=reason: entry.reason == reason, text, clause)  # type: ignore[misc]
        if any(map(_unknown, batch)):
            self._note(
                batch,
                lambda entry: entry.unknown_critical is not None,
                "an extension is critical and not known to clients: they must not use the CRL",
                "RFC 5280 §5.3",
            )
        if any(map(_issuer, batch)):
            self._see_issuers(batch)
        if self.other_issuers:
            self._serials.add([(serial_key(entry), entry.serial_octets) for entry in batch])
        else:
            self._serials.add([(serial, None) for serial in map(_serial, batch)])

    def _see_issuers(self, batch: Sequence[Entry]) -> None:
        self.other_issuers += sum(entry.certificate_issuer is not None for entry in batch)
        scope = self._head.scope
        if scope is None or not scope.indirect:
            self._note(
                batch,
                lambda entry: entry.certificate_issuer is not None,
                "certificateIssuer is for indirect CRLs, and indirectCRL is not set",
                "RFC 5280 §5.3.3",
            )

    def problems(self) -> Iterator[Problem]:
        """Yield what was found; an error each, with the number of entries and the first of them."""
        for (text, clause), (count, serials) in self._found.items():
            yield Problem("error", f"{text}: {_counted(count, serials)}", clause)
        twice = sorted(values[0] or key for key, values in self._serials.repeated())
        if twice:
            said = _counted(len(twice), twice[:NAMED])
            yield Problem("error", f"a serial number is there more than once: {said}", "RFC 5280 §5.1.2.6")

    def _note(self, batch: Sequence[Entry], is_so: Callable[[Entry], bool], text: str, clause: str) -> None:
        serials = [entry.serial_octets for entry in batch if is_so(entry)]
        count, named = self._found.get((text, clause), (0, []))
        self._found[text, clause] = (count + len(serials), [*named, *serials][:NAMED])

    def _forbidden_reasons(self) -> dict[int | None, tuple[str, str]]:
        """Return the reasons that no entry of this CRL may have, and why."""
        forbidden: dict[int | None, tuple[str, str]] = {}
        scope = self._head.scope
        if self._profile == "webpki":
            if self._certificates == "cas":
                forbidden[None] = ("a CA certificate's entry must have a reasonCode", "BR §7.2.2")
            for reason in CRLReason:
                if reason not in BR_REASONS and not (self._certificates == "cas" and reason == CRLReason.CA_COMPROMISE):
                    clause = "BR §4.9.13" if reason == CRLReason.CERTIFICATE_HOLD else "BR §7.2.2; Mozilla §6.1.1"
                    forbidden[int(reason)] = (f"reasonCode {reason.asn1_name} is not allowed", clause)
        if scope is not None and scope.reasons is not None:
            for reason in CRLReason:
                if reason not in scope.reasons:
                    forbidden[int(reason)] = (
                        f"reasonCode {reason.asn1_name} is none of onlySomeReasons",
                        "RFC 5280 §5.2.5",
                    )
            forbidden[None] = ("a reasonCode is required where onlySomeReasons is set", "RFC 5280 §5.2.5")
        if not self._head.is_delta:
            forbidden[int(CRLReason.REMOVE_FROM_CRL)] = ("removeFromCRL is for delta CRLs", "RFC 5280 §5.3.1")
        return forbidden


def _counted(count: int, serials: Sequence[bytes]) -> str:
    named = ", ".join(serial.hex() for serial in serials)
    more = f" and {count - len(serials)} more" if count > len(serials) else ""
    return f"{count} {'entry' if count == 1 else 'entries'}, serial {named}{more}"
