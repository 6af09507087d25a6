"""Every error that Revocast raises on purpose.

Each class has a fixed ``category``: a bounded label for metrics and logs. Only ``ocsp/endpoint.py`` turns an
error into an OCSPResponseStatus, only ``cli`` into an exit code. Texts are one line: what, where, the value,
what is allowed.
"""

from __future__ import annotations


class RevocastError(Exception):
    """Base of all."""

    category = "error"


class ConfigError(RevocastError):
    """The operator's mistake; one line, no traceback, exit code 2."""

    category = "config"

    def __init__(self, file: str, key: str, problem: str) -> None:
        """``key`` is the dotted path in the file, such as ``ca[0].ocsp.key``; empty for the file itself."""
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")
        self.file = file
        self.key = key
        self.problem = problem


class SignerEnded(ConfigError):
    """A signer's certificate has expired: no reason to keep the other CAs' signers from their work."""

    category = "signer_ended"


class OperatorError(RevocastError):
    """A command that cannot be carried out as asked; one line, exit code 2."""

    category = "operator"


class StoreUnavailable(RevocastError):
    """Redis does not answer, or lacks what must be there: nothing can be said about any status."""

    category = "store_unavailable"


class StoreDamaged(StoreUnavailable):
    """Redis answers, and what it holds of one CA cannot be used: the other CAs go on. Says what an operator can do."""

    category = "store_damaged"


class StoreOutrun(StoreUnavailable):
    """Redis answers, and what it holds of one CA changes faster than it can be read: the other CAs go on."""

    category = "store_outrun"


class CommitConflict(RevocastError):
    """A bucket changed between the reading and the writing; read it again and decide anew."""

    category = "commit_conflict"


class SourceUnavailable(RevocastError):
    """The CA's database cannot be read now; the old state stays."""

    category = "source_unavailable"


class SignerUnavailable(RevocastError):
    """The key cannot be used now (token gone, session lost, PIN refused)."""

    category = "signer_unavailable"


class SignerOpening(SignerUnavailable):
    """The token was asked for the key, and has not replied yet: ask again soon."""


class AuditUnavailable(SignerUnavailable):
    """The audit log cannot be written, and no key may be used without it."""

    category = "audit_unavailable"


class LoadError(RevocastError):
    """One row of a CA's database that cannot be understood."""

    category = "load"

    def __init__(self, source: str, row: str, reason: str) -> None:
        super().__init__(f"{source}:{row}: {reason}")
        self.source = source
        self.row = row
        self.reason = reason


class PublicationRefused(RevocastError):
    """A CRL that failed a check before its publication: the one that is published stays."""

    category = "publication_refused"

    def __init__(self, check: str, clause: str, reason: str) -> None:
        """``check`` is one of crl/checks.py's names; ``clause`` says which rule the CRL would break."""
        super().__init__(f"{check}: {reason} ({clause})")
        self.check = check
        self.clause = clause
        self.reason = reason


class InvariantBroken(RevocastError):
    """A bug of ours; alert."""

    category = "invariant"


class CRLError(RevocastError):
    """Octets that are no CRL, or one that cannot be used; one line that names the file and the clause."""

    category = "crl"
