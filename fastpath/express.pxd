# What other Cython modules may use of the express lane.

from libc.stdint cimport uint32_t

from fastpath.answer_table cimport AnswerTable, RecordHead
from fastpath.der cimport DerReader
from fastpath.http_target cimport MAX_TARGET
from fastpath.ocsp_request cimport HashKind
from fastpath.ocsp_response cimport AnswerPlan

cdef enum:
    MAX_REQUESTS = 16  # in one read; clients that pipeline more are served by the ordinary way, with its back-pressure
    MAX_MESSAGES = 65_536  # octets of answers to one read: what the ordinary way gathers before it writes
    MAX_HASH = 64  # SHA-512
    MAX_CERT_ID = 256  # a CertID with SHA-512 and the longest serial has 178 octets

cdef enum Finding:
    FOUND
    MISSING  # ours, but the table has no answer that is in date, or none can be ready since there is a nonce
    NOT_MINE


cdef struct IssuerKey:
    # One CA under one CertID hash algorithm. `prefix` is what its CertIDs have before serialNumber.
    int issuer
    HashKind hash_kind
    Py_ssize_t hash_size
    unsigned char[MAX_HASH] issuer_name_hash
    unsigned char[MAX_HASH] issuer_key_hash
    unsigned char[MAX_CERT_ID] prefix
    Py_ssize_t prefix_size
    # The same CA's keys of the two CertIDs that a dual answer has; NULL: the lane was not given it.
    const IssuerKey* sha1
    const IssuerKey* sha256


cdef struct Found:
    # One answer to be written. `record` and `plan` point into the table, which nothing touches meanwhile.
    const RecordHead* record
    const IssuerKey* key
    AnswerPlan plan
    Py_ssize_t body_size
    Py_ssize_t size  # of the whole message
    long long max_age
    DerReader nonce_octets  # in the request; at is NULL: none
    bint is_post
    bint closes  # the connection ends with it


cdef struct Limits:
    Py_ssize_t target
    Py_ssize_t header
    Py_ssize_t body


cdef class Missing:
    cdef readonly int issuer
    cdef readonly str hash_name
    cdef readonly bytes serial_octets
    cdef readonly bytes cert_id_der
    cdef readonly bytes nonce_octets
    cdef const IssuerKey* key  # lives as long as the lane
    cdef readonly bint is_post
    cdef readonly bint closes


cdef class ExpressLane:
    # Given:
    cdef AnswerTable _table
    cdef object _now
    cdef object _age
    cdef object _date_line
    cdef Limits _limits
    cdef bytes _status_line
    cdef bytes _to_length
    cdef bytes _post_to_length
    cdef bytes _etag_open
    cdef bytes _age_open
    cdef bytes _age_close
    cdef IssuerKey* _keys
    cdef Py_ssize_t _key_count
    cdef uint32_t* _key_slots  # by the first octets of the key's hash; 0: free, else the key's number plus 1
    cdef uint32_t _key_mask
    cdef list _max_blind  # seconds, by issuer
    cdef unsigned char* _blind  # 1: no good answer of that issuer, by issuer
    cdef unsigned char* _honours_nonces  # by issuer
    cdef Py_ssize_t _fixed_get  # octets of a message beside lines that vary and the body
    cdef Py_ssize_t _fixed_post
    # Of the present second:
    cdef long long _second
    cdef bytes _date
    # Since they were last taken:
    cdef long long _messages
    cdef long long _ready_count  # ever
    cdef long long[3] _answered
    cdef unsigned char[MAX_TARGET] _decoded

    # Read the clock: before find_all, and again after half a millisecond at most.
    cdef int look_at_clock(self) except -1
    # Find the answers to a read of `size` octets at `data` (data[size] is readable, and 0). FOUND: `count` of them in
    # `found`, `total` octets in all, to be written at once. MISSING: `serial` of the one that found[0] lacks.
    cdef Finding find_all(
        self,
        const unsigned char* data,
        Py_ssize_t size,
        Found* found,
        int* count,
        Py_ssize_t* total,
        DerReader* serial,
    ) noexcept
    cdef void write_all(self, unsigned char* at, const Found* found, int count) noexcept
    cdef Missing make_missing(self, const Found* found, const DerReader* serial)
    cdef uint32_t _key_home(self, const unsigned char* key_hash) noexcept nogil
    cdef const IssuerKey* _find_issuer(
        self, HashKind hash_kind, const DerReader* name_hash, const DerReader* key_hash
    ) noexcept nogil
    cdef Finding _find(
        self, const unsigned char* der, Py_ssize_t size, Found* found, DerReader* serial
    ) noexcept
    cdef Finding _look_up(self, Found* found, const unsigned char* serial, Py_ssize_t serial_size) noexcept
    cdef unsigned char* _write(self, unsigned char* at, const Found* found) noexcept
    cdef unsigned char* _write_body(self, unsigned char* at, const Found* found) noexcept
    cdef Py_ssize_t _write_cert_id(
        self, unsigned char* cert_id, const IssuerKey* key, const unsigned char* serial, Py_ssize_t serial_size
    ) noexcept nogil
    cdef void _count(self, const Found* found) noexcept
