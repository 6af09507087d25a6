# What other Cython modules may use of the answer table. A pointer to a RecordHead is valid until the next put or drop.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.ocsp_request cimport HashKind
from fastpath.ocsp_response cimport AnswerHeader, ResponseTemplate

cdef extern from "Python.h":
    ctypedef struct PyObject

cdef enum:
    ETAG_OCTETS = 32  # SHA-256

    FLAG_HASH = 0x03  # HashKind of the CertID
    FLAG_STATUS_SHIFT = 2  # CertStatus, two bits
    FLAG_REFERENCED = 0x10  # found since it was written or last moved
    FLAG_DEAD = 0x20  # dropped: no slot of the index names it
    FLAG_WHOLE = 0x40  # holds an OCSPResponse as it is, not a packed answer
    FLAG_DUAL = 0x80  # answers for SHA-256 too; its own hash is SHA-1

cdef packed struct RecordHead:
    PyObject* terms  # a counted reference to AnswerTerms; NULL in an AbsentTable
    uint32_t bucket_hash  # low 32 bits of SHA-256(serial): what the journal names
    uint32_t epoch  # of its group when it was written
    uint16_t body_size
    uint16_t issuer
    uint8_t serial_size
    uint8_t flags
    # then: ETAG_OCTETS of SHA-256(OCSPResponse), unless terms is NULL; the serial; the body; to a multiple of 4


# The HashKind of sha1, sha256, sha384 or sha512; raises ValueError for any other name.
cdef HashKind hash_kind_named(str hash_name) except *


cdef class AnswerTerms:
    cdef readonly ResponseTemplate template
    cdef readonly AnswerHeader header
    cdef readonly long long this_update
    cdef readonly long long next_update
    cdef readonly long long fresh_base
    cdef readonly long long fresh_span
    cdef readonly bytes last_modified_line
    cdef readonly bytes expires_line

    # POSIX second until which caches may use an answer with that bucket hash.
    cdef long long fresh_until_of(self, uint32_t bucket_hash) noexcept


cdef class Records:
    cdef readonly Py_ssize_t max_bytes
    cdef Py_ssize_t _entries  # that the index names, those that the journal has ended since among them
    cdef uint64_t[4] _seed
    cdef dict _numbers  # the store's CA id -> issuer
    cdef unsigned char* _arena
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _head  # where the next record goes
    cdef Py_ssize_t _tail  # the oldest record
    cdef Py_ssize_t _wrap  # where the upper part ends while _head has wrapped around
    cdef Py_ssize_t _used
    cdef uint32_t* _slots  # 0: free; else the record's offset / 4, plus 1
    cdef uint32_t _slot_count
    cdef uint32_t* _epochs
    cdef uint32_t _group_mask
    cdef unsigned char* _moving  # room for one record

    # The record of a serial, or NULL; `serial` has at most MAX_SERIAL octets. Marks it as wanted. For SHA-256 it may be a
    # dual one.
    cdef RecordHead* find(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept
    cdef uint32_t _home(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept nogil
    cdef uint32_t _home_of(self, const RecordHead* record) noexcept nogil
    cdef Py_ssize_t _slot_of(
        self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size
    ) noexcept nogil
    cdef uint32_t _group(self, int issuer, uint32_t bucket_hash) noexcept nogil
    cdef bint _is_outdated(self, const RecordHead* record) noexcept nogil
    cdef void _free_slot(self, Py_ssize_t slot) noexcept nogil
    cdef void _kill(self, RecordHead* record, Py_ssize_t slot) noexcept
    cdef RecordHead* _look(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept
    cdef bint _drop(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept
    cdef Py_ssize_t _room(self, Py_ssize_t size) noexcept nogil
    cdef RecordHead* _append(self, Py_ssize_t size) noexcept nogil
    cdef bint _evict(self, bint may_move) noexcept
    cdef int _put(
        self,
        int issuer,
        int flags,
        bytes serial_octets,
        uint32_t bucket_hash,
        AnswerTerms terms,
        bytes etag_digest,
        bytes body,
    ) except -1
    cdef int _number(self, str ca) except -1
    cdef void _raise_epoch(self, uint32_t group) noexcept
    cdef void _forget_all(self) noexcept


cdef class AnswerTable(Records):
    pass


cdef class AbsentTable(Records):
    pass


cdef inline Py_ssize_t etag_size(const RecordHead* record) noexcept nogil:
    return ETAG_OCTETS if record.terms != NULL else 0


cdef inline const unsigned char* etag_of(const RecordHead* record) noexcept nogil:
    return <const unsigned char*>record + sizeof(RecordHead)


cdef inline const unsigned char* serial_of(const RecordHead* record) noexcept nogil:
    return <const unsigned char*>record + sizeof(RecordHead) + etag_size(record)


cdef inline const unsigned char* body_of(const RecordHead* record) noexcept nogil:
    return serial_of(record) + record.serial_size


cdef inline int status_of(const RecordHead* record) noexcept nogil:
    return (record.flags >> FLAG_STATUS_SHIFT) & 3
