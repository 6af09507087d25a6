"""What workers and the presigning role say to each other, to octets and back, and the worker's last look at an answer.

Values and their encoding alone: the bounds' reasons and the streams are in responder/live.py. The presigning role reads what a
captured worker may have written, and a worker what came from Redis: every length is compared with what is left before it
is used, and anything unexpected is ValueError. Integers are big-endian. tests/reference has the same in plain Python.
"""

from enum import IntEnum

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from fastpath.der cimport (
    DER_OK,
    TAG_CONTEXT_0,
    TAG_CONTEXT_1,
    TAG_OBJECT_IDENTIFIER,
    TAG_OCTET_STRING,
    TAG_SEQUENCE,
    DerReader,
    der_equals,
    der_read,
    der_read_any,
)

MAX_QUESTIONS = 1_000
MAX_SERIALS = 256
MAX_SERIAL_OCTETS = 64
MAX_NONCE_EXTN_VALUE = 131

cdef enum:
    VERSION = 1
    QUESTION_HEAD = 16  # id (4), CA (8), hash algorithm (1), octets of the nonce (1; 0: none), serials (2)
    REPLY_HEAD = 26  # id (4), kind (1), store hint (1), thisUpdate (8), nextUpdate (8), octets of the response (4)
    MOST_QUESTIONS = 1_000
    MOST_SERIALS = 256
    MOST_SERIAL_OCTETS = 64
    MOST_NONCE = 131
    TAG_ENUMERATED = 0x0A

cdef tuple HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")
cdef const unsigned char* ID_PKIX_OCSP_BASIC = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"  # 1.3.6.1.5.5.7.48.1.1
cdef const unsigned char* ID_PKIX_OCSP_NONCE = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x02"  # 1.3.6.1.5.5.7.48.1.2
cdef const char* HEX = b"0123456789abcdef"


class ReplyKind(IntEnum):
    """How a question ended."""

    ANSWER = 0
    TRY_LATER = 1  # cannot be said now, or changed while it was being signed
    UNAUTHORIZED = 2  # RFC 9919 §3.2.3: no record that could be answered from


cdef tuple KINDS = tuple(ReplyKind)


cdef class Question:
    cdef readonly unsigned long long id
    cdef readonly str ca
    cdef readonly str hash_name
    cdef readonly tuple serials
    cdef readonly bytes nonce_octets

    def __init__(
        self, unsigned long long id, str ca not None, str hash_name not None, tuple serials not None,
        bytes nonce_octets=None,
    ):
        self.id, self.ca, self.hash_name, self.serials, self.nonce_octets = id, ca, hash_name, serials, nonce_octets

    def __eq__(self, other):
        if type(other) is not Question:
            return NotImplemented
        return fields_of_question(self) == fields_of_question(<Question>other)

    def __repr__(self):
        return f"Question{fields_of_question(self)!r}"

    __hash__ = None


cdef tuple fields_of_question(Question one):
    return one.id, one.ca, one.hash_name, one.serials, one.nonce_octets


cdef class Reply:
    cdef readonly unsigned long long id
    cdef readonly object kind
    cdef readonly bytes response_der
    cdef readonly long long this_update
    cdef readonly long long next_update
    cdef readonly bint store_hint

    def __init__(
        self, unsigned long long id, kind, bytes response_der not None=b"", long long this_update=0,
        long long next_update=0, bint store_hint=False,
    ):
        self.id, self.kind, self.response_der = id, kind, response_der
        self.this_update, self.next_update, self.store_hint = this_update, next_update, store_hint

    def __eq__(self, other):
        if type(other) is not Reply:
            return NotImplemented
        return fields_of_reply(self) == fields_of_reply(<Reply>other)

    def __repr__(self):
        return f"Reply{fields_of_reply(self)!r}"

    __hash__ = None


cdef tuple fields_of_reply(Reply one):
    return one.id, one.kind, one.response_der, one.this_update, one.next_update, bool(one.store_hint)


# --- integers -----------------------------------------------------------------------------------------------------------


cdef inline void put(unsigned char* at, unsigned long long value, int size) noexcept nogil:
    cdef int index
    for index in range(size):
        at[index] = <unsigned char>(value >> (8 * (size - 1 - index)))


cdef inline unsigned long long get(const unsigned char* at, int size) noexcept nogil:
    cdef unsigned long long value = 0
    cdef int index
    for index in range(size):
        value = (value << 8) | at[index]
    return value


cdef inline int digit(Py_UCS4 char) except -1:
    if c"0" <= char <= c"9":
        return <int>char - c"0"
    if c"a" <= char <= c"f":
        return <int>char - c"a" + 10
    raise ValueError("ca is not 16 lower-case hex digits")


# --- questions ----------------------------------------------------------------------------------------------------------


cdef int check_bounds(Py_ssize_t count, Py_ssize_t nonce) except -1:
    if not 1 <= count <= MOST_SERIALS:
        raise ValueError(f"{count} serials: must be 1 to {MOST_SERIALS}")
    if nonce > MOST_NONCE:
        raise ValueError(f"a nonce of {nonce} octets: at most {MOST_NONCE}")
    return 0


cdef int check_serial(Py_ssize_t size) except -1:
    if not 1 <= size <= MOST_SERIAL_OCTETS:
        raise ValueError(f"a serial must have 1 to {MOST_SERIAL_OCTETS} octets")
    return 0


def encode_questions(questions):
    cdef list asked = list(questions)
    cdef Question one
    cdef bytes serial, made
    cdef Py_ssize_t size = 1, nonce, index
    cdef unsigned char* at
    if len(asked) > MOST_QUESTIONS:
        raise ValueError(f"{len(asked)} questions: at most {MOST_QUESTIONS}")
    for one in asked:
        nonce = 0 if one.nonce_octets is None else PyBytes_GET_SIZE(one.nonce_octets)
        check_bounds(len(one.serials), nonce)
        if one.id >> 32 or len(one.ca) != 16 or one.hash_name not in HASH_NAMES:
            raise ValueError(f"id, ca or hash_name is out of bounds: {one!r}")
        size += QUESTION_HEAD + nonce
        for serial in one.serials:
            check_serial(len(serial))
            size += 1 + PyBytes_GET_SIZE(serial)
    made = PyBytes_FromStringAndSize(NULL, size)
    at = <unsigned char*>PyBytes_AS_STRING(made)
    at[0] = VERSION
    at += 1
    for one in asked:
        nonce = 0 if one.nonce_octets is None else PyBytes_GET_SIZE(one.nonce_octets)
        put(at, one.id, 4)
        for index in range(8):
            at[4 + index] = <unsigned char>(digit(one.ca[2 * index]) << 4 | digit(one.ca[2 * index + 1]))
        at[12] = <unsigned char>HASH_NAMES.index(one.hash_name)
        at[13] = <unsigned char>nonce
        put(at + 14, <unsigned long long>len(one.serials), 2)
        at += QUESTION_HEAD
        if nonce:
            memcpy(at, PyBytes_AS_STRING(one.nonce_octets), <size_t>nonce)
            at += nonce
        for serial in one.serials:
            at[0] = <unsigned char>PyBytes_GET_SIZE(serial)
            memcpy(at + 1, PyBytes_AS_STRING(serial), <size_t>PyBytes_GET_SIZE(serial))
            at += 1 + PyBytes_GET_SIZE(serial)
    return made


cdef str hex_of(const unsigned char* at):
    cdef char[16] digits
    cdef int index
    for index in range(8):
        digits[2 * index] = HEX[at[index] >> 4]
        digits[2 * index + 1] = HEX[at[index] & 15]
    return digits[:16].decode("ascii")


cdef int check_version(bytes data) except -1:
    if PyBytes_GET_SIZE(data) == 0 or (<const unsigned char*>PyBytes_AS_STRING(data))[0] != VERSION:
        raise ValueError("another version of the encoding, or none")
    return 0


def decode_questions(bytes data not None):
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(data) - 1, count, nonce, size, index
    cdef list found = []
    cdef list serials
    cdef Question one
    cdef str ca = ""
    cdef const unsigned char* of_ca = NULL  # in `data`, which is ours to the end
    check_version(data)
    at += 1
    while left:
        if len(found) == MOST_QUESTIONS:
            raise ValueError(f"more than {MOST_QUESTIONS} questions")
        if left < QUESTION_HEAD:
            raise ValueError("cut short")
        if at[12] >= 4:
            raise ValueError(f"hash algorithm {at[12]} is not known")
        nonce, count = at[13], <Py_ssize_t>get(at + 14, 2)
        check_bounds(count, nonce)
        one = Question.__new__(Question)
        one.id = get(at, 4)
        if of_ca == NULL or memcmp(of_ca, at + 4, 8) != 0:
            ca = hex_of(at + 4)
            of_ca = at + 4
        one.ca = ca
        one.hash_name = <str>HASH_NAMES[at[12]]
        at += QUESTION_HEAD
        left -= QUESTION_HEAD
        if left < nonce:
            raise ValueError("cut short")
        one.nonce_octets = at[:nonce] if nonce else None
        at += nonce
        left -= nonce
        serials = []
        for index in range(count):
            if left < 1:
                raise ValueError("cut short")
            size = at[0]
            check_serial(size)
            if left - 1 < size:
                raise ValueError("cut short")
            serials.append(at[1 : 1 + size])
            at += 1 + size
            left -= 1 + size
        one.serials = tuple(serials)
        found.append(one)
    return found


# --- replies ------------------------------------------------------------------------------------------------------------


def encode_replies(replies):
    cdef list given = list(replies)
    cdef Reply one
    cdef Py_ssize_t size = 1
    cdef bytes made
    cdef unsigned char* at
    for one in given:
        if one.id >> 32 or PyBytes_GET_SIZE(one.response_der) >> 32:
            raise ValueError("id or response_der is out of bounds")
        size += REPLY_HEAD + PyBytes_GET_SIZE(one.response_der)
    made = PyBytes_FromStringAndSize(NULL, size)
    at = <unsigned char*>PyBytes_AS_STRING(made)
    at[0] = VERSION
    at += 1
    for one in given:
        put(at, one.id, 4)
        at[4] = <unsigned char>one.kind
        at[5] = 1 if one.store_hint else 0
        put(at + 6, <unsigned long long>one.this_update, 8)
        put(at + 14, <unsigned long long>one.next_update, 8)
        put(at + 22, <unsigned long long>PyBytes_GET_SIZE(one.response_der), 4)
        memcpy(at + REPLY_HEAD, PyBytes_AS_STRING(one.response_der), <size_t>PyBytes_GET_SIZE(one.response_der))
        at += REPLY_HEAD + PyBytes_GET_SIZE(one.response_der)
    return made


def decode_replies(bytes data not None):
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(data) - 1, size
    cdef list found = []
    cdef Reply one
    check_version(data)
    at += 1
    while left:
        if left < REPLY_HEAD:
            raise ValueError("cut short")
        if at[4] >= 3:
            raise ValueError(f"{at[4]} is no kind of reply")
        if at[5] > 1:
            raise ValueError("store hint is neither 0 nor 1")
        size = <Py_ssize_t>get(at + 22, 4)
        if left - REPLY_HEAD < size:
            raise ValueError("cut short")
        one = Reply.__new__(Reply)
        one.id = get(at, 4)
        one.kind = KINDS[at[4]]
        one.store_hint = at[5]
        one.this_update = <long long>get(at + 6, 8)
        one.next_update = <long long>get(at + 14, 8)
        one.response_der = at[REPLY_HEAD : REPLY_HEAD + size]
        found.append(one)
        at += REPLY_HEAD + size
        left -= REPLY_HEAD + size
    return found


# --- the worker's last look -----------------------------------------------------------------------------------------------


cdef int read_one(DerReader* reader, unsigned char tag, DerReader* contents) except -1:
    if der_read(reader, tag, contents) != DER_OK:
        raise ValueError(f"cut short, or no tag {tag:02x}")
    return 0


cdef int read_only(DerReader* reader, unsigned char tag, DerReader* contents) except -1:
    read_one(reader, tag, contents)
    if reader.remaining:
        raise ValueError("more elements than there should be")
    return 0


cdef int check_nonce(DerReader* extensions, bytes nonce_octets) except -1:
    """NON-03, NON-06: the nonce is the question's own, byte for byte, once, and nobody else's."""
    cdef DerReader extension, oid, value
    cdef bint found = False
    cdef unsigned char tag = 0
    while extensions.remaining:
        read_one(extensions, TAG_SEQUENCE, &extension)
        read_one(&extension, TAG_OBJECT_IDENTIFIER, &oid)
        if not der_equals(&oid, ID_PKIX_OCSP_NONCE, 9):
            continue
        # Ours is not critical: the value follows at once.
        read_only(&extension, TAG_OCTET_STRING, &value)
        if nonce_octets is None or found:
            raise ValueError("there is a nonce that was not asked for")
        if not der_equals(&value, <const unsigned char*>PyBytes_AS_STRING(nonce_octets), PyBytes_GET_SIZE(nonce_octets)):
            raise ValueError("the nonce is not the question's")
        found = True
    if nonce_octets is not None and not found:
        raise ValueError("the nonce is not the question's")
    return 0


def check_answer(cert_ids, bytes nonce_octets, bytes response_der not None):
    cdef DerReader reader, top, status, wrapped, inner, basic, data, responses, single, field
    cdef const unsigned char* start
    cdef bytes cert_id
    cdef unsigned char tag = 0
    cdef int cert_status, result = -1
    reader.at = <const unsigned char*>PyBytes_AS_STRING(response_der)
    reader.remaining = PyBytes_GET_SIZE(response_der)
    read_only(&reader, TAG_SEQUENCE, &top)
    read_one(&top, TAG_ENUMERATED, &status)
    if not der_equals(&status, b"\0", 1):
        raise ValueError("responseStatus is not successful: tag or values")
    read_only(&top, TAG_CONTEXT_0, &wrapped)
    read_only(&wrapped, TAG_SEQUENCE, &inner)
    read_one(&inner, TAG_OBJECT_IDENTIFIER, &field)
    if not der_equals(&field, ID_PKIX_OCSP_BASIC, 9):
        raise ValueError("responseType is not id-pkix-ocsp-basic")
    read_only(&inner, TAG_OCTET_STRING, &wrapped)
    read_only(&wrapped, TAG_SEQUENCE, &basic)
    # What follows tbsResponseData the presigner has made of its template; its size is still checked as a whole above.
    read_one(&basic, TAG_SEQUENCE, &data)
    # responderID, producedAt, responses, and responseExtensions where there is a nonce or the extended revoke
    if der_read_any(&data, &tag, &field) != DER_OK or der_read_any(&data, &tag, &field) != DER_OK:
        raise ValueError("cut short")
    read_one(&data, TAG_SEQUENCE, &responses)
    for cert_id in cert_ids:
        read_one(&responses, TAG_SEQUENCE, &single)
        start = single.at
        read_one(&single, TAG_SEQUENCE, &field)
        # Both sides write CertIDs in the one canonical form.
        if single.at - start != PyBytes_GET_SIZE(cert_id) or memcmp(
            start, PyBytes_AS_STRING(cert_id), <size_t>PyBytes_GET_SIZE(cert_id)
        ) != 0:
            raise ValueError("the CertIDs are not those of the question")
        if der_read_any(&single, &tag, &field) != DER_OK:
            raise ValueError("cut short")
        if tag == 0x80:
            cert_status = 0
        elif tag == 0xA1:
            cert_status = 1
        elif tag == 0x82:
            cert_status = 2
        else:
            raise ValueError("certStatus is none of the three")
        if result < 0 or cert_status == 0:
            result = cert_status
    if result < 0 or responses.remaining:
        raise ValueError("the CertIDs are not those of the question")
    field.at, field.remaining = data.at, 0
    if data.remaining:
        read_only(&data, TAG_CONTEXT_1, &wrapped)
        read_only(&wrapped, TAG_SEQUENCE, &field)
    check_nonce(&field, nonce_octets)
    return result
