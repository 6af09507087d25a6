# What other Cython modules may use of the request parser. Everything a RequestScan points at lies in the caller's
# buffer and is valid only as long as that buffer is.

from fastpath.der cimport DerReader

cdef enum:
    CERT_IDS_CEILING = 256  # the largest max_cert_ids; bounds RequestScan to about 24 KiB of stack

cdef enum HashKind:
    HASH_SHA1 = 0
    HASH_SHA256 = 1
    HASH_SHA384 = 2
    HASH_SHA512 = 3
    HASH_OTHER = 4

cdef struct CertIDScan:
    DerReader der  # the whole TLV
    HashKind hash_kind
    DerReader issuer_name_hash
    DerReader issuer_key_hash
    DerReader serial_octets

cdef struct RequestScan:
    Py_ssize_t cert_id_count  # of cert_ids, only the first so many are set
    bint has_requestor_name
    bint has_signature
    bint accepts_basic
    DerReader nonce_octets  # at is NULL: no nonce to honour
    DerReader preferred_signature_algorithms_der  # at is NULL: absent
    const unsigned char* unsupported_at  # the first critical extension that we do not know; NULL: none
    const unsigned char* error_at  # where a status other than DER_OK was found
    CertIDScan[CERT_IDS_CEILING] cert_ids

# Parse `length` octets at `data`, which stay the caller's. Returns DER_OK or a status of the .pyx; with DER_OK the
# caller must still look at unsupported_at. 1 <= max_cert_ids <= CERT_IDS_CEILING. Allocates nothing.
cdef int scan_ocsp_request(
    const unsigned char* data, Py_ssize_t length, Py_ssize_t max_cert_ids, RequestScan* scan
) noexcept nogil

cdef class CertID:
    cdef readonly str hash_name
    cdef readonly bytes issuer_name_hash
    cdef readonly bytes issuer_key_hash
    cdef readonly bytes serial_octets
    cdef readonly bytes der

cdef class OCSPRequest:
    cdef readonly list cert_ids
    cdef readonly bytes nonce_octets
    cdef readonly bint has_requestor_name
    cdef readonly bint has_signature
    cdef readonly bint accepts_basic
    cdef readonly bytes preferred_signature_algorithms_der
