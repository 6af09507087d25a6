"""Takes up a signer's certificate and key that were replaced, or configured ahead, while answers are being signed.

RFC 9919 §3.2.2: a delegate is renewed often, and that must not break answers (DEL-04). A pair is opened, checked and tried
before it signs anything; until then the old one signs on. One CA's broken pair is no other CA's business. Called by the
presigning role between two batches; knows no store and no answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from responder import metrics
from responder.clock import Clock, format_utc
from responder.config import DAY_S, Config, NextSignerConfig, SignerConfig
from responder.errors import ConfigError, RevocastError, SignerEnded, SignerOpening
from responder.issuers import Issuer, Issuers, load_issuer
from responder.log import get_logger
from responder.signing.delegation import EXPIRY_WARNING_S, ResponseSigner, open_response_signer

log = get_logger(__name__)

LOOK_EVERY_S = 0.5  # a look at one CA's files takes some 50 µs
FIRST_PATIENCE_S = 10.0  # for tokens, all in all, before anything is signed
PATIENCE_S = 0.02  # the same in one look afterwards, while other CAs' answers wait; it is looked again
RETRY_FIRST_S = 1.0  # a token's key may follow its certificate's file in a moment, and nothing shows that but a try
RETRY_MOST_S = 30.0
PAUSE_FACTOR = 3  # of the time that a look took beyond its patience, until the next one
NEVER = float("inf")


def open_configured(
    using: SignerConfig,
    issuer: Issuer,
    config: Config,
    config_file: str,
    now: float,
    *,
    patience_s: float | None = None,
) -> ResponseSigner:
    """Open one of a CA's configured signers; one that is configured ahead, as it will be at its time.

    Raises ConfigError (SignerEnded among it) or SignerUnavailable, as ``open_response_signer``.
    """
    ca = issuer.config
    if not isinstance(using, NextSignerConfig) or using.start <= now:
        return open_response_signer(ca, issuer, config.data_dir, now, config_file, using, patience_s=patience_s)
    try:
        return open_response_signer(ca, issuer, config.data_dir, using.start, config_file, using, patience_s=patience_s)
    except SignerEnded as error:
        key = f"ca[{ca.name}].{using.table}.from"
        raise ConfigError(
            config_file, key, f"{format_utc(using.start)} is past the end of {using.certificate}"
        ) from error


@dataclass(slots=True, eq=False)
class _Pair:
    """A certificate and key as configured, and how it fared. Times are monotonic.

    ``seen``: a digest of the files at the last look. ``tried``: the same at the last try, and whether that was ahead of the
    pair's time. ``said``: what was logged about it since the files changed.
    """

    using: SignerConfig
    seen: bytes = b""
    tried: tuple[bytes, bool] | None = None
    try_at: float = 0.0
    pause_s: float = RETRY_FIRST_S
    said: str = ""


class _Seat:
    """One CA's signer: who may take it, and who holds it now."""

    def __init__(self, issuer: Issuer, config: Config, config_file: str) -> None:
        self.issuer = issuer
        self.signer: ResponseSigner | None = None
        self._config = config
        self._config_file = config_file
        self._holder: _Pair | None = None
        self._warned = 0.0  # wall clock
        ocsp = issuer.config.ocsp
        self._pairs = {using.table: _Pair(using) for using in (ocsp, ocsp.next) if using is not None}

    def look(self, now: float, monotonic: float, patience_s: float) -> tuple[bool, ResponseSigner | None]:
        """Give the seat to whom it belongs now; returns whether it changed hands, and whom to close.

        ``patience_s``: how long a token may keep others waiting; one that takes longer is asked at the next look.
        """
        ocsp = self.issuer.config.ocsp
        refused = (
            ocsp.next is not None and now < ocsp.next.start and self._rehearse(ocsp.next, now, monotonic, patience_s)
        )
        changed, outgoing = False, None
        for using in ocsp.signers_at(now):
            pair = self._pairs[using.table]
            if self._is_to_be_tried(pair, monotonic, ahead=False) and (
                opened := self._try(pair, now, monotonic, patience_s)
            ):
                changed, outgoing = self._take(pair, *opened, now)
                break
            refused |= bool(pair.said)
            if pair is self._holder and self.signer is not None and now < self.signer.not_after:
                break
        metrics.SIGNER_REFUSED.labels(self.issuer.name).set(int(refused))
        self._warn(now)
        return changed, outgoing

    def _rehearse(self, using: SignerConfig, now: float, monotonic: float, patience_s: float) -> bool:
        """See ahead of its time whether a pair will do, while it can be mended; returns whether it will not."""
        pair = self._pairs[using.table]
        if self._is_to_be_tried(pair, monotonic, ahead=True) and (
            opened := self._try(pair, now, monotonic, patience_s)
        ):
            opened[1].close()
        return bool(pair.said)

    def _is_to_be_tried(self, pair: _Pair, monotonic: float, *, ahead: bool) -> bool:
        digest = files_digest(pair.using, self.issuer.config.certificate)
        if digest != pair.seen:
            pair.seen = digest
            if self.signer is not None:
                return False  # perhaps half written, or the key's file is still to come; at the next look, if it stands
        if pair.tried == (digest, ahead):
            return monotonic >= pair.try_at
        pair.tried, pair.said, pair.pause_s = (digest, ahead), "", RETRY_FIRST_S
        return True

    def _try(
        self, pair: _Pair, now: float, monotonic: float, patience_s: float
    ) -> tuple[Issuer, ResponseSigner] | None:
        try:
            issuer = self._renewed_issuer()
            signer = open_configured(pair.using, issuer, self._config, self._config_file, now, patience_s=patience_s)
        except SignerOpening:
            pair.try_at = monotonic
            return None
        except Exception as error:  # whatever is the matter with one CA's files, the other CAs' signers go on
            text = str(error) if isinstance(error, RevocastError) else f"{type(error).__name__}: {error}"
            pair.try_at = monotonic + pair.pause_s
            pair.pause_s = min(2 * pair.pause_s, RETRY_MOST_S)
            self._complain(pair, " ".join(text.split()), now)
            return None
        pair.try_at, pair.said = NEVER, ""
        return issuer, signer

    def _renewed_issuer(self) -> Issuer:
        """Read the CA's certificate again: renewed with the same key it is the same CA, with other dates."""
        issuer = load_issuer(self.issuer.config, self._config_file)
        if issuer.id != self.issuer.id:
            key = f"ca[{issuer.name}].certificate"
            raise ConfigError(
                self._config_file, key, f"{issuer.config.certificate} now has another subject or key; send SIGHUP"
            )
        return issuer

    def _take(
        self, pair: _Pair, issuer: Issuer, signer: ResponseSigner, now: float
    ) -> tuple[bool, ResponseSigner | None]:
        """Give the seat to an opened signer; as ``look``."""
        if self._holder is not None and self._holder is not pair:
            self._holder.tried = None  # should this one end before it is replaced, the other may be tried again
        old, same_issuer = self.signer, issuer.certificate_der == self.issuer.certificate_der
        self._holder = pair
        if old is not None and old.signer_id == signer.signer_id and same_issuer:
            return False, signer  # another passphrase, or another spelling of the same
        self.issuer, self.signer, self._warned = issuer, signer, now
        for warning in signer.warnings:
            log.warning("signer_warning", ca=issuer.name, text=warning)
        ends = format_utc(signer.not_after)
        log.info("signer_taken_up", ca=issuer.name, signer_id=signer.signer_id, table=pair.using.table, not_after=ends)
        return True, old

    def _complain(self, pair: _Pair, error: str, now: float) -> None:
        """Log why a pair is not used, once for each change of it."""
        if error == pair.said:
            return
        pair.said = error
        ca = self.issuer.name
        if pair.using not in self.issuer.config.ocsp.signers_at(now):
            log.error("next_signer_unusable", ca=ca, error=error)
        elif self.signer is not None and now < self.signer.not_after:
            log.error("signer_not_taken_up", ca=ca, error=error, consequence="the old one signs on")
        else:
            log.error("signer_unavailable", ca=ca, error=error)

    def _warn(self, now: float) -> None:
        """Tell the operator, daily, of a signer that is about to end with nobody to follow it."""
        signer, following = self.signer, self.issuer.config.ocsp.next
        if signer is None or signer.not_after - now > EXPIRY_WARNING_S or now - self._warned < DAY_S:
            return
        self._warned = now
        if following is None or not now < following.start <= signer.not_after:
            log.warning("signer_expires", ca=self.issuer.name, not_after=format_utc(signer.not_after))


class SignerWatch:
    """Every CA's signer: those that sign now, and what is to take their places.

    Used as a context manager, which closes them all. At first nobody is open: ``look`` opens whoever will do.
    """

    def __init__(
        self, config: Config, config_file: str, clock: Clock, *, first_patience_s: float = FIRST_PATIENCE_S
    ) -> None:
        """Read the CAs' certificates; raises ConfigError. ``first_patience_s``: with tokens, at the first look."""
        self._clock = clock
        self._seats = [_Seat(issuer, config, config_file) for issuer in Issuers.from_config(config, config_file)]
        self._retired: list[ResponseSigner] = []
        self._look_at = 0.0
        self._patience_s = first_patience_s

    @property
    def issuers(self) -> Issuers:
        """The CAs, with their certificates as they are now."""
        return Issuers([seat.issuer for seat in self._seats])

    @property
    def signers(self) -> dict[str, ResponseSigner]:
        """The signers to be used now, by the CA's id in the store."""
        return {seat.issuer.id: seat.signer for seat in self._seats if seat.signer is not None}

    def look(
        self, is_in_use: Callable[[ResponseSigner], bool] = lambda _: False
    ) -> list[tuple[Issuer, ResponseSigner]]:
        """Return the CAs whose signer is another one from now on; looks at files once in LOOK_EVERY_S.

        A signer that was replaced is closed at a later look, once it is not ``is_in_use`` any more.
        """
        monotonic = self._clock.monotonic()
        if monotonic < self._look_at:
            return []
        self._close_retired(is_in_use)
        patient_until, self._patience_s = monotonic + self._patience_s, PATIENCE_S
        fresh: list[tuple[Issuer, ResponseSigner]] = []
        for seat in self._seats:
            patience_s = max(0.0, patient_until - self._clock.monotonic())
            changed, outgoing = seat.look(self._clock.now(), monotonic, patience_s)
            if outgoing is not None:
                self._retired.append(outgoing)
            if changed and seat.signer is not None:
                fresh.append((seat.issuer, seat.signer))
        # Nothing else is signed during a look, and a trial signature of a token that hangs takes two seconds.
        now = self._clock.monotonic()
        self._look_at = now + max(LOOK_EVERY_S, min(PAUSE_FACTOR * (now - patient_until), RETRY_MOST_S))
        return fresh

    def close(self) -> None:
        """Let go of every key."""
        self._close_retired(lambda _: False)
        for seat in self._seats:
            if seat.signer is not None:
                seat.signer.close()

    def _close_retired(self, is_in_use: Callable[[ResponseSigner], bool]) -> None:
        retired, self._retired = self._retired, []
        for signer in retired:
            if is_in_use(signer):
                self._retired.append(signer)
            else:
                signer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def files_digest(using: SignerConfig, ca_certificate: Path) -> bytes:
    """Digest the files that make a signer, as they are now; a key in a token has no file."""
    files = [ca_certificate, using.certificate, using.pin_file]
    if not using.key.startswith("pkcs11:"):
        files.append(Path(using.key))
    digest = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes() if file is not None else b""
        except OSError:
            content = b"cannot be read"
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()
