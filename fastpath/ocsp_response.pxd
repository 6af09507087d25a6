# What other Cython modules may use of the response codec: measure an answer, make room, write it.

from fastpath.der_write cimport GENERALIZED_TIME_SIZE
from fastpath.ocsp_response_write cimport ARCHIVE_CUTOFF_SIZE, TIMES_SIZE, Envelope

cdef class ResponseTemplate:
    cdef readonly bytes responder_key_hash
    cdef readonly bytes signature_algorithm_der
    cdef readonly tuple certs_der
    cdef bytes by_key  # the ResponderID element
    cdef bytes certs_field  # the [0] element, or empty

cdef class AnswerHeader:
    cdef readonly long long this_update
    cdef readonly long long next_update
    cdef readonly long long produced_at
    cdef readonly long long archive_cutoff
    cdef readonly str signer_id
    # What write_answer copies: producedAt; thisUpdate and nextUpdate; singleExtensions, if archive_cutoff is set.
    cdef unsigned char[GENERALIZED_TIME_SIZE] produced_der
    cdef unsigned char[TIMES_SIZE] times_der
    cdef unsigned char[ARCHIVE_CUTOFF_SIZE] archive_cutoff_der

cdef struct PackedScan:
    int slot
    int cert_status
    long long revoked_at
    int reason
    bint has_archive_cutoff
    bint is_dual
    const unsigned char* signature  # within the packed answer
    Py_ssize_t signature_size

cdef struct AnswerPlan:
    # The contents octets of each level of one OCSPResponse, and what its packed answer says. Points into the latter.
    PackedScan scan
    Envelope envelope
    Py_ssize_t single
    Py_ssize_t second  # the other SingleResponse of a dual answer
    Py_ssize_t responses
    Py_ssize_t tbs

# CertStatus of a packed answer; raises ValueError where it is none.
cdef int cert_status_of_packed(bytes packed) except -1

# Octets of the OCSPResponse, or -1 where `packed` is no packed answer or does not go with the header. Fills `plan`,
# which points into `packed`. A dual answer has two CertIDs, SHA-1 and SHA-256 in this order, any other one alone, and a
# `second_size` of 0: else -1 too.
cdef Py_ssize_t measure_answer(
    AnswerPlan* plan,
    ResponseTemplate template,
    AnswerHeader header,
    Py_ssize_t cert_id_size,
    Py_ssize_t second_size,
    const unsigned char* packed,
    Py_ssize_t packed_size,
) noexcept

# Write what was measured, with the same arguments; `cert_id` and `second` are whole CertIDs in encode_cert_id's form.
cdef unsigned char* write_answer(
    unsigned char* at,
    const AnswerPlan* plan,
    ResponseTemplate template,
    AnswerHeader header,
    const unsigned char* cert_id,
    Py_ssize_t cert_id_size,
    const unsigned char* second,
    Py_ssize_t second_size,
) noexcept
