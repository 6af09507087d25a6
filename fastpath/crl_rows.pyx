"""A CRL's entries as a loader's rows: the store's status text of each, made at once.

For speed alone: what is the least odd is left to loaders/crl.py. RFC 5280 §5.1.2.6, §5.3.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy

from fastpath.crl_decode cimport EntryReader, EntryScan

cdef enum:
    TIME_CHARS = 20  # 2026-11-20T10:00:00Z
    MAX_TEXT = 96  # "revoked ", two times, the longest reason, " invalid="
    REMOVE_FROM_CRL = 8

# RFC 5280 §5.3.1, as a status text has them; 7 is not used, and unspecified is left out.
cdef tuple _REASONS = (
    b"",
    b" keyCompromise",
    b" cACompromise",
    b" affiliationChanged",
    b" superseded",
    b" cessationOfOperation",
    b" certificateHold",
    b"",
    b"",
    b" privilegeWithdrawn",
    b" aACompromise",
)


cdef inline char* put_time(char* to, const char* digits) noexcept nogil:
    """Spell YYYYMMDDHHMMSS as the store does; returns the end."""
    memcpy(to, digits, 4)
    to[4] = b"-"
    memcpy(to + 5, digits + 4, 2)
    to[7] = b"-"
    memcpy(to + 8, digits + 6, 2)
    to[10] = b"T"
    memcpy(to + 11, digits + 8, 2)
    to[13] = b":"
    memcpy(to + 14, digits + 10, 2)
    to[16] = b":"
    memcpy(to + 17, digits + 12, 2)
    to[19] = b"Z"
    return to + TIME_CHARS


cdef inline char* put(char* to, bytes word):
    memcpy(to, <const char*>word, len(word))
    return to + len(word)


cdef str status_text(const EntryScan* scan):
    cdef char[MAX_TEXT] text
    cdef char* end = put(text, b"revoked ")
    end = put_time(end, scan.revocation_date)
    if scan.reason > 0:
        end = put(end, _REASONS[scan.reason])
    if scan.has_invalidity_date:
        end = put(end, b" invalid=")
        end = put_time(end, scan.invalidity_date)
    return PyUnicode_DecodeASCII(text, end - text, NULL)


def read_rows(EntryReader reader, Py_ssize_t most):
    """Read entries on as rows; see the .pyi."""
    cdef EntryScan scan
    cdef list rows = [], odd = []
    cdef Py_ssize_t count = 0
    while count < most and reader.advance(&scan):
        count += 1
        if (
            reader.issuer is not None
            or scan.unknown_critical.at != NULL
            or scan.reason == REMOVE_FROM_CRL
            or memcmp(scan.revocation_date, b"1970", 4) < 0
        ):
            odd.append(reader.entry(&scan))
        else:
            rows.append((
                PyBytes_FromStringAndSize(<const char*>scan.serial.at, scan.serial.remaining), status_text(&scan)
            ))
    return rows, odd
