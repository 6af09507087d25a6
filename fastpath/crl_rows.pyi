from fastpath.crl_decode import Entry, EntryReader

def read_rows(reader: EntryReader, most: int) -> tuple[list[tuple[bytes, str]], list[Entry]]:
    """Read up to ``most`` entries on; returns rows of a loader (serial's contents octets, status text), and the odd.

    Both empty: there are none more. Odd is what needs a decision: an entry that names the issuer of its certificate, or comes
    behind one that does, one with a critical extension that is not known, removeFromCRL, and a date before 1970. Raises
    EntryError.
    """
