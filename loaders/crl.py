"""Reads a CA's CRLs as its source of statuses: full and delta, whole or in partitions (docs/loaders/crl.md).

Only a CRL that was proved to be the CA's is read (responder/crl/acceptance.py). It lists the revoked alone, and says as of
when by thisUpdate, and until when by nextUpdate. Between readings each CRL's file is kept open, and nothing of its size is in
memory. RFC 5280 §5, §6.3.3. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from loaders.base import Batch, FoundIssuer, LoaderOptions
from loaders.crl_entries import Entries, Scope, check_scopes, issuers_of
from responder.clock import Clock
from responder.config import AnyPath, Duration, FilePath
from responder.config_types import relative_to_file
from responder.crl.acceptance import (
    CRLSigner,
    check_follows,
    check_kind,
    check_origin,
    check_times,
    is_same_name,
    name_text,
    why_not_combined,
)
from responder.crl.fetch import MAX_BYTES, Fetched, FetchTerms, open_place
from responder.crl.reader import CRLFile
from responder.errors import ConfigError, CRLError, SourceUnavailable
from responder.issuers import Issuer, load_certificate
from responder.log import get_logger
from responder.metrics import SOURCE_ERRORS

log = get_logger(__name__)

URL_POLL_S = 60.0  # how often a server is asked; an unchanged CRL costs it a 304
RETRY_S = 10.0  # after a failure
Where = str | Path


def place_reference(value: str, info: ValidationInfo) -> Where:
    """Take a URL as it is, anything else as a path relative to the configuration file."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value) is None:
        return relative_to_file(Path(value), info)
    if not value.startswith(("http://", "https://", "ldap://", "ldaps://", "file://")):
        raise ValueError("must be a path, or a URL that starts with http://, https://, ldap:// or ldaps://")
    return value


def url_reference(value: str, info: ValidationInfo) -> str:
    """Take a URL alone."""
    found = place_reference(value, info)
    if isinstance(found, Path):
        raise ValueError("must be a URL that starts with http://, https://, ldap:// or ldaps://")
    return found


URL = Annotated[str, AfterValidator(url_reference)]
PathOrURL = Annotated[str, AfterValidator(place_reference)]


class CRLOptions(LoaderOptions):
    """The keys of ``source = { type = "crl", … }``."""

    path: AnyPath | None = Field(None, description="The file of the CA's one full CRL: DER, PEM or bare base64.")
    url: URL | None = Field(
        None, description="Where it is fetched instead: http://, https://, ldap:// or ldaps:// (RFC 4516)."
    )
    paths: list[AnyPath] | None = Field(
        None,
        min_length=1,
        description="Files of all CRLs among which the CA's certificates are divided: complete only together.",
    )
    urls: list[URL] | None = Field(None, min_length=1, description="The same, as URLs.")
    delta: PathOrURL | None = Field(None, description="File or URL of the delta CRL that goes with path or url.")
    deltas: list[PathOrURL] | None = Field(
        None, description="Files or URLs of the delta CRLs that go with paths or urls, in the same order."
    )
    scope: Scope = Field(
        "all",
        description="What the CA issues: users or cas alone, where its CRLs say that they are of those alone (onlyContainsUserCerts, onlyContainsCACerts).",
    )
    signer: FilePath | None = Field(
        None,
        description="Certificate of whoever signs the CRLs, where it is not the CA's key: an indirect CRL issuer, or the CA's own key for CRLs. It is trusted because it stands here.",
    )
    poll: Duration | None = Field(
        None, ge=1, description="How often the CRL is looked for; absent: a file twice a second, a URL once a minute."
    )
    max_shrink: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Share of the entries that may vanish at once; above it the CRL is not believed, with an alarm. A CRL is signed, and what vanishes from it stays revoked here, so that 1, the default, allows all.",
    )
    max_bytes: int = Field(MAX_BYTES, ge=1024, description="Largest CRL that is taken.")
    timeout: Duration = Field(300, ge=1, description="How long one download may take as a whole.")
    ca_certificate: FilePath | None = Field(
        None, description="PEM of the CA that https:// and ldaps:// trust; absent: the system's."
    )
    bind_dn: str | None = Field(None, description="Whom to log in to the directory as; absent: nobody.")
    password_file: FilePath | None = Field(None, description="File whose first line is the password of bind_dn.")
    password_env: str | None = Field(None, description="Environment variable that holds it.")

    @model_validator(mode="after")
    def _fits_together(self) -> CRLOptions:
        named = [name for name in ("path", "url", "paths", "urls") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"one of path, url, paths and urls must be there (got {', '.join(named) or 'none'})")
        if self.delta is not None and named[0] in ("paths", "urls"):
            raise ValueError(f"deltas, a list, goes with {named[0]}, not delta")
        if self.deltas is not None and len(self.deltas) != len(self.paths or self.urls or ()):
            raise ValueError("deltas must have one place for each of paths or urls, in the same order")
        given = [self.password_file, self.password_env]
        if (self.bind_dn is not None) != (given.count(None) == 1):
            raise ValueError("bind_dn and one of password_file and password_env go together")
        return self

    @property
    def places(self) -> list[tuple[Where, Where | None]]:
        """Each full CRL's place, with its delta's."""
        full: list[Where] = list[Where](self.paths or self.urls or ())
        full += [one for one in (self.path, self.url) if one is not None]
        if self.deltas is not None:
            return list(zip(full, self.deltas, strict=True))
        return [(one, self.delta) for one in full]

    @property
    def fetch_terms(self) -> FetchTerms:
        """Limits and credentials."""
        return FetchTerms(
            max_bytes=self.max_bytes,
            timeout_s=float(self.timeout),
            ca_certificate=self.ca_certificate,
            bind_dn=self.bind_dn,
            password=self._password,
        )

    def _password(self) -> str:
        if self.password_file is None:
            return os.environ.get(self.password_env or "", "")
        try:
            return self.password_file.read_text().split("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceUnavailable(f"{self.password_file}: cannot be read: {error}") from error


class Series:
    """One CRL and those that follow it at its place. Holds the newest that was believed, open."""

    def __init__(self, where: Where, is_delta: bool, options: CRLOptions, signer: CRLSigner, clock: Clock) -> None:
        """Raises ValueError for a URL that is none."""
        # The file has a name for a moment only: once it is open, the name goes.
        self._place = open_place(where, options.fetch_terms, Path(tempfile.gettempdir()), clock)
        self.name = self._place.name
        self._is_delta = is_delta
        self._signer = signer
        self._clock = clock
        self._poll_s = float(options.poll or (0.0 if isinstance(where, Path) else URL_POLL_S))
        self._next_at = float("-inf")
        self._problem: SourceUnavailable | None = None  # with the last look
        self._refusal: SourceUnavailable | None = None  # why what lies at the place now is not taken
        self.crl: CRLFile | None = None
        self.sha256 = ""

    def refresh(self) -> SourceUnavailable | None:
        """Look for a newer CRL, where that is due; returns what is wrong with the place. The CRL that was believed stays."""
        now = self._clock.monotonic()
        if now >= self._next_at:
            try:
                self._look()
                self._problem = self._refusal
                self._next_at = now + max(self._poll_s, self._place.fresh_for_s)
            except SourceUnavailable as error:
                self._problem = error
                self._next_at = now + min(self._poll_s, RETRY_S)
        return self._problem

    def _look(self) -> None:
        fetched = self._place.fetch()
        if fetched is None:
            return
        try:
            self._take_up(fetched)
        except CRLError as error:
            self._refusal = SourceUnavailable(str(error))
        finally:
            fetched.path.unlink(missing_ok=True)

    def _take_up(self, fetched: Fetched) -> None:
        crl = CRLFile.open(fetched.path)
        crl.name = self.name
        try:
            check_kind(crl, is_delta=self._is_delta)
            check_times(crl, self._clock.now())
            if crl.unknown_critical:
                raise crl.error(f"its critical extension {crl.unknown_critical[0]} is not known here (RFC 5280 §5.2)")
            if self.crl is not None:
                check_follows(crl, self.crl.number, self.crl.this_update)
            check_origin(crl, self._signer)
        except BaseException:
            crl.close()
            raise
        # Nobody tells a loader that it is done with, and a reading may still go on with the last.
        crl.close_when_unheld()
        self.crl, self.sha256, self._refusal = crl, fetched.sha256, None


class CRLSnapshot:
    """One reading of all CRLs as they are at hand. The files are the loader's, and stay open."""

    def __init__(self, parts: Sequence[tuple[CRLFile, CRLFile | None]], subject_der: bytes, fingerprint: str) -> None:
        self._parts = parts
        self._subject_der = subject_der
        newest = [delta or full for full, delta in parts]
        # Together they are known as of the oldest, and until the first of them ends: also the delta, whose successor is then late.
        self.as_of = float(min(crl.this_update for crl in newest))
        ends = [crl.next_update for part in parts for crl in part if crl is not None and crl.next_update is not None]
        self.until = float(min(ends)) if ends else None
        self.size = 0
        self.fingerprint = fingerprint
        self.whole = False

    def batches(self) -> Iterator[Batch]:
        """Yield the entries of every CRL; raises SourceUnavailable where one cannot be read to its end."""
        count = 0
        try:
            for full, delta in self._parts:
                for batch in Entries(full, delta, self._subject_der).batches():
                    count += len(batch.rows)
                    batch.position = count
                    yield batch
        except CRLError as error:
            raise SourceUnavailable(str(error)) from error
        self.whole = True

    def close(self) -> None:
        """Do nothing: the next reading may be of the same files, which are closed once nobody holds them."""


class CRLLoader:
    """A CA's CRLs for one CA."""

    Options: ClassVar[type[LoaderOptions]] = CRLOptions
    lists_issued = False
    good_releases_hold = False  # removeFromCRL alone does; an entry that is gone may have expired
    follows_clock = False  # it is known as of its thisUpdate
    consistent = True  # a signed file
    takes_issued_list = True  # its snapshots' fingerprints are known at once (loaders/issued.py)

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        """Raises ConfigError."""
        assert isinstance(options, CRLOptions)  # noqa: S101 - the registry checks options by our own model
        self._options = options
        self._issuer = issuer
        certificate = options.signer or issuer.config.certificate
        try:
            certificate_der = load_certificate(certificate, str(certificate), "")
            signer = CRLSigner.of(certificate_der)
            self._parts = [
                (
                    Series(full, False, options, signer, clock),
                    None if delta is None else Series(delta, True, options, signer, clock),
                )
                for full, delta in options.places
            ]
        except ValueError as error:
            raise ConfigError(str(certificate), "", str(error)) from error
        self.name = ", ".join(full.name for full, _ in self._parts)[:200]
        self._told: dict[str, str] = {}  # problems, by place

    def peek(self) -> str:
        """Look at every place where that is due; raises SourceUnavailable where of a full CRL none was ever believed.

        One that has gone, or is not to be believed, leaves its predecessor in place, with an alarm: that one ends by itself.
        """
        lost: SourceUnavailable | None = None
        for full, delta in self._parts:
            for series in (full, delta):
                if series is None:
                    continue
                problem = series.refresh()
                if problem is not None and series is full and series.crl is None:
                    lost = problem
                else:
                    self._tell(series.name, None if problem is None else str(problem))
        if lost is not None:
            raise lost
        return self._fingerprint(self._usable())

    def snapshot(self) -> CRLSnapshot:
        """Read what is at hand; raises SourceUnavailable, also where it is not a list of all the CA's certificates."""
        fingerprint = self.peek()
        parts = self._usable()
        try:
            check_scopes(
                [full for full, _ in parts],
                self._issuer.subject_der,
                self._options.scope,
                is_whole_list=self._options.paths is not None or self._options.urls is not None,
            )
        except CRLError as error:
            raise SourceUnavailable(str(error)) from error
        return CRLSnapshot(parts, self._issuer.subject_der, fingerprint)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the issuer of the CRLs, and those that the entries of an indirect one name, with their entries.

        A CRL holds no certificate; that of this CA is given where its name stands, since the CRL's signature was verified.
        """
        self.peek()
        counts: dict[bytes, int] = {}
        try:
            for full, _ in self._usable():
                for name_der, count in issuers_of(full).items():
                    counts[name_der] = counts.get(name_der, 0) + count
        except CRLError as error:
            raise SourceUnavailable(str(error)) from error
        return [
            FoundIssuer(
                name_text(name_der),
                self._issuer.certificate_der if is_same_name(name_der, self._issuer.subject_der) else None,
                count,
            )
            for name_der, count in counts.items()
        ]

    def _usable(self) -> list[tuple[CRLFile, CRLFile | None]]:
        """Return every full CRL, and its delta where that can be combined with it."""
        parts: list[tuple[CRLFile, CRLFile | None]] = []
        for full, delta in self._parts:
            assert full.crl is not None  # noqa: S101 - peek saw to it
            combined: CRLFile | None = None
            if delta is not None and delta.crl is not None:
                why_not = why_not_combined(full.crl, delta.crl)
                if why_not is None:
                    combined = delta.crl
                problem = f"{delta.name}: cannot be combined with {full.name}: {why_not} (RFC 5280 §5.2.4)"
                self._tell(f"{full.name} and {delta.name}", problem if why_not else None)
            parts.append((full.crl, combined))
        return parts

    def _tell(self, place: str, problem: str | None) -> None:
        """Raise the alarm, once for each problem: the place is looked at twice a second. None: there is none any more."""
        if problem is None:
            self._told.pop(place, None)
        elif self._told.get(place) != problem:
            self._told[place] = problem
            SOURCE_ERRORS.labels(self._issuer.name).inc()
            log.error("source_unavailable", ca=self._issuer.name, error=problem)

    def _fingerprint(self, parts: Sequence[tuple[CRLFile, CRLFile | None]]) -> str:
        used = [
            (full.sha256, delta.sha256 if delta is not None and combined is not None else "")
            for (full, delta), (_, combined) in zip(self._parts, parts, strict=True)
        ]
        return hashlib.sha256(repr(used).encode()).hexdigest()
