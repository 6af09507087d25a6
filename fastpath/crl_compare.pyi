from collections.abc import Iterable, Iterator
from typing import final

from fastpath.crl_decode import Entry, EntryReader
from fastpath.crl_entries import Terms

class EntriesDiffer(ValueError):
    """A CRL's entries are not those of the store, or not in order. One line."""

def order_of(serial_octets: bytes) -> int:
    """Return the low 32 bits of SHA-256(serial's contents octets), as store.layout.serial_hash does."""

def use_instructions(wanted: bool) -> None:
    """For tests: compute order_of plainly from now on, or by the processor's own instructions where it has them."""

def compare_entries(reader: EntryReader, chunks: Iterable[bytes], terms: Terms) -> int:
    """Prove that a CRL's entries are the store's records, on the terms on which it was made; returns how many there are.

    Serial, date, reason, invalidity date and issuer of each are what its record says, none is missing, none more is there, each
    serial is there once, and they stand in the order of ADR 13. Every serial of a chunk belongs into it. Raises EntriesDiffer
    for the first that is otherwise, EntryError for what is no entry, ValueError for what is no chunk.
    """

@final
class Change:
    """One serial whose entry is not the same in two CRLs; None: it has none."""

    serial_octets: bytes
    before: Entry | None
    after: Entry | None

@final
class Changes:
    """Compares two CRLs' entries in one pass. Iterating gives Change after Change.

    In flat memory, at about 50 ns an entry that is the same in both. Whatever the order of the entries, a serial of ``before`` that
    is not in ``after`` is given; where both are in the order of ADR 13, nothing that is in both the same is given. Otherwise a
    serial may be given twice, as gone and as new.
    """

    def __init__(self, before: EntryReader, after: EntryReader) -> None: ...

    same: int  # entries that are the same, as seen so far

    def __iter__(self) -> Iterator[Change]: ...
    def __next__(self) -> Change: ...
