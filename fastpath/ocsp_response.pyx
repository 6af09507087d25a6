"""OCSPResponse (RFC 6960 §4.2.1): what is signed, what is stored of it, and the exact DER put together again.

Of a ready answer only serial, status and signature are its own. What answers signed together share is an AnswerHeader,
what all answers of one signer share is a ResponseTemplate; ``assemble`` joins the three to the bytes that were signed. A dual
answer says the same of one certificate twice, under its SHA-1 and its SHA-256 CertID (RFC 9919 §3.2.1, docs/adr/0009).
Knows no keys, clock, store or HTTP. The presigner encodes and packs, the workers assemble, tools unpack.

What RFC 6960 leaves open is settled here once: ResponderID is byKey, times have whole seconds, nextUpdate is always
there, no extension is ever critical, and a field that would be empty is absent.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastpath.der cimport (
    DER_OK,
    TAG_BIT_STRING,
    TAG_CONTEXT_0,
    TAG_CONTEXT_1,
    TAG_INTEGER,
    TAG_OCTET_STRING,
    TAG_SEQUENCE,
    DerReader,
    der_check_integer,
    der_finish,
    der_read,
)
from fastpath.der_write cimport (
    DER_WRITE_MAX,
    GENERALIZED_TIME_SIZE,
    der_last_second,
    der_put_generalized_time,
    der_put_header,
    der_put_octets,
    der_size,
)
from fastpath.ocsp_response_write cimport (
    ARCHIVE_CUTOFF_SIZE,
    GOOD,
    NO_REASON,
    NO_TIME,
    REVOKED,
    TIMES_SIZE,
    UNKNOWN,
    Envelope,
    is_one_sequence,
    is_reason,
    is_uncritical_extension,
    measure_envelope,
    put_archive_cutoff,
    put_envelope_head,
    put_status,
    put_times,
    status_size,
)

cdef enum:
    KEY_HASH_SIZE = 20  # SHA-1
    BY_KEY_SIZE = 4 + KEY_HASH_SIZE
    MAX_NONCE = 128  # RFC 9654 §2.1

    SLOT_BITS = 0x0F
    STATUS_SHIFT = 4
    ARCHIVE_BIT = 0x40
    DUAL_BIT = 0x80  # two SingleResponses: SHA-1 CertID first, then SHA-256
    NO_REASON_OCTET = 0xFF
    TIME_OCTETS = 5  # of a stored time: up to the year 36812
    REVOKED_OCTETS = TIME_OCTETS + 1

    ENCODING_VERSION = 1  # of stored templates and headers: other versions are refused, not guessed at
    SIGNER_ID_OCTETS = 8
    HEADER_OCTETS = 1 + 4 * TIME_OCTETS + SIGNER_ID_OCTETS
    MAX_CERTS = 15

cdef long long STORED_NO_TIME = 0xFFFFFFFFFF

# The whole OBJECT IDENTIFIER element of id-pkix-ocsp-nonce, 1.3.6.1.5.5.7.48.1.2.
cdef bytes ID_PKIX_OCSP_NONCE = bytes.fromhex("06092b0601050507300102")

# RFC 6960 §4.4.8: value NULL, not critical, in responseExtensions only.
EXTENDED_REVOKE_DER = bytes.fromhex("300f06092b060105050730010904020500")

# AlgorithmIdentifier of each CertID hash with parameters NULL, which every client reads, and the hash's size.
cdef dict HASH_ALGORITHMS = {
    "sha1": (bytes.fromhex("300906052b0e03021a0500"), 20),
    "sha256": (bytes.fromhex("300d06096086480165030402010500"), 32),
    "sha384": (bytes.fromhex("300d06096086480165030402020500"), 48),
    "sha512": (bytes.fromhex("300d06096086480165030402030500"), 64),
}

# RFC 6960 §4.2.1: an error has no responseBytes; 4 is not used.
cdef dict ERROR_RESPONSES = {status: bytes([0x30, 0x03, 0x0A, 0x01, status]) for status in (1, 2, 3, 5, 6)}


cdef inline const unsigned char* octets_of(bytes value) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(value)


cdef inline bytes new_bytes(Py_ssize_t size):
    """Make bytes that the caller fills before anybody else sees them."""
    return PyBytes_FromStringAndSize(NULL, size)


cdef int check_sequence(bytes der, str what) except -1:
    if not is_one_sequence(octets_of(der), PyBytes_GET_SIZE(der)):
        raise ValueError(f"{what} must be the DER of one SEQUENCE, without trailing octets")
    return 0


cdef int check_time(long long seconds, str what) except -1:
    if seconds < 0 or seconds > der_last_second():
        raise ValueError(f"{what} is {seconds}: must be POSIX seconds within the years 1970 to 9999")
    return 0


cdef int check_status(int cert_status, long long revoked_at, int reason) except -1:
    if cert_status < GOOD or cert_status > UNKNOWN:
        raise ValueError(f"cert_status is {cert_status}: must be 0 (good), 1 (revoked) or 2 (unknown)")
    if cert_status == REVOKED:
        check_time(revoked_at, "revoked_at")
        if not is_reason(reason):
            raise ValueError(f"reason is {reason}: must be -1 (none), 1 to 6, 9 or 10")
    return 0


cdef int check_terms(long long this_update, long long next_update, long long archive_cutoff) except -1:
    check_time(this_update, "this_update")
    check_time(next_update, "next_update")
    if next_update < this_update:
        raise ValueError(f"next_update {next_update} is before this_update {this_update}")
    if archive_cutoff != NO_TIME:
        check_time(archive_cutoff, "archive_cutoff")
    return 0


def encode_cert_id(
    str hash_name not None,
    bytes issuer_name_hash not None,
    bytes issuer_key_hash not None,
    bytes serial_octets not None,
):
    cdef tuple known = HASH_ALGORITHMS.get(hash_name)
    if known is None:
        raise ValueError(f"hash_name is {hash_name!r}: must be one of {', '.join(HASH_ALGORITHMS)}")
    cdef bytes algorithm = known[0]
    cdef Py_ssize_t hash_size = known[1]
    cdef Py_ssize_t serial_size = PyBytes_GET_SIZE(serial_octets)
    cdef DerReader serial
    if PyBytes_GET_SIZE(issuer_name_hash) != hash_size or PyBytes_GET_SIZE(issuer_key_hash) != hash_size:
        raise ValueError(f"a {hash_name} hash has {hash_size} octets")
    serial.at = octets_of(serial_octets)
    serial.remaining = serial_size
    # X.690 §8.3.2: the serial is repeated as it stands, so it must be minimal to begin with.
    if serial_size > DER_WRITE_MAX or der_check_integer(&serial) != DER_OK:
        raise ValueError("serial_octets must be the minimal contents octets of an INTEGER")
    cdef Py_ssize_t contents = PyBytes_GET_SIZE(algorithm) + 2 * der_size(hash_size) + der_size(serial_size)
    cdef bytes der = new_bytes(der_size(contents))
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(der)
    at = der_put_header(at, TAG_SEQUENCE, contents)
    at = der_put_octets(at, octets_of(algorithm), PyBytes_GET_SIZE(algorithm))
    at = der_put_header(at, TAG_OCTET_STRING, hash_size)
    at = der_put_octets(at, octets_of(issuer_name_hash), hash_size)
    at = der_put_header(at, TAG_OCTET_STRING, hash_size)
    at = der_put_octets(at, octets_of(issuer_key_hash), hash_size)
    at = der_put_header(at, TAG_INTEGER, serial_size)
    der_put_octets(at, serial.at, serial_size)
    return der


def encode_single_response(
    bytes cert_id_der not None,
    int cert_status,
    long long revoked_at,
    int reason,
    long long this_update,
    long long next_update,
    long long archive_cutoff=NO_TIME,
):
    check_sequence(cert_id_der, "cert_id_der")
    check_status(cert_status, revoked_at, reason)
    check_terms(this_update, next_update, archive_cutoff)
    cdef Py_ssize_t contents = PyBytes_GET_SIZE(cert_id_der) + status_size(cert_status, reason) + TIMES_SIZE
    if archive_cutoff != NO_TIME:
        contents += ARCHIVE_CUTOFF_SIZE
    cdef bytes der = new_bytes(der_size(contents))
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(der)
    at = der_put_header(at, TAG_SEQUENCE, contents)
    at = der_put_octets(at, octets_of(cert_id_der), PyBytes_GET_SIZE(cert_id_der))
    at = put_status(at, cert_status, revoked_at, reason)
    at = put_times(at, this_update, next_update)
    if archive_cutoff != NO_TIME:
        put_archive_cutoff(at, archive_cutoff)
    return der


def encode_response_extension_nonce(bytes nonce_octets not None):
    cdef DerReader reader, nonce
    cdef Py_ssize_t size = PyBytes_GET_SIZE(nonce_octets)
    reader.at = octets_of(nonce_octets)
    reader.remaining = size
    # RFC 9654 §2.1: Nonce ::= OCTET STRING (SIZE (1..128)); what the requester chose is not signed without bounds.
    if (
        der_read(&reader, TAG_OCTET_STRING, &nonce) != DER_OK
        or der_finish(&reader) != DER_OK
        or not 1 <= nonce.remaining <= MAX_NONCE
    ):
        raise ValueError("nonce_octets must be the DER of a Nonce, an OCTET STRING of 1 to 128 octets")
    cdef Py_ssize_t contents = PyBytes_GET_SIZE(ID_PKIX_OCSP_NONCE) + der_size(size)
    cdef bytes der = new_bytes(der_size(contents))
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(der)
    at = der_put_header(at, TAG_SEQUENCE, contents)
    at = der_put_octets(at, octets_of(ID_PKIX_OCSP_NONCE), PyBytes_GET_SIZE(ID_PKIX_OCSP_NONCE))
    at = der_put_header(at, TAG_OCTET_STRING, size)
    der_put_octets(at, octets_of(nonce_octets), size)
    return der


cdef inline unsigned char* put_envelope_tail(
    unsigned char* at, ResponseTemplate template, const unsigned char* signature, Py_ssize_t signature_size
) noexcept:
    cdef bytes algorithm = template.signature_algorithm_der
    at = der_put_octets(at, octets_of(algorithm), PyBytes_GET_SIZE(algorithm))
    at = der_put_header(at, TAG_BIT_STRING, 1 + signature_size)
    at[0] = 0  # no unused bits
    at = der_put_octets(at + 1, signature, signature_size)
    return der_put_octets(at, octets_of(template.certs_field), PyBytes_GET_SIZE(template.certs_field))


cdef list checked_parts(object parts, str what):
    """Take a sequence of bytes as a list whose total size is bounded."""
    cdef list taken = []
    cdef Py_ssize_t total = 0
    cdef bytes part
    for part in parts:
        if part is None:
            raise TypeError(f"{what} holds None")
        total += PyBytes_GET_SIZE(part)
        if total > DER_WRITE_MAX:
            raise ValueError(f"{what} are larger than {DER_WRITE_MAX} octets")
        check_sequence(part, f"each of {what}")
        taken.append(part)
    return taken


cdef bytes wrap(unsigned char outer, list parts):
    """Put parts into a SEQUENCE, and that into the EXPLICIT tag `outer`; 0: into nothing."""
    cdef bytes part
    cdef Py_ssize_t contents = 0
    for part in parts:
        contents += PyBytes_GET_SIZE(part)
    cdef bytes der = new_bytes(der_size(der_size(contents)) if outer else der_size(contents))
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(der)
    if outer:
        at = der_put_header(at, outer, der_size(contents))
    at = der_put_header(at, TAG_SEQUENCE, contents)
    for part in parts:
        at = der_put_octets(at, octets_of(part), PyBytes_GET_SIZE(part))
    return der


@cython.final
cdef class ResponseTemplate:
    # __cinit__, not __init__: no object exists whose fields are still None, and none changes after it was made.
    def __cinit__(self, bytes responder_key_hash not None, bytes signature_algorithm_der not None, certs_der):
        # RFC 6960 §4.2.1: KeyHash is the SHA-1 of the responder's key, whatever hash the CertIDs have.
        if PyBytes_GET_SIZE(responder_key_hash) != KEY_HASH_SIZE:
            raise ValueError(f"responder_key_hash is a SHA-1 hash: {KEY_HASH_SIZE} octets")
        check_sequence(signature_algorithm_der, "signature_algorithm_der")
        if PyBytes_GET_SIZE(signature_algorithm_der) > 0xFFFF:
            raise ValueError("signature_algorithm_der is larger than 65535 octets")
        cdef list certs = checked_parts(certs_der, "certs_der")
        if len(certs) > MAX_CERTS:
            raise ValueError(f"certs_der holds {len(certs)} certificates: at most {MAX_CERTS}")
        self.responder_key_hash = responder_key_hash
        self.signature_algorithm_der = signature_algorithm_der
        self.certs_der = tuple(certs)
        self.by_key = b"\xa2\x16\x04\x14" + responder_key_hash
        # RFC 6960 §4.2.1: without certificates certs SHOULD be absent; an empty SEQUENCE breaks OpenSSL and GnuTLS.
        self.certs_field = wrap(TAG_CONTEXT_0, certs) if certs else b""

    def to_bytes(self):
        cdef list parts = [
            bytes([ENCODING_VERSION]),
            self.responder_key_hash,
            PyBytes_GET_SIZE(self.signature_algorithm_der).to_bytes(2, "big"),
            self.signature_algorithm_der,
            bytes([len(self.certs_der)]),
        ]
        for certificate in self.certs_der:
            parts += [len(certificate).to_bytes(4, "big"), certificate]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, bytes data not None):
        cdef Py_ssize_t at = 1 + KEY_HASH_SIZE + 2
        cdef Py_ssize_t size
        cdef list certs = []
        if not data or data[0] != ENCODING_VERSION:
            raise ValueError("not a response template of a version that is known here")
        if len(data) < at:
            raise ValueError("response template is cut short")
        key_hash = data[1 : 1 + KEY_HASH_SIZE]
        size = int.from_bytes(data[at - 2 : at], "big")
        algorithm = data[at : at + size]
        at += size
        if len(data) < at + 1:
            raise ValueError("response template is cut short")
        for _ in range(data[at]):
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            if len(data) - at - 5 < size:
                raise ValueError("response template is cut short")
            certs.append(data[at + 5 : at + 5 + size])
            at += 4 + size
        if len(data) != at + 1:
            raise ValueError("response template has trailing octets")
        return cls(key_hash, algorithm, certs)

    def tbs_response_data(self, singles, long long produced_at, extensions=()):
        cdef list responses = checked_parts(singles, "singles")
        cdef list taken = checked_parts(extensions, "extensions")
        cdef bytes part
        if not responses:
            raise ValueError("singles is empty: a response speaks of at least one certificate")
        for part in taken:
            if not is_uncritical_extension(octets_of(part), PyBytes_GET_SIZE(part)):
                raise ValueError("each of extensions must be an Extension that is not critical")
        check_time(produced_at, "produced_at")
        cdef bytes produced = new_bytes(GENERALIZED_TIME_SIZE)
        der_put_generalized_time(<unsigned char*>PyBytes_AS_STRING(produced), produced_at)
        # RFC 6960 §4.2.2.3: version is v1, which DER leaves out. RFC 9919 §3.2.1: responseExtensions only where asked
        # for; an empty list would be invalid (SIZE (1..MAX)).
        cdef list fields = [self.by_key, produced, wrap(0, responses)]
        if taken:
            fields.append(wrap(TAG_CONTEXT_1, taken))
        return wrap(0, fields)

    def stored_answers(
        self,
        list issuers not None,
        list serials not None,
        dict wanted not None,
        long long this_update,
        long long next_update,
        long long produced_at,
        long long archive_cutoff=NO_TIME,
    ):
        cdef list messages = [], singles
        cdef bytes serial
        cdef tuple issuer
        for serial in serials:
            want = wanted[serial]
            singles = []
            for issuer in issuers:
                singles.append(
                    encode_single_response(
                        encode_cert_id(issuer[0], issuer[1], issuer[2], serial),
                        want[0],
                        want[1],
                        want[2],
                        this_update,
                        next_update,
                        archive_cutoff if want[3] else NO_TIME,
                    )
                )
            messages.append(self.tbs_response_data(singles, produced_at))
        return messages

    def nonce_answer(
        self,
        str hash_name not None,
        bytes issuer_name_hash not None,
        bytes issuer_key_hash not None,
        bytes serial_octets not None,
        wanted,
        long long produced_at,
        long long archive_cutoff,
        bytes nonce_octets not None,
    ):
        cdef bytes single = encode_single_response(
            encode_cert_id(hash_name, issuer_name_hash, issuer_key_hash, serial_octets),
            wanted[0],
            wanted[1],
            wanted[2],
            wanted[5],
            wanted[6],
            archive_cutoff if wanted[3] else NO_TIME,
        )
        return self.tbs_response_data((single,), produced_at, (encode_response_extension_nonce(nonce_octets),))

    def response(self, bytes tbs_response_data not None, bytes signature not None):
        check_sequence(tbs_response_data, "tbs_response_data")
        cdef Envelope envelope
        cdef Py_ssize_t size = PyBytes_GET_SIZE(signature)
        if not 1 <= size <= DER_WRITE_MAX:
            raise ValueError("signature is empty or too large")
        measure_envelope(
            &envelope,
            PyBytes_GET_SIZE(tbs_response_data),
            size,
            PyBytes_GET_SIZE(self.signature_algorithm_der) + PyBytes_GET_SIZE(self.certs_field),
        )
        cdef bytes der = new_bytes(envelope.total)
        cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(der)
        at = put_envelope_head(at, &envelope)
        # RFC 6960 §4.2.1: the signature is over the DER of ResponseData, which therefore goes out untouched.
        at = der_put_octets(at, octets_of(tbs_response_data), PyBytes_GET_SIZE(tbs_response_data))
        put_envelope_tail(at, self, octets_of(signature), size)
        return der


cdef inline unsigned char* put_stored_time(unsigned char* at, long long seconds) noexcept nogil:
    cdef int index
    for index in range(TIME_OCTETS):
        at[index] = <unsigned char>((seconds >> (8 * (TIME_OCTETS - 1 - index))) & 0xFF)
    return at + TIME_OCTETS


cdef inline long long get_stored_time(const unsigned char* at) noexcept nogil:
    cdef long long value = 0
    cdef int index
    for index in range(TIME_OCTETS):
        value = (value << 8) | at[index]
    return value


@cython.final
cdef class AnswerHeader:
    def __cinit__(
        self,
        long long this_update,
        long long next_update,
        long long produced_at,
        str signer_id not None,
        long long archive_cutoff=NO_TIME,
    ):
        check_terms(this_update, next_update, archive_cutoff)
        check_time(produced_at, "produced_at")
        if len(signer_id) != 2 * SIGNER_ID_OCTETS or signer_id.strip("0123456789abcdef"):
            raise ValueError(f"signer_id is {signer_id!r}: must be {2 * SIGNER_ID_OCTETS} lower-case hex digits")
        self.this_update = this_update
        self.next_update = next_update
        self.produced_at = produced_at
        self.archive_cutoff = archive_cutoff
        self.signer_id = signer_id
        der_put_generalized_time(self.produced_der, produced_at)
        put_times(self.times_der, this_update, next_update)
        if archive_cutoff != NO_TIME:
            put_archive_cutoff(self.archive_cutoff_der, archive_cutoff)

    def to_bytes(self):
        cdef bytes signer_id = bytes.fromhex(self.signer_id)
        cdef bytes data = new_bytes(HEADER_OCTETS)
        cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(data)
        at[0] = ENCODING_VERSION
        at = put_stored_time(at + 1, self.this_update)
        at = put_stored_time(at, self.next_update)
        at = put_stored_time(at, self.produced_at)
        at = put_stored_time(at, STORED_NO_TIME if self.archive_cutoff == NO_TIME else self.archive_cutoff)
        der_put_octets(at, octets_of(signer_id), SIGNER_ID_OCTETS)
        return data

    @classmethod
    def from_bytes(cls, bytes data not None):
        cdef const unsigned char* at = octets_of(data)
        if not data or at[0] != ENCODING_VERSION:
            raise ValueError("not an answer header of a version that is known here")
        if PyBytes_GET_SIZE(data) != HEADER_OCTETS:
            raise ValueError(f"an answer header has {HEADER_OCTETS} octets, not {len(data)}")
        at += 1
        cdef long long archive_cutoff = get_stored_time(at + 3 * TIME_OCTETS)
        return cls(
            get_stored_time(at),
            get_stored_time(at + TIME_OCTETS),
            get_stored_time(at + 2 * TIME_OCTETS),
            data[HEADER_OCTETS - SIGNER_ID_OCTETS :].hex(),
            NO_TIME if archive_cutoff == STORED_NO_TIME else archive_cutoff,
        )


cdef bint scan_packed(const unsigned char* at, Py_ssize_t size, PackedScan* scan) noexcept nogil:
    """Take a packed answer apart; False where the octets are not one."""
    if size < 1 or size > DER_WRITE_MAX:
        return False
    scan.slot = at[0] & SLOT_BITS
    scan.cert_status = (at[0] >> STATUS_SHIFT) & 3
    scan.has_archive_cutoff = at[0] & ARCHIVE_BIT != 0
    scan.is_dual = at[0] & DUAL_BIT != 0
    scan.revoked_at = 0
    scan.reason = NO_REASON
    at += 1
    size -= 1
    if scan.cert_status > UNKNOWN:
        return False
    if scan.cert_status == REVOKED:
        if size < REVOKED_OCTETS:
            return False
        scan.revoked_at = get_stored_time(at)
        if at[TIME_OCTETS] != NO_REASON_OCTET:
            scan.reason = at[TIME_OCTETS]
        if scan.revoked_at > der_last_second() or not is_reason(scan.reason):
            return False
        at += REVOKED_OCTETS
        size -= REVOKED_OCTETS
    scan.signature = at
    scan.signature_size = size
    return size > 0


@cython.final
@cython.auto_pickle(False)
cdef class PackedAnswer:
    cdef readonly int slot
    cdef readonly int cert_status
    cdef readonly long long revoked_at
    cdef readonly int reason
    cdef readonly bint has_archive_cutoff
    cdef readonly bint is_dual
    cdef readonly bytes signature


def pack_answer(
    int slot,
    int cert_status,
    long long revoked_at,
    int reason,
    bint has_archive_cutoff,
    bytes signature not None,
    bint is_dual=False,
):
    if not 0 <= slot <= SLOT_BITS:
        raise ValueError(f"slot is {slot}: must be 0 to {SLOT_BITS}")
    check_status(cert_status, revoked_at, reason)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(signature)
    if not 1 <= size <= DER_WRITE_MAX - REVOKED_OCTETS - 1:
        raise ValueError("signature is empty or too large")
    cdef bytes packed = new_bytes(1 + (REVOKED_OCTETS if cert_status == REVOKED else 0) + size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(packed)
    at[0] = <unsigned char>(slot | cert_status << STATUS_SHIFT)
    if has_archive_cutoff:
        at[0] |= ARCHIVE_BIT
    if is_dual:
        at[0] |= DUAL_BIT
    at += 1
    if cert_status == REVOKED:
        at = put_stored_time(at, revoked_at)
        at[0] = NO_REASON_OCTET if reason == NO_REASON else <unsigned char>reason
        at += 1
    der_put_octets(at, octets_of(signature), size)
    return packed


def unpack_answer(bytes packed not None):
    cdef PackedScan scan
    if not scan_packed(octets_of(packed), PyBytes_GET_SIZE(packed), &scan):
        raise ValueError("not a packed answer")
    cdef PackedAnswer answer = PackedAnswer.__new__(PackedAnswer)
    answer.slot = scan.slot
    answer.cert_status = scan.cert_status
    answer.revoked_at = scan.revoked_at
    answer.reason = scan.reason
    answer.has_archive_cutoff = scan.has_archive_cutoff
    answer.is_dual = scan.is_dual
    answer.signature = PyBytes_FromStringAndSize(<const char*>scan.signature, scan.signature_size)
    return answer


def packed_slot_and_status(bytes packed not None):
    cdef PackedScan scan
    if not scan_packed(octets_of(packed), PyBytes_GET_SIZE(packed), &scan):
        raise ValueError("not a packed answer")
    return scan.slot, scan.cert_status


def is_dual(bytes packed not None):
    return PyBytes_GET_SIZE(packed) > 0 and octets_of(packed)[0] & DUAL_BIT != 0


cdef int cert_status_of_packed(bytes packed) except -1:
    cdef PackedScan scan
    if not scan_packed(octets_of(packed), PyBytes_GET_SIZE(packed), &scan):
        raise ValueError("not a packed answer")
    return scan.cert_status


cdef Py_ssize_t measure_answer(
    AnswerPlan* plan,
    ResponseTemplate template,
    AnswerHeader header,
    Py_ssize_t cert_id_size,
    Py_ssize_t second_size,
    const unsigned char* packed,
    Py_ssize_t packed_size,
) noexcept:
    cdef Py_ssize_t rest
    if not scan_packed(packed, packed_size, &plan.scan):
        return -1
    if plan.scan.has_archive_cutoff and header.archive_cutoff == NO_TIME:
        return -1
    if plan.scan.is_dual != (second_size > 0):
        return -1
    rest = status_size(plan.scan.cert_status, plan.scan.reason) + TIMES_SIZE
    if plan.scan.has_archive_cutoff:
        rest += ARCHIVE_CUTOFF_SIZE
    plan.single = cert_id_size + rest
    plan.second = second_size + rest if plan.scan.is_dual else 0
    plan.responses = der_size(plan.single) + (der_size(plan.second) if plan.scan.is_dual else 0)
    plan.tbs = BY_KEY_SIZE + GENERALIZED_TIME_SIZE + der_size(plan.responses)
    measure_envelope(
        &plan.envelope,
        der_size(plan.tbs),
        plan.scan.signature_size,
        PyBytes_GET_SIZE(template.signature_algorithm_der) + PyBytes_GET_SIZE(template.certs_field),
    )
    return plan.envelope.total


cdef inline unsigned char* put_single(
    unsigned char* at,
    const AnswerPlan* plan,
    AnswerHeader header,
    Py_ssize_t contents,
    const unsigned char* cert_id,
    Py_ssize_t cert_id_size,
) noexcept:
    at = der_put_header(at, TAG_SEQUENCE, contents)
    at = der_put_octets(at, cert_id, cert_id_size)
    at = put_status(at, plan.scan.cert_status, plan.scan.revoked_at, plan.scan.reason)
    at = der_put_octets(at, header.times_der, TIMES_SIZE)
    if plan.scan.has_archive_cutoff:
        at = der_put_octets(at, header.archive_cutoff_der, ARCHIVE_CUTOFF_SIZE)
    return at


cdef unsigned char* write_answer(
    unsigned char* at,
    const AnswerPlan* plan,
    ResponseTemplate template,
    AnswerHeader header,
    const unsigned char* cert_id,
    Py_ssize_t cert_id_size,
    const unsigned char* second,
    Py_ssize_t second_size,
) noexcept:
    at = put_envelope_head(at, &plan.envelope)
    at = der_put_header(at, TAG_SEQUENCE, plan.tbs)
    at = der_put_octets(at, octets_of(template.by_key), BY_KEY_SIZE)
    at = der_put_octets(at, header.produced_der, GENERALIZED_TIME_SIZE)
    at = der_put_header(at, TAG_SEQUENCE, plan.responses)
    at = put_single(at, plan, header, plan.single, cert_id, cert_id_size)
    if plan.scan.is_dual:
        at = put_single(at, plan, header, plan.second, second, second_size)
    return put_envelope_tail(at, template, plan.scan.signature, plan.scan.signature_size)


def assemble(
    ResponseTemplate template not None,
    AnswerHeader header not None,
    bytes cert_id_der not None,
    bytes packed not None,
    bytes second_der=None,
):
    cdef AnswerPlan plan
    cdef Py_ssize_t cert_id_size = PyBytes_GET_SIZE(cert_id_der)
    cdef Py_ssize_t second_size = 0
    cdef const unsigned char* second = NULL
    cdef Py_ssize_t size
    if second_der is not None:
        second, second_size = octets_of(second_der), PyBytes_GET_SIZE(second_der)
    if not is_one_sequence(octets_of(cert_id_der), cert_id_size) or (
        second != NULL and not is_one_sequence(second, second_size)
    ):
        raise ValueError("cert_id_der must be the DER of one CertID, without trailing octets")
    size = measure_answer(
        &plan, template, header, cert_id_size, second_size, octets_of(packed), PyBytes_GET_SIZE(packed)
    )
    if size < 0:
        raise ValueError(
            "not a packed answer, or signed with archiveCutoff while its header has none, or with another number of CertIDs"
        )
    cdef bytes der = new_bytes(size)
    write_answer(
        <unsigned char*>PyBytes_AS_STRING(der),
        &plan,
        template,
        header,
        octets_of(cert_id_der),
        cert_id_size,
        second,
        second_size,
    )
    return der


def error_response(int response_status):
    cdef object response = ERROR_RESPONSES.get(response_status)
    if response is None:
        raise ValueError(f"response_status is {response_status}: must be 1, 2, 3, 5 or 6")
    return response
