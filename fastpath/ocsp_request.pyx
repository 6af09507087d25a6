"""OCSPRequest (RFC 6960 §4.1.1, RFC 9654 §2.1): strict DER to CertIDs, nonce and what else decides an answer.

One pass over the octets fills a C struct with pointers; only when the whole request is known to be well-formed are
Python objects made. Knows no HTTP, no policy and no certificates: whose CertID it is, and what an error becomes on the
wire, is decided in responder/ocsp/endpoint.py. The decisions that the standards leave open:

- Laxer than DER in two places, because old clients write a DEFAULT out (X.690 §11.5): version v1 and critical FALSE.
- hashAlgorithm parameters are absent or NULL; both mean the same. Hashes of any length up to 64 octets are taken: one
  that does not fit its algorithm matches no issuer.
- serialNumber has at most 21 contents octets: the 20 octets of RFC 5280 §4.1.2.2, and the 00 that keeps a value with
  its high bit set positive. Longer is malformed. Zero and negative are serials like any other.
- An extension twice in one list is malformed (RFC 5280 §4.2), and so is an empty list (SIZE (1..MAX)).
- A nonce that is not a DER OCTET STRING within extnValue (clients of RFC 2560 sent raw octets) is no nonce to honour;
  it has 1 to 128 octets like the others, or the request is malformed. A nonce in singleRequestExtensions is ignored.
- Critical extensions that we recognise, in either list: nonce, acceptableResponses, serviceLocator (never followed)
  and preferredSignatureAlgorithms. Any other is Unsupported, but only if the rest of the request is well-formed.
- Of requestorName the GeneralName's tag is checked, of the signature its structure; the name, the signature's bits and
  the certificates are skipped, never parsed (RFC 9919 §3.1.2: a responder may ignore the signature).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastpath.der cimport (
    DER_BIT_STRING_INVALID,
    DER_BOOLEAN_INVALID,
    DER_HIGH_TAG_NUMBER,
    DER_INDEFINITE_LENGTH,
    DER_INTEGER_INVALID,
    DER_LENGTH_NOT_MINIMAL,
    DER_LENGTH_TOO_LARGE,
    DER_OBJECT_IDENTIFIER_INVALID,
    DER_OK,
    DER_STATUS_END,
    DER_TRAILING_DATA,
    DER_TRUNCATED,
    DER_UNEXPECTED_TAG,
    TAG_BIT_STRING,
    TAG_BOOLEAN,
    TAG_CONTEXT_0,
    TAG_CONTEXT_1,
    TAG_CONTEXT_2,
    TAG_INTEGER,
    TAG_NULL,
    TAG_OBJECT_IDENTIFIER,
    TAG_OCTET_STRING,
    TAG_SEQUENCE,
    DerReader,
    der_check_bit_string,
    der_check_boolean,
    der_check_integer,
    der_check_oid,
    der_equals,
    der_finish,
    der_next_is,
    der_read,
    der_read_any,
)

cdef enum:
    MAX_REQUEST = 1_000_000  # octets: the most that the configuration lets a body have
    MAX_SERIAL = 21
    MAX_HASH = 64  # SHA-512
    MAX_NONCE = 128  # RFC 9654 §2.1
    MAX_EXTENSION_COUNT = 16  # in one list; four are defined for requests
    MAX_CERTIFICATE_COUNT = 16  # in a signature; chains are a tenth of that

cdef enum RequestStatus:
    REQUEST_TOO_LARGE = DER_STATUS_END
    VERSION_NOT_V1
    REQUESTOR_NAME_NOT_GENERAL_NAME
    REQUEST_LIST_EMPTY
    TOO_MANY_CERT_IDS
    ALGORITHM_PARAMETERS
    HASH_TOO_LONG
    SERIAL_TOO_LONG
    EXTENSIONS_EMPTY
    TOO_MANY_EXTENSIONS
    DUPLICATE_EXTENSION
    NONCE_LENGTH
    TOO_MANY_CERTIFICATES

MAX_REQUEST_OCTETS = MAX_REQUEST
MAX_SERIAL_OCTETS = MAX_SERIAL
MAX_NONCE_OCTETS = MAX_NONCE
MAX_CERT_IDS = CERT_IDS_CEILING

_CODES = {
    DER_TRUNCATED: "truncated",
    DER_UNEXPECTED_TAG: "unexpected-tag",
    DER_HIGH_TAG_NUMBER: "high-tag-number",
    DER_INDEFINITE_LENGTH: "indefinite-length",
    DER_LENGTH_NOT_MINIMAL: "length-not-minimal",
    DER_LENGTH_TOO_LARGE: "length-too-large",
    DER_TRAILING_DATA: "trailing-data",
    DER_INTEGER_INVALID: "integer-invalid",
    DER_BOOLEAN_INVALID: "boolean-invalid",
    DER_OBJECT_IDENTIFIER_INVALID: "object-identifier-invalid",
    DER_BIT_STRING_INVALID: "bit-string-invalid",
    REQUEST_TOO_LARGE: "request-too-large",
    VERSION_NOT_V1: "version-not-v1",
    REQUESTOR_NAME_NOT_GENERAL_NAME: "requestor-name-not-general-name",
    REQUEST_LIST_EMPTY: "request-list-empty",
    TOO_MANY_CERT_IDS: "too-many-cert-ids",
    ALGORITHM_PARAMETERS: "algorithm-parameters",
    HASH_TOO_LONG: "hash-too-long",
    SERIAL_TOO_LONG: "serial-too-long",
    EXTENSIONS_EMPTY: "extensions-empty",
    TOO_MANY_EXTENSIONS: "too-many-extensions",
    DUPLICATE_EXTENSION: "duplicate-extension",
    NONCE_LENGTH: "nonce-length",
    TOO_MANY_CERTIFICATES: "too-many-certificates",
}

cdef str SHA1_NAME = "sha1"
cdef str SHA256_NAME = "sha256"
cdef str SHA384_NAME = "sha384"
cdef str SHA512_NAME = "sha512"

# OBJECT IDENTIFIER contents octets.
cdef const unsigned char* ID_SHA1 = b"\x2b\x0e\x03\x02\x1a"  # 1.3.14.3.2.26
cdef const unsigned char* ID_SHA2_ARC = b"\x60\x86\x48\x01\x65\x03\x04\x02"  # 2.16.840.1.101.3.4.2: .1 .2 .3 follow
cdef const unsigned char* ID_PKIX_OCSP = b"\x2b\x06\x01\x05\x05\x07\x30\x01"  # 1.3.6.1.5.5.7.48.1
cdef const unsigned char* ID_PKIX_OCSP_BASIC = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"

cdef enum:
    # The last arc under id-pkix-ocsp of the extensions that a request may hold (RFC 6960 App. B.1).
    ARC_NONCE = 2
    ARC_ACCEPTABLE_RESPONSES = 4
    ARC_SERVICE_LOCATOR = 7
    ARC_PREFERRED_SIGNATURE_ALGORITHMS = 8


class MalformedRequest(ValueError):
    """The bytes are not an OCSPRequest (RFC 6960 §4.1.1), or break a limit. ``code`` is a fixed short name."""

    category = "malformed_request"

    def __init__(self, code, offset):
        super().__init__(f"OCSPRequest: {code} at octet {offset}")
        self.code = code
        self.offset = offset


class Unsupported(ValueError):
    """Well-formed, but holds a critical extension that we do not know (RFC 6960 §4.1.2). ``code`` is a fixed short name."""

    category = "unsupported"

    def __init__(self, code, offset):
        super().__init__(f"OCSPRequest: {code} at octet {offset}")
        self.code = code
        self.offset = offset


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class CertID:
    """RFC 6960 §4.1.1. Made by the parser alone."""

    def __init__(self):
        raise TypeError("CertID comes from parse_ocsp_request")

    def __repr__(self):
        return (
            f"CertID(hash_name={self.hash_name!r}, issuer_name_hash={self.issuer_name_hash.hex()}, "
            f"issuer_key_hash={self.issuer_key_hash.hex()}, serial={self.serial_octets.hex()})"
        )


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class OCSPRequest:
    """What a well-formed request asks. Made by the parser alone."""

    def __init__(self):
        raise TypeError("OCSPRequest comes from parse_ocsp_request")


cdef inline int fail(RequestScan* scan, const unsigned char* at, int status) noexcept nogil:
    scan.error_at = at
    return status


cdef inline int read(RequestScan* scan, DerReader* reader, unsigned char tag, DerReader* contents) noexcept nogil:
    cdef int status = der_read(reader, tag, contents)
    return DER_OK if status == DER_OK else fail(scan, reader.at, status)


cdef inline int finish(RequestScan* scan, const DerReader* reader) noexcept nogil:
    cdef int status = der_finish(reader)
    return DER_OK if status == DER_OK else fail(scan, reader.at, status)


cdef inline int read_oid(RequestScan* scan, DerReader* reader, DerReader* contents) noexcept nogil:
    cdef int status = read(scan, reader, TAG_OBJECT_IDENTIFIER, contents)
    if status != DER_OK:
        return status
    status = der_check_oid(contents)
    return DER_OK if status == DER_OK else fail(scan, contents.at, status)


cdef inline int read_integer(RequestScan* scan, DerReader* reader, DerReader* contents) noexcept nogil:
    cdef int status = read(scan, reader, TAG_INTEGER, contents)
    if status != DER_OK:
        return status
    status = der_check_integer(contents)
    return DER_OK if status == DER_OK else fail(scan, contents.at, status)


cdef inline int read_hash(RequestScan* scan, DerReader* reader, DerReader* contents) noexcept nogil:
    cdef int status = read(scan, reader, TAG_OCTET_STRING, contents)
    if status != DER_OK:
        return status
    return DER_OK if contents.remaining <= MAX_HASH else fail(scan, contents.at, HASH_TOO_LONG)


cdef inline HashKind hash_kind_of(const DerReader* oid) noexcept nogil:
    if der_equals(oid, ID_SHA1, 5):
        return HASH_SHA1
    if oid.remaining == 9:
        if oid.at[8] == 1 and is_under(oid, ID_SHA2_ARC):
            return HASH_SHA256
        if oid.at[8] == 2 and is_under(oid, ID_SHA2_ARC):
            return HASH_SHA384
        if oid.at[8] == 3 and is_under(oid, ID_SHA2_ARC):
            return HASH_SHA512
    return HASH_OTHER


cdef inline bint is_under(const DerReader* oid, const unsigned char* arc) noexcept nogil:
    # Precondition: oid has nine octets, arc eight.
    cdef DerReader head
    head.at = oid.at
    head.remaining = 8
    return der_equals(&head, arc, 8)


cdef int scan_cert_id(RequestScan* scan, DerReader* request, CertIDScan* cert_id) noexcept nogil:
    # CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING,
    #     issuerKeyHash OCTET STRING, serialNumber CertificateSerialNumber }
    cdef DerReader fields, algorithm, oid, parameters
    cdef int status
    cert_id.der.at = request.at
    status = read(scan, request, TAG_SEQUENCE, &fields)
    if status != DER_OK:
        return status
    cert_id.der.remaining = request.at - cert_id.der.at

    status = read(scan, &fields, TAG_SEQUENCE, &algorithm)
    if status != DER_OK:
        return status
    status = read_oid(scan, &algorithm, &oid)
    if status != DER_OK:
        return status
    # RFC 5754 §2: parameters of the SHA-2 family are absent, but NULL must be accepted; clients send either for SHA-1.
    # We read both alike and refuse any other, also for algorithms that we do not know: no digest that an issuer could
    # be named by takes parameters.
    if algorithm.remaining > 0:
        if not der_next_is(&algorithm, TAG_NULL):
            return fail(scan, algorithm.at, ALGORITHM_PARAMETERS)
        status = read(scan, &algorithm, TAG_NULL, &parameters)
        if status != DER_OK:
            return status
        if parameters.remaining > 0:
            return fail(scan, parameters.at, ALGORITHM_PARAMETERS)
        status = finish(scan, &algorithm)
        if status != DER_OK:
            return status
    cert_id.hash_kind = hash_kind_of(&oid)

    status = read_hash(scan, &fields, &cert_id.issuer_name_hash)
    if status != DER_OK:
        return status
    status = read_hash(scan, &fields, &cert_id.issuer_key_hash)
    if status != DER_OK:
        return status
    status = read_integer(scan, &fields, &cert_id.serial_octets)
    if status != DER_OK:
        return status
    if cert_id.serial_octets.remaining > MAX_SERIAL:
        return fail(scan, cert_id.serial_octets.at, SERIAL_TOO_LONG)
    return finish(scan, &fields)


cdef int scan_nonce(RequestScan* scan, const DerReader* value) noexcept nogil:
    cdef DerReader rest = value[0]
    cdef DerReader nonce
    cdef Py_ssize_t size
    cdef bint is_wrapped = der_read(&rest, TAG_OCTET_STRING, &nonce) == DER_OK and rest.remaining == 0
    size = nonce.remaining if is_wrapped else value.remaining
    # RFC 9654 §2.1: a nonce of no octet or of more than 128 MUST be refused with malformedRequest. We hold raw nonces
    # to the same, so that no spelling gets more octets in.
    if size < 1 or size > MAX_NONCE:
        return fail(scan, value.at, NONCE_LENGTH)
    if is_wrapped:
        scan.nonce_octets = value[0]
    return DER_OK


cdef int scan_acceptable_responses(RequestScan* scan, const DerReader* value) noexcept nogil:
    # AcceptableResponses ::= SEQUENCE OF OBJECT IDENTIFIER (RFC 6960 §4.4.3)
    cdef DerReader rest = value[0]
    cdef DerReader types, oid
    cdef int status = read(scan, &rest, TAG_SEQUENCE, &types)
    if status != DER_OK:
        return status
    status = finish(scan, &rest)
    if status != DER_OK:
        return status
    scan.accepts_basic = False
    while types.remaining > 0:
        status = read_oid(scan, &types, &oid)
        if status != DER_OK:
            return status
        if der_equals(&oid, ID_PKIX_OCSP_BASIC, 9):
            scan.accepts_basic = True
    return DER_OK


cdef int scan_extensions(RequestScan* scan, DerReader* explicit, bint is_single) noexcept nogil:
    # Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension
    # Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    cdef DerReader[MAX_EXTENSION_COUNT] seen
    cdef DerReader extensions, extension, boolean, value
    cdef DerReader* oid
    cdef const unsigned char* start
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t index
    cdef bint critical
    cdef int arc
    cdef int status = read(scan, explicit, TAG_SEQUENCE, &extensions)
    if status != DER_OK:
        return status
    status = finish(scan, explicit)
    if status != DER_OK:
        return status
    if extensions.remaining == 0:
        return fail(scan, extensions.at, EXTENSIONS_EMPTY)
    while extensions.remaining > 0:
        start = extensions.at
        if count == MAX_EXTENSION_COUNT:
            return fail(scan, start, TOO_MANY_EXTENSIONS)
        status = read(scan, &extensions, TAG_SEQUENCE, &extension)
        if status != DER_OK:
            return status
        oid = &seen[count]
        status = read_oid(scan, &extension, oid)
        if status != DER_OK:
            return status
        critical = False
        if der_next_is(&extension, TAG_BOOLEAN):
            status = read(scan, &extension, TAG_BOOLEAN, &boolean)
            if status != DER_OK:
                return status
            status = der_check_boolean(&boolean, &critical)
            if status != DER_OK:
                return fail(scan, boolean.at, status)
        status = read(scan, &extension, TAG_OCTET_STRING, &value)
        if status != DER_OK:
            return status
        status = finish(scan, &extension)
        if status != DER_OK:
            return status
        # RFC 5280 §4.2: at most one instance of an extension. Two nonces would leave open which one was answered.
        for index in range(count):
            if der_equals(oid, seen[index].at, seen[index].remaining):
                return fail(scan, start, DUPLICATE_EXTENSION)
        count += 1

        arc = oid.at[8] if oid.remaining == 9 and is_under(oid, ID_PKIX_OCSP) else 0
        if arc == ARC_NONCE:
            # RFC 9654 §2.1: the nonce stands in requestExtensions; elsewhere it is nothing to us.
            status = DER_OK if is_single else scan_nonce(scan, &value)
        elif arc == ARC_ACCEPTABLE_RESPONSES:
            status = DER_OK if is_single else scan_acceptable_responses(scan, &value)
        elif arc == ARC_PREFERRED_SIGNATURE_ALGORITHMS:
            if not is_single:
                scan.preferred_signature_algorithms_der = value
        elif arc != ARC_SERVICE_LOCATOR:
            # RFC 6960 §4.1.2: unrecognised extensions are ignored unless critical. What a critical one would have
            # meant we cannot know, so nothing may be signed; the rest is still checked first.
            if critical and scan.unsupported_at == NULL:
                scan.unsupported_at = start
        if status != DER_OK:
            return status
    return DER_OK


cdef int scan_request_list(RequestScan* scan, DerReader* request_list, Py_ssize_t max_cert_ids) noexcept nogil:
    # requestList SEQUENCE OF Request
    # Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }
    cdef DerReader request, explicit
    cdef int status
    # RFC 6960 §4.1.1: an empty list asks nothing.
    if request_list.remaining == 0:
        return fail(scan, request_list.at, REQUEST_LIST_EMPTY)
    while request_list.remaining > 0:
        if scan.cert_id_count == max_cert_ids:
            return fail(scan, request_list.at, TOO_MANY_CERT_IDS)
        status = read(scan, request_list, TAG_SEQUENCE, &request)
        if status != DER_OK:
            return status
        status = scan_cert_id(scan, &request, &scan.cert_ids[scan.cert_id_count])
        if status != DER_OK:
            return status
        scan.cert_id_count += 1
        if der_next_is(&request, TAG_CONTEXT_0):
            status = read(scan, &request, TAG_CONTEXT_0, &explicit)
            if status != DER_OK:
                return status
            status = scan_extensions(scan, &explicit, True)
            if status != DER_OK:
                return status
        status = finish(scan, &request)
        if status != DER_OK:
            return status
    return DER_OK


cdef int scan_requestor_name(RequestScan* scan, DerReader* explicit) noexcept nogil:
    # GeneralName ::= CHOICE (RFC 5280 §4.2.1.6): [0] to [8]; [4] is EXPLICIT since Name is itself a CHOICE.
    cdef DerReader name
    cdef const unsigned char* start = explicit.at
    cdef unsigned char tag = 0
    cdef int status = der_read_any(explicit, &tag, &name)
    if status != DER_OK:
        return fail(scan, start, status)
    # Constructed: otherName, x400Address, directoryName, ediPartyName. Primitive: the other five.
    if tag not in (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88):
        return fail(scan, start, REQUESTOR_NAME_NOT_GENERAL_NAME)
    return finish(scan, explicit)


cdef int scan_signature(RequestScan* scan, DerReader* explicit) noexcept nogil:
    # Signature ::= SEQUENCE { signatureAlgorithm AlgorithmIdentifier, signature BIT STRING,
    #     certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
    cdef DerReader signature, algorithm, oid, skipped, certs, certificates
    cdef unsigned char tag = 0
    cdef Py_ssize_t count = 0
    cdef int status = read(scan, explicit, TAG_SEQUENCE, &signature)
    if status != DER_OK:
        return status
    status = finish(scan, explicit)
    if status != DER_OK:
        return status
    status = read(scan, &signature, TAG_SEQUENCE, &algorithm)
    if status != DER_OK:
        return status
    status = read_oid(scan, &algorithm, &oid)
    if status != DER_OK:
        return status
    if algorithm.remaining > 0:
        status = der_read_any(&algorithm, &tag, &skipped)
        if status != DER_OK:
            return fail(scan, algorithm.at, status)
        status = finish(scan, &algorithm)
        if status != DER_OK:
            return status
    status = read(scan, &signature, TAG_BIT_STRING, &skipped)
    if status != DER_OK:
        return status
    status = der_check_bit_string(&skipped)
    if status != DER_OK:
        return fail(scan, skipped.at, status)
    if der_next_is(&signature, TAG_CONTEXT_0):
        status = read(scan, &signature, TAG_CONTEXT_0, &certs)
        if status != DER_OK:
            return status
        status = read(scan, &certs, TAG_SEQUENCE, &certificates)
        if status != DER_OK:
            return status
        status = finish(scan, &certs)
        if status != DER_OK:
            return status
        # Certificates from strangers are the riskiest octets of a request (CVE-2022-0778): stepped over, never entered.
        while certificates.remaining > 0:
            if count == MAX_CERTIFICATE_COUNT:
                return fail(scan, certificates.at, TOO_MANY_CERTIFICATES)
            status = read(scan, &certificates, TAG_SEQUENCE, &skipped)
            if status != DER_OK:
                return status
            count += 1
    return finish(scan, &signature)


cdef int scan_tbs_request(RequestScan* scan, DerReader* tbs_request, Py_ssize_t max_cert_ids) noexcept nogil:
    # TBSRequest ::= SEQUENCE { version [0] EXPLICIT Version DEFAULT v1, requestorName [1] EXPLICIT GeneralName OPTIONAL,
    #     requestList SEQUENCE OF Request, requestExtensions [2] EXPLICIT Extensions OPTIONAL }
    cdef DerReader explicit, contents
    cdef int status
    if der_next_is(tbs_request, TAG_CONTEXT_0):
        status = read(scan, tbs_request, TAG_CONTEXT_0, &explicit)
        if status != DER_OK:
            return status
        status = read_integer(scan, &explicit, &contents)
        if status != DER_OK:
            return status
        status = finish(scan, &explicit)
        if status != DER_OK:
            return status
        # X.690 §11.5: a DEFAULT value is left out. We take v1 written out, as old clients do; there is no other.
        if contents.remaining != 1 or contents.at[0] != 0:
            return fail(scan, contents.at, VERSION_NOT_V1)
    if der_next_is(tbs_request, TAG_CONTEXT_1):
        status = read(scan, tbs_request, TAG_CONTEXT_1, &explicit)
        if status != DER_OK:
            return status
        status = scan_requestor_name(scan, &explicit)
        if status != DER_OK:
            return status
        scan.has_requestor_name = True
    status = read(scan, tbs_request, TAG_SEQUENCE, &contents)
    if status != DER_OK:
        return status
    status = scan_request_list(scan, &contents, max_cert_ids)
    if status != DER_OK:
        return status
    if der_next_is(tbs_request, TAG_CONTEXT_2):
        status = read(scan, tbs_request, TAG_CONTEXT_2, &explicit)
        if status != DER_OK:
            return status
        status = scan_extensions(scan, &explicit, False)
        if status != DER_OK:
            return status
    return finish(scan, tbs_request)


cdef int scan_ocsp_request(
    const unsigned char* data, Py_ssize_t length, Py_ssize_t max_cert_ids, RequestScan* scan
) noexcept nogil:
    # OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
    cdef DerReader whole, request, contents
    cdef int status
    scan.cert_id_count = 0
    scan.has_requestor_name = False
    scan.has_signature = False
    scan.accepts_basic = True
    scan.nonce_octets.at = NULL
    scan.nonce_octets.remaining = 0
    scan.preferred_signature_algorithms_der.at = NULL
    scan.preferred_signature_algorithms_der.remaining = 0
    scan.unsupported_at = NULL
    scan.error_at = data
    whole.at = data
    whole.remaining = length
    if length > MAX_REQUEST:
        return fail(scan, data, REQUEST_TOO_LARGE)
    status = read(scan, &whole, TAG_SEQUENCE, &request)
    if status != DER_OK:
        return status
    status = finish(scan, &whole)
    if status != DER_OK:
        return status
    status = read(scan, &request, TAG_SEQUENCE, &contents)
    if status != DER_OK:
        return status
    status = scan_tbs_request(scan, &contents, max_cert_ids)
    if status != DER_OK:
        return status
    if der_next_is(&request, TAG_CONTEXT_0):
        status = read(scan, &request, TAG_CONTEXT_0, &contents)
        if status != DER_OK:
            return status
        status = scan_signature(scan, &contents)
        if status != DER_OK:
            return status
        scan.has_signature = True
    return finish(scan, &request)


cdef inline bytes octets(const DerReader* view):
    return PyBytes_FromStringAndSize(<const char*>view.at, view.remaining)


cdef CertID make_cert_id(const CertIDScan* scan):
    cdef CertID cert_id = CertID.__new__(CertID)
    if scan.hash_kind == HASH_SHA1:
        cert_id.hash_name = SHA1_NAME
    elif scan.hash_kind == HASH_SHA256:
        cert_id.hash_name = SHA256_NAME
    elif scan.hash_kind == HASH_SHA384:
        cert_id.hash_name = SHA384_NAME
    elif scan.hash_kind == HASH_SHA512:
        cert_id.hash_name = SHA512_NAME
    cert_id.issuer_name_hash = octets(&scan.issuer_name_hash)
    cert_id.issuer_key_hash = octets(&scan.issuer_key_hash)
    cert_id.serial_octets = octets(&scan.serial_octets)
    cert_id.der = octets(&scan.der)
    return cert_id


def parse_ocsp_request(bytes data not None, Py_ssize_t max_cert_ids=16):
    """Parse strict DER; raises MalformedRequest or Unsupported, never anything else.

    ``max_cert_ids`` is taken into 1 … MAX_CERT_IDS; a request with more is malformed.
    """
    cdef RequestScan scan
    cdef OCSPRequest request
    cdef Py_ssize_t index
    cdef int status
    # Alive for the whole call, since `data` is: the pointers in `scan` end with this function.
    cdef const unsigned char* start = <const unsigned char*>PyBytes_AS_STRING(data)
    status = scan_ocsp_request(start, PyBytes_GET_SIZE(data), min(max(max_cert_ids, 1), CERT_IDS_CEILING), &scan)
    if status != DER_OK:
        raise MalformedRequest(_CODES[status], scan.error_at - start)
    if scan.unsupported_at != NULL:
        raise Unsupported("critical-extension", scan.unsupported_at - start)
    request = OCSPRequest.__new__(OCSPRequest)
    request.cert_ids = [make_cert_id(&scan.cert_ids[index]) for index in range(scan.cert_id_count)]
    if scan.nonce_octets.at != NULL:
        request.nonce_octets = octets(&scan.nonce_octets)
    request.has_requestor_name = scan.has_requestor_name
    request.has_signature = scan.has_signature
    request.accepts_basic = scan.accepts_basic
    if scan.preferred_signature_algorithms_der.at != NULL:
        request.preferred_signature_algorithms_der = octets(&scan.preferred_signature_algorithms_der)
    return request
