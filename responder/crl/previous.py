"""The CA's own last CRL: numbers go on above it, and what it lists must be listed here too (RFC 5280 §5.2.3, §3.3).

Called by the publisher, before the first CRL that is issued here.
"""

from __future__ import annotations

from pathlib import Path

from responder.crl.acceptance import CRLSigner, check_kind, check_origin, check_times
from responder.crl.issue import Office
from responder.crl.reader import CRLFile
from responder.errors import CRLError
from responder.issuers import load_certificate


def fetch_previous(office: Office) -> Path | None:
    """Return the CA's own last CRL, until one was issued here; fetched from where it is. Raises SourceUnavailable, CRLError."""
    crl, issuer = office.crl, office.issuer
    if crl.previous is None or office.store.crl_state(issuer.id).published:
        return None
    if "://" not in crl.previous:
        check_previous(Path(crl.previous), office)
        return Path(crl.previous)
    from responder.crl.fetch import FetchTerms, open_place  # imported late: it brings an HTTP client

    directory = office.depot.root / issuer.name
    directory.mkdir(parents=True, exist_ok=True)
    fetched = open_place(crl.previous, FetchTerms(crl.max_bytes), directory, office.clock).fetch()
    assert fetched is not None  # noqa: S101 - nothing was fetched before that it could be the same as
    try:
        check_previous(fetched.path, office)
    except CRLError:
        fetched.path.unlink()
        raise
    return fetched.path


def check_previous(path: Path, office: Office) -> None:
    """Raise CRLError unless it is a complete CRL of the CA's: a number once taken up from another's never goes back."""
    with CRLFile.open(path) as crl:
        crl.name = str(office.crl.previous)
        check_kind(crl, is_delta=False)
        check_times(crl, office.clock.now())
        signer = CRLSigner.of(office.issuer.certificate_der)
        certificate = office.crl.certificate
        if crl.issuer != signer.name_der and certificate is not None:
            signer = CRLSigner.of(load_certificate(certificate, str(certificate), "crl.certificate"))
        check_origin(crl, signer)
