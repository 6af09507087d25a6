# What other Cython modules may use of the reader of CRL entries. What an EntryScan points at lies in the block that its
# reader holds, and is valid until that reader advances.

from fastpath.der cimport DerReader

cdef enum:
    DIGITS = 14  # of a time, as YYYYMMDDHHMMSS

cdef struct EntryScan:
    # Pointers lie in the block that the reader holds, until it advances.
    DerReader serial
    char[DIGITS] revocation_date
    bint has_invalidity_date
    char[DIGITS] invalidity_date
    int reason  # -1: none
    DerReader issuer  # Name DER, whole; at is NULL: this entry names none
    DerReader unknown_critical  # at is NULL: none
    unsigned int faults
    const unsigned char* error_at


cdef class ElementReader:
    cdef object _blocks
    cdef bytes _block  # keeps what `_view` points at
    cdef DerReader _view
    cdef Py_ssize_t _to_come  # octets of the whole that are not in `_view` yet
    cdef Py_ssize_t _offset  # in the file, of where `_view` stood when the block came
    cdef const unsigned char* _start  # likewise, in memory

    cdef Py_ssize_t place(self, const unsigned char* at)
    cdef object error(self, int status, const unsigned char* at)
    cdef int refill(self) except -1
    cdef int next_element(self, DerReader* contents) except -1
    cdef bint skip_whole(self)

cdef class Entry:
    cdef readonly bytes serial_octets
    cdef readonly long long revocation_date
    cdef readonly object reason
    cdef readonly object invalidity_date
    cdef readonly bytes certificate_issuer
    cdef readonly bytes unknown_critical

cdef class EntryReader(ElementReader):
    cdef bint _version_2
    cdef unsigned int _faults
    cdef readonly Py_ssize_t count
    cdef bytes issuer  # of the last entry that named one; None: none did

    # Read the next entry; 0: there is none more. Raises EntryError.
    cdef int advance(self, EntryScan* scan) except -1
    # Make a Python object of the entry that was read last.
    cdef Entry entry(self, const EntryScan* scan)
