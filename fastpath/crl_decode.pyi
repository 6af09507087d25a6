from collections.abc import Iterable, Iterator
from typing import ClassVar, Final, final

MAX_ENTRY_OCTETS: Final[int]

class EntryError(ValueError):
    """Octets that are no entry of a CRL (RFC 5280 §5.1.2.6, §5.3). ``code`` is a fixed short name."""

    category: ClassVar[str]
    code: str
    offset: int  # in the file, of the element that is wrong
    clause: str
    def __init__(self, code: str, offset: int, clause: str = "") -> None: ...

@final
class Entry:
    """One element of revokedCertificates."""

    serial_octets: bytes  # contents octets of the INTEGER
    revocation_date: int  # POSIX seconds
    reason: int | None  # CRLReason; None: it has no reasonCode
    invalidity_date: int | None  # POSIX seconds
    certificate_issuer: bytes | None  # Name DER, of this entry or the last before it that says; None: the CRL's issuer
    unknown_critical: bytes | None  # OBJECT IDENTIFIER contents octets of a critical extension that we do not know

@final
class EntryReader:
    """A streaming strict reader of revokedCertificates. Iterating gives lists of entries, some hundreds each."""

    def __init__(self, blocks: Iterable[bytes], size: int, offset: int = 0, *, version_2: bool = True) -> None:
        """``blocks``: the contents octets of revokedCertificates, ``size`` of them, which begin at ``offset`` of the file.

        ``version_2`` False: the CRL is of version 1, whose entries have no extensions. Memory does not grow with size.
        """

    count: int  # entries read so far
    faults: frozenset[str]  # what is not as RFC 5280 wants it, but can be understood, as seen so far

    def __iter__(self) -> Iterator[list[Entry]]: ...
    def __next__(self) -> list[Entry]:
        """Return the next entries; raises EntryError, and whatever ``blocks`` raises."""

def split_entries(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut the contents octets of revokedCertificates into pieces of whole elements, about as large as the blocks are.

    Looks at each element's tag and length alone. Raises EntryError with the offset in revokedCertificates.
    """
