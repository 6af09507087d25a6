# Parts of OCSPResponse (RFC 6960 §4.2.1) as C inline functions: measured, then written into room that the caller made.
#
# Only ocsp_response.pyx uses them; they need no GIL, allocate nothing and check nothing but what their names say. As in
# der_write.pxd a put_* writes at `at` and returns the place behind what it wrote. Times are POSIX seconds, already
# known to be within 0 to der_last_second().

from fastpath.der cimport (
    DER_OK,
    TAG_CONTEXT_0,
    TAG_OBJECT_IDENTIFIER,
    TAG_OCTET_STRING,
    TAG_SEQUENCE,
    DerReader,
    der_check_oid,
    der_finish,
    der_read,
)
from fastpath.der_write cimport (
    DER_WRITE_MAX,
    GENERALIZED_TIME_SIZE,
    TAG_ENUMERATED,
    der_put_generalized_time,
    der_put_header,
    der_put_octets,
    der_size,
)

cdef enum:
    # CertStatus, numbered as its context tags.
    GOOD = 0
    REVOKED = 1
    UNKNOWN = 2

    TAG_GOOD = 0x80  # IMPLICIT NULL
    TAG_REVOKED = 0xA1  # IMPLICIT RevokedInfo
    TAG_UNKNOWN = 0x82  # IMPLICIT NULL
    NO_REASON = -1
    NO_TIME = -1

    TIMES_SIZE = 36  # thisUpdate, [0] EXPLICIT nextUpdate
    ARCHIVE_CUTOFF_SIZE = 36  # [1] EXPLICIT Extensions with this one
    BASIC_OID_SIZE = 11


cdef inline bint is_one_sequence(const unsigned char* at, Py_ssize_t size) noexcept nogil:
    """True for the DER of one SEQUENCE, whatever is in it, without trailing octets."""
    cdef DerReader reader, contents
    reader.at = at
    reader.remaining = size
    return size <= DER_WRITE_MAX and der_read(&reader, TAG_SEQUENCE, &contents) == DER_OK and reader.remaining == 0


cdef inline bint is_uncritical_extension(const unsigned char* at, Py_ssize_t size) noexcept nogil:
    """True for one Extension without a critical field, which DER leaves out where it is FALSE."""
    cdef DerReader reader, contents, part
    reader.at = at
    reader.remaining = size
    return (
        der_read(&reader, TAG_SEQUENCE, &contents) == DER_OK
        and der_finish(&reader) == DER_OK
        and der_read(&contents, TAG_OBJECT_IDENTIFIER, &part) == DER_OK
        and der_check_oid(&part) == DER_OK
        and der_read(&contents, TAG_OCTET_STRING, &part) == DER_OK
        and der_finish(&contents) == DER_OK
    )


cdef inline bint is_reason(int reason) noexcept nogil:
    """True for no reason and for those that RevokedInfo may show.

    RFC 5280 §5.3.1: unspecified(0) SHOULD be absent, 7 is not used, removeFromCRL(8) is for delta CRLs only.
    """
    return reason == NO_REASON or 1 <= reason <= 6 or reason == 9 or reason == 10


cdef inline Py_ssize_t status_size(int cert_status, int reason) noexcept nogil:
    """Size of the whole CertStatus element."""
    if cert_status != REVOKED:
        return 2
    return 2 + GENERALIZED_TIME_SIZE + (0 if reason == NO_REASON else 5)


cdef inline unsigned char* put_status(
    unsigned char* at, int cert_status, long long revoked_at, int reason
) noexcept nogil:
    """Write CertStatus; `revoked_at` and `reason` count only where it is revoked."""
    if cert_status != REVOKED:
        return der_put_header(at, TAG_GOOD if cert_status == GOOD else TAG_UNKNOWN, 0)
    at = der_put_header(at, TAG_REVOKED, status_size(cert_status, reason) - 2)
    at = der_put_generalized_time(at, revoked_at)
    if reason != NO_REASON:
        # RFC 6960 §4.2.1: revocationReason is [0] EXPLICIT within the IMPLICIT RevokedInfo.
        at = der_put_header(at, TAG_CONTEXT_0, 3)
        at = der_put_header(at, TAG_ENUMERATED, 1)
        at[0] = <unsigned char>reason
        at += 1
    return at


cdef inline unsigned char* put_times(unsigned char* at, long long this_update, long long next_update) noexcept nogil:
    """Write thisUpdate and nextUpdate. RFC 9919 §3.2.4: nextUpdate MUST be present."""
    at = der_put_generalized_time(at, this_update)
    at = der_put_header(at, TAG_CONTEXT_0, GENERALIZED_TIME_SIZE)
    return der_put_generalized_time(at, next_update)


cdef inline unsigned char* put_archive_cutoff(unsigned char* at, long long archive_cutoff) noexcept nogil:
    """Write singleExtensions with archiveCutoff alone. RFC 6960 §4.4.4: its value is a GeneralizedTime."""
    # [1] { Extensions { Extension { 1.3.6.1.5.5.7.48.1.6, OCTET STRING { the time follows.
    at = der_put_octets(
        at,
        <const unsigned char*>b"\xa1\x22\x30\x20\x30\x1e\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x06\x04\x11",
        ARCHIVE_CUTOFF_SIZE - GENERALIZED_TIME_SIZE,
    )
    return der_put_generalized_time(at, archive_cutoff)


cdef struct Envelope:
    # Contents octets of each level around tbsResponseData, from the inside out; `total` is the whole OCSPResponse.
    Py_ssize_t basic  # BasicOCSPResponse
    Py_ssize_t octets  # the OCTET STRING that holds it
    Py_ssize_t response_bytes  # ResponseBytes
    Py_ssize_t explicit  # [0]
    Py_ssize_t response  # OCSPResponse
    Py_ssize_t total


cdef inline void measure_envelope(
    Envelope* envelope, Py_ssize_t tbs_size, Py_ssize_t signature_size, Py_ssize_t rest
) noexcept nogil:
    """`rest`: the sizes of signatureAlgorithm and certs together."""
    envelope.basic = tbs_size + der_size(1 + signature_size) + rest
    envelope.octets = der_size(envelope.basic)
    envelope.response_bytes = BASIC_OID_SIZE + der_size(envelope.octets)
    envelope.explicit = der_size(envelope.response_bytes)
    envelope.response = 3 + der_size(envelope.explicit)
    envelope.total = der_size(envelope.response)


cdef inline unsigned char* put_envelope_head(unsigned char* at, const Envelope* envelope) noexcept nogil:
    """Write all that stands before tbsResponseData."""
    # RFC 6960 §4.2.1: successful(0) has responseBytes, here of the type id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
    at = der_put_header(at, TAG_SEQUENCE, envelope.response)
    at = der_put_octets(at, <const unsigned char*>b"\x0a\x01\x00", 3)
    at = der_put_header(at, TAG_CONTEXT_0, envelope.explicit)
    at = der_put_header(at, TAG_SEQUENCE, envelope.response_bytes)
    at = der_put_octets(
        at, <const unsigned char*>b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01", BASIC_OID_SIZE
    )
    at = der_put_header(at, TAG_OCTET_STRING, envelope.octets)
    return der_put_header(at, TAG_SEQUENCE, envelope.basic)
