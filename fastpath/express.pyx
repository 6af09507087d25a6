"""The shortest way from a question to its ready answer: one read from a socket to the octets that answer it, or "not mine".

Two doors into the same rooms. ``ready`` takes a request that HTTP has framed already: it finds the answer in the table
and puts the whole message together. ``read`` is the express lane: it frames the request too. Both return None for
whatever is not plainly theirs, having changed nothing; the caller goes the ordinary way then, which decides everything
by itself and stays the reference. A test compares the octets of all three. A single request that lacks nothing but its
answer makes ``read`` return a Missing: the caller fetches the answer into the table and asks ``message`` again, so that
a miss costs no second reading of HTTP and DER. A nonce is in the Missing too: that answer the caller has signed.

What ``read`` takes: 1 to 16 whole requests and no octet more, each of them

- ``GET /… HTTP/1.1`` with a target that http_target decodes, or ``POST /… HTTP/1.1`` with a path of unreserved
  characters, ``/``, ``%``, ``+`` and ``=``, exactly one Content-Length of one to six digits, the whole content in the same
  read, and no Content-Type or ``application/ocsp-request``;
- or the same in ``HTTP/1.0``, which ends its connection;
- exactly one Host (in HTTP/1.0 at most one), a plain name or IPv4 address with or without a port;
- at most one Connection, and that says keep-alive (in HTTP/1.1) or close; nothing follows a request that ends its
  connection; none of Expect, Proxy-Connection, Transfer-Encoding,
  Upgrade and the four If-… fields; no Content-Type or Content-Length in a GET. Any other field changes nothing, and is only checked
  to be a token, a colon and visible ASCII, spaces and tabs up to CR LF;
- within the limits of the configuration, and at most 64 fields.

What both leave: other methods and versions, nonces that their CA ignores, several CertIDs, unknown critical extensions, acceptableResponses
without the basic type; what is not in the table, not in date, or good while this worker has not seen the journal for
nearly ``max_blind``. All this is for the ordinary way to refuse, or to answer otherwise.

Knows no sockets. The clock is the caller's: it is read once a call, or once for a batch of reads; what depends on the
second alone (the Date line, who is blind) is made when it changes. RFC 9112 §3, §5 (what is taken), RFC 9919 §6, §7.2 (heads).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy

from fastpath.answer_table cimport (
    ETAG_OCTETS,
    FLAG_DUAL,
    FLAG_WHOLE,
    AnswerTable,
    AnswerTerms,
    RecordHead,
    body_of,
    etag_of,
    hash_kind_named,
    serial_of,
    status_of,
)
from fastpath.der cimport DER_OK, TAG_INTEGER, TAG_SEQUENCE, DerReader, der_equals
from fastpath.der_write cimport der_put_header, der_put_octets, der_size
from fastpath.http_target cimport MAX_TARGET, TARGET_OK, decode_octets
from fastpath.ocsp_request cimport HASH_OTHER, HASH_SHA1, HASH_SHA256, HashKind, RequestScan, scan_ocsp_request
from fastpath.ocsp_response cimport AnswerPlan, measure_answer, write_answer

from fastpath.ocsp_response import encode_cert_id

cdef enum:
    GOOD = 0  # CertStatus
    MAX_FIELDS = 64
    CLOSE_SIZE = 19  # of the line
    BLIND_MARGIN_S = 2  # who is blind is looked at once a second: nobody may become so in between

    # Classes of octets; an octet may be of several.
    TOKEN = 1  # RFC 9110 §5.6.2
    FIELD = 2  # what a field's value is taken with
    PATH = 4  # of a POST
    HOST = 8  # a name or an IPv4 address
    DIGIT = 16

cdef unsigned char[256] CLASSES
cdef unsigned char[256][2] HEX  # two digits of each octet


cdef void fill_classes():
    cdef int octet
    for octet in range(256):
        CLASSES[octet] = FIELD if 0x20 <= octet <= 0x7E or octet == 0x09 else 0
    for octet in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        CLASSES[octet] |= TOKEN
    for octet in b"-._~/%+=0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        CLASSES[octet] |= PATH
    for octet in b"-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        CLASSES[octet] |= HOST
    for octet in b"0123456789":
        CLASSES[octet] |= DIGIT
    for octet in range(256):
        HEX[octet][0], HEX[octet][1] = b"%02x" % octet


fill_classes()

cdef tuple HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")  # by HashKind


cdef struct Framed:
    # One request within a read.
    bint is_post
    const unsigned char* target
    Py_ssize_t target_size
    const unsigned char* body
    Py_ssize_t body_size
    bint closes  # the connection ends with its answer


cdef inline unsigned char* put(unsigned char* at, bytes octets) noexcept:
    memcpy(at, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return at + PyBytes_GET_SIZE(octets)


cdef inline int digits_of(long long number) noexcept nogil:
    cdef int digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


cdef inline unsigned char* put_number(unsigned char* at, long long number) noexcept nogil:
    cdef int digits = digits_of(number)
    cdef int index
    for index in range(digits - 1, -1, -1):
        at[index] = <unsigned char>(c"0" + number % 10)
        number //= 10
    return at + digits


cdef inline bint is_name(const unsigned char* at, Py_ssize_t size, const char* lower) noexcept nogil:
    """Compare a field's name, or a value, with lower-case letters and hyphens; only letters have a case."""
    cdef Py_ssize_t index
    if memcmp(at, lower, size) == 0:
        return True
    for index in range(size):
        if (at[index] | 0x20 if c"A" <= at[index] <= c"Z" else at[index]) != <unsigned char>lower[index]:
            return False
    return True


cdef inline bint is_meant(const unsigned char* name, Py_ssize_t size) noexcept nogil:
    """Say whether a field could change the answer, or where the request ends: those that are not taken at all."""
    if size == 6:
        return is_name(name, size, b"expect")
    if size == 7:
        return is_name(name, size, b"upgrade")
    if size == 8:
        return is_name(name, size, b"if-match")
    if size == 13:
        return is_name(name, size, b"if-none-match")
    if size == 16:
        return is_name(name, size, b"proxy-connection")
    if size == 17:
        return is_name(name, size, b"transfer-encoding") or is_name(name, size, b"if-modified-since")
    if size == 19:
        return is_name(name, size, b"if-unmodified-since")
    return False


cdef bint is_host(const unsigned char* at, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t index = 0
    while index < size and CLASSES[at[index]] & HOST:
        index += 1
    if index == 0 or index == size:
        return index == size and size > 0
    if at[index] != c":" or size - index > 6:
        return False
    for index in range(index + 1, size):
        if not CLASSES[at[index]] & DIGIT:
            return False
    return True


cdef const unsigned char* frame(
    const unsigned char* at, const unsigned char* end, Framed* framed, const Limits* limits
) noexcept nogil:
    """Frame the request at `at`; returns the place after it, or NULL: not mine. end[0] is readable, and 0."""
    cdef const unsigned char* head
    cdef const unsigned char* name
    cdef const unsigned char* value
    cdef Py_ssize_t name_size, size
    cdef int fields = 0
    cdef bint has_host = False
    cdef bint has_connection = False
    cdef bint has_type = False
    cdef bint is_1_0
    framed.body_size = -1
    if end - at < 16:  # the shortest: GET / HTTP/1.1 CR LF
        return NULL
    if memcmp(at, b"GET /", 5) == 0:
        framed.is_post = False
        framed.target = at + 4
        # Which octets a target may have is for the decoder to say; those that end a line are none of them.
        at = <const unsigned char*>memchr(framed.target, c" ", end - framed.target)
        if at == NULL:
            return NULL
    elif memcmp(at, b"POST /", 6) == 0:
        framed.is_post = True
        at += 5
        framed.target = at
        while CLASSES[at[0]] & PATH:
            at += 1
    else:
        return NULL
    framed.target_size = at - framed.target
    if framed.target_size > limits.target or end - at < 11 or memcmp(at, b" HTTP/1.", 8) != 0:
        return NULL
    is_1_0 = at[8] == c"0"
    if (at[8] != c"1" and not is_1_0) or at[9] != c"\r" or at[10] != c"\n":
        return NULL
    framed.closes = is_1_0  # RFC 9112 §9.3: unless it asks for keep-alive, which is left to the ordinary way
    at += 11
    head = at
    while at[0] != c"\r":
        fields += 1
        name = at
        while CLASSES[at[0]] & TOKEN:
            at += 1
        name_size = at - name
        # RFC 9112 §5.1: no space before the colon; a line that begins with one is a fold.
        if name_size == 0 or at[0] != c":" or fields > MAX_FIELDS:
            return NULL
        at += 1
        while at[0] == c" " or at[0] == c"\t":
            at += 1
        value = at
        while CLASSES[at[0]] & FIELD:
            at += 1
        if end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
            return NULL
        size = at - value
        at += 2
        while size > 0 and (value[size - 1] == c" " or value[size - 1] == c"\t"):
            size -= 1
        if name_size == 4 and (memcmp(name, b"Host", 4) == 0 or is_name(name, 4, b"host")):
            if has_host or not is_host(value, size):
                return NULL
            has_host = True
        elif name_size == 10 and is_name(name, 10, b"connection"):
            if has_connection:
                return NULL
            has_connection = True
            if size == 5 and is_name(value, 5, b"close"):
                framed.closes = True
            elif is_1_0 or size != 10 or not is_name(value, 10, b"keep-alive"):
                return NULL
        elif name_size == 12 and (memcmp(name, b"Content-Type", 12) == 0 or is_name(name, 12, b"content-type")):
            if has_type or not framed.is_post or size != 24 or not is_name(value, 24, b"application/ocsp-request"):
                return NULL
            has_type = True
        elif name_size == 14 and (memcmp(name, b"Content-Length", 14) == 0 or is_name(name, 14, b"content-length")):
            if framed.body_size >= 0 or not framed.is_post or not 1 <= size <= 6:
                return NULL
            framed.body_size = 0
            while size > 0:
                if not CLASSES[value[0]] & DIGIT:
                    return NULL
                framed.body_size = framed.body_size * 10 + (value[0] - c"0")
                value += 1
                size -= 1
        elif is_meant(name, name_size):
            return NULL
    if end - at < 2 or at[1] != c"\n" or at - head > limits.header or not (has_host or is_1_0):
        return NULL
    at += 2
    framed.body = at
    if framed.is_post:
        if framed.body_size < 1 or framed.body_size > limits.body or end - at < framed.body_size:
            return NULL
        at += framed.body_size
    return at


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Missing:
    pass


@cython.final
@cython.auto_pickle(False)
cdef class ExpressLane:
    def __cinit__(self, AnswerTable table not None, issuers, heads, now, age, date_line, *, max_target_bytes, max_header_bytes, max_body_bytes):
        cdef IssuerKey* key
        cdef uint32_t slot
        cdef bytes name_hash, key_hash, der
        cdef const IssuerKey* sha1
        cdef const IssuerKey* sha256
        cdef Py_ssize_t first, at
        self._table = table
        self._now, self._age, self._date_line = now, age, date_line
        self._status_line, self._to_length, self._post_to_length, self._etag_open, self._age_open, self._age_close = heads
        self._limits.target = min(max_target_bytes, MAX_TARGET)
        self._limits.header = max_header_bytes
        self._limits.body = max_body_bytes
        self._second = -1
        self._fixed_get = sum(
            map(len, (self._status_line, self._to_length, self._etag_open, self._age_open, self._age_close))
        ) + 2 * ETAG_OCTETS + len(b'\r\n"\r\n\r\n')
        self._fixed_post = len(self._status_line) + len(self._post_to_length) + len(b"\r\n\r\n")
        issuers = list(issuers)
        self._max_blind = [max_blind for _, max_blind, _ in issuers]
        count = sum(len(hashes) for hashes, _, _ in issuers)
        slots = 16
        while slots < 2 * count:
            slots *= 2
        self._key_mask = slots - 1
        self._blind = <unsigned char*>calloc(max(1, len(issuers)), 1)
        self._honours_nonces = <unsigned char*>calloc(max(1, len(issuers)), 1)
        self._keys = <IssuerKey*>calloc(max(1, count), sizeof(IssuerKey))
        self._key_slots = <uint32_t*>calloc(slots, sizeof(uint32_t))
        if self._blind == NULL or self._honours_nonces == NULL or self._keys == NULL or self._key_slots == NULL:
            raise MemoryError("no room for the issuers")
        for issuer, (hashes, _, honours_nonces) in enumerate(issuers):
            self._honours_nonces[issuer] = bool(honours_nonces)
            first = self._key_count
            for hash_name, name_hash, key_hash in hashes:
                key = &self._keys[self._key_count]
                key.issuer = issuer
                key.hash_kind = hash_kind_named(hash_name)
                key.hash_size = len(key_hash)
                # Whatever the serial, what stands between the SEQUENCE's header and the serial's is the same.
                der = encode_cert_id(hash_name, name_hash, key_hash, b"\x01")
                der = der[2 if der[1] < 0x80 else 3 : -3]
                key.prefix_size = len(der)
                memcpy(key.prefix, PyBytes_AS_STRING(der), key.prefix_size)
                memcpy(key.issuer_name_hash, PyBytes_AS_STRING(name_hash), key.hash_size)
                memcpy(key.issuer_key_hash, PyBytes_AS_STRING(key_hash), key.hash_size)
                slot = self._key_home(key.issuer_key_hash)
                while self._key_slots[slot] != 0:
                    slot = (slot + 1) & self._key_mask
                self._key_count += 1
                self._key_slots[slot] = <uint32_t>self._key_count
            sha1 = sha256 = NULL
            for at in range(first, self._key_count):
                if self._keys[at].hash_kind == HASH_SHA1:
                    sha1 = &self._keys[at]
                elif self._keys[at].hash_kind == HASH_SHA256:
                    sha256 = &self._keys[at]
            for at in range(first, self._key_count):
                self._keys[at].sha1, self._keys[at].sha256 = sha1, sha256

    def __dealloc__(self):
        free(self._keys)
        free(self._key_slots)
        free(self._blind)
        free(self._honours_nonces)

    cdef uint32_t _key_home(self, const unsigned char* key_hash) noexcept nogil:
        cdef uint32_t first
        memcpy(&first, key_hash, 4)
        return first & self._key_mask

    cdef const IssuerKey* _find_issuer(
        self, HashKind hash_kind, const DerReader* name_hash, const DerReader* key_hash
    ) noexcept nogil:
        # RFC 6960 §4.1.1: name hash and key hash name the issuer together.
        cdef uint32_t slot
        cdef const IssuerKey* key
        if key_hash.remaining < 4:
            return NULL
        slot = self._key_home(key_hash.at)
        while self._key_slots[slot] != 0:
            key = &self._keys[self._key_slots[slot] - 1]
            if (
                key.hash_kind == hash_kind
                and der_equals(key_hash, key.issuer_key_hash, key.hash_size)
                and der_equals(name_hash, key.issuer_name_hash, key.hash_size)
            ):
                return key
            slot = (slot + 1) & self._key_mask
        return NULL

    cdef int look_at_clock(self) except -1:
        cdef double now = self._now()
        cdef double age
        cdef Py_ssize_t issuer
        if <long long>now == self._second:
            return 0
        self._second = <long long>now
        self._date = self._date_line(self._second)
        age = self._age()
        for issuer, max_blind in enumerate(self._max_blind):
            self._blind[issuer] = age + BLIND_MARGIN_S > max_blind
        return 0

    cdef Finding _find(self, const unsigned char* der, Py_ssize_t size, Found* found, DerReader* serial) noexcept:
        """Find the answer to a request in the table and measure the message; gives the serial too, unless NOT_MINE."""
        cdef RequestScan scan
        if scan_ocsp_request(der, size, 1, &scan) != DER_OK:
            return NOT_MINE
        if scan.unsupported_at != NULL or not scan.accepts_basic:
            return NOT_MINE
        if scan.cert_ids[0].hash_kind == HASH_OTHER:
            return NOT_MINE
        found.key = self._find_issuer(
            scan.cert_ids[0].hash_kind, &scan.cert_ids[0].issuer_name_hash, &scan.cert_ids[0].issuer_key_hash
        )
        if found.key == NULL:
            return NOT_MINE
        serial[0] = scan.cert_ids[0].serial_octets
        found.nonce_octets = scan.nonce_octets
        if scan.nonce_octets.at != NULL:
            return MISSING if self._honours_nonces[found.key.issuer] else NOT_MINE
        return self._look_up(found, serial.at, serial.remaining)

    cdef Finding _look_up(self, Found* found, const unsigned char* serial, Py_ssize_t serial_size) noexcept:
        cdef const RecordHead* record = self._table.find(found.key.issuer, found.key.hash_kind, serial, serial_size)
        cdef AnswerTerms terms
        cdef const IssuerKey* key
        cdef Py_ssize_t second_size = 0
        if record == NULL:
            return MISSING
        terms = <AnswerTerms>record.terms
        # SEC-13: never past nextUpdate.
        if self._second >= terms.next_update:
            return MISSING
        # Before thisUpdate, on a clock that was stepped back, Last-Modified is not its own.
        if self._second < terms.this_update:
            return NOT_MINE
        if status_of(record) == GOOD and self._blind[found.key.issuer]:
            return NOT_MINE
        found.record = record
        if record.flags & FLAG_WHOLE:
            found.body_size = record.body_size
        else:
            key = found.key
            if record.flags & FLAG_DUAL:
                if key.sha1 == NULL or key.sha256 == NULL:
                    return NOT_MINE
                second_size = der_size(key.sha256.prefix_size + 2 + record.serial_size)
                key = key.sha1
            found.body_size = measure_answer(
                &found.plan,
                terms.template,
                terms.header,
                der_size(key.prefix_size + 2 + record.serial_size),
                second_size,
                body_of(record),
                record.body_size,
            )
            if found.body_size < 0:
                return NOT_MINE
        found.size = PyBytes_GET_SIZE(self._date) + PyBytes_GET_SIZE(terms.last_modified_line) + found.body_size
        found.size += digits_of(found.body_size)
        if found.is_post:
            found.size += self._fixed_post
        else:
            found.max_age = max(0, terms.fresh_until_of(record.bucket_hash) - self._second)
            found.size += self._fixed_get + PyBytes_GET_SIZE(terms.expires_line) + digits_of(found.max_age)
        if found.closes:
            found.size += CLOSE_SIZE
        return FOUND

    cdef unsigned char* _write(self, unsigned char* at, const Found* found) noexcept:
        """Write one message: the head of responder/http/caching.py, field by field, and the answer."""
        cdef const RecordHead* record = found.record
        cdef AnswerTerms terms = <AnswerTerms>record.terms
        cdef const unsigned char* etag
        cdef int index
        at = put(at, self._status_line)
        at = put(at, self._date)
        at = put(at, self._post_to_length if found.is_post else self._to_length)
        at = put_number(at, found.body_size)
        at[0], at[1] = c"\r", c"\n"
        at = put(at + 2, terms.last_modified_line)
        if not found.is_post:
            at = put(at, self._etag_open)
            etag = etag_of(record)
            for index in range(ETAG_OCTETS):
                memcpy(at + 2 * index, &HEX[etag[index]], 2)
            at += 2 * ETAG_OCTETS
            at[0], at[1], at[2] = c'"', c"\r", c"\n"
            at = put(at + 3, terms.expires_line)
            at = put(at, self._age_open)
            at = put_number(at, found.max_age)
            at = put(at, self._age_close)
        if found.closes:
            # RFC 9112 §9.6: a server that will close SHOULD say so.
            memcpy(at, b"Connection: close\r\n", CLOSE_SIZE)
            at += CLOSE_SIZE
        at[0], at[1] = c"\r", c"\n"
        return self._write_body(at + 2, found)

    cdef unsigned char* _write_body(self, unsigned char* at, const Found* found) noexcept:
        cdef const RecordHead* record = found.record
        cdef AnswerTerms terms = <AnswerTerms>record.terms
        cdef unsigned char[MAX_CERT_ID] cert_id, second
        cdef Py_ssize_t size
        cdef Py_ssize_t second_size = 0
        cdef const IssuerKey* key = found.key
        if record.flags & FLAG_WHOLE:
            return der_put_octets(at, body_of(record), record.body_size)
        # SEC-12: the CertID is the question's own, or one of the two is; the record was found by it, octet for octet.
        if record.flags & FLAG_DUAL:
            second_size = self._write_cert_id(second, key.sha256, serial_of(record), record.serial_size)
            key = key.sha1
        size = self._write_cert_id(cert_id, key, serial_of(record), record.serial_size)
        return write_answer(at, &found.plan, terms.template, terms.header, cert_id, size, second, second_size)

    cdef Py_ssize_t _write_cert_id(
        self, unsigned char* cert_id, const IssuerKey* key, const unsigned char* serial, Py_ssize_t serial_size
    ) noexcept nogil:
        """Write a CertID in encode_cert_id's form into MAX_CERT_ID octets; returns its size."""
        cdef unsigned char* at = der_put_header(cert_id, TAG_SEQUENCE, key.prefix_size + 2 + serial_size)
        at = der_put_octets(at, key.prefix, key.prefix_size)
        at = der_put_header(at, TAG_INTEGER, serial_size)
        return der_put_octets(at, serial, serial_size) - cert_id

    cdef void _count(self, const Found* found) noexcept:
        self._messages += 1
        self._ready_count += 1
        self._answered[status_of(found.record)] += 1

    cdef Missing make_missing(self, const Found* found, const DerReader* serial):
        cdef Missing missing = Missing.__new__(Missing)
        cdef unsigned char[MAX_CERT_ID] cert_id
        cdef Py_ssize_t size = self._write_cert_id(cert_id, found.key, serial.at, serial.remaining)
        missing.issuer = found.key.issuer
        missing.hash_name = HASH_NAMES[found.key.hash_kind]
        missing.serial_octets = PyBytes_FromStringAndSize(<const char*>serial.at, serial.remaining)
        missing.cert_id_der = PyBytes_FromStringAndSize(<const char*>cert_id, size)
        if found.nonce_octets.at != NULL:
            missing.nonce_octets = PyBytes_FromStringAndSize(
                <const char*>found.nonce_octets.at, found.nonce_octets.remaining
            )
        missing.key = found.key
        missing.is_post = found.is_post
        missing.closes = found.closes
        return missing

    def ready(self, bint is_post, bytes target not None, bytes body not None):
        cdef Found found
        cdef DerReader serial
        cdef Py_ssize_t size, offset
        cdef bytes message
        cdef const unsigned char* der = <const unsigned char*>PyBytes_AS_STRING(body)
        self.look_at_clock()
        if is_post:
            size = PyBytes_GET_SIZE(body)
        else:
            if TARGET_OK != decode_octets(
                <const unsigned char*>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target), self._decoded, &size, &offset
            ):
                return None
            der = self._decoded
        found.is_post, found.closes = is_post, False
        if self._find(der, size, &found, &serial) != FOUND:
            return None
        message = PyBytes_FromStringAndSize(NULL, found.size)
        self._write(<unsigned char*>PyBytes_AS_STRING(message), &found)
        self._count(&found)
        return message

    def message(self, Missing missing not None):
        cdef Found found
        cdef bytes message
        self.look_at_clock()
        found.key = missing.key
        found.is_post, found.closes = missing.is_post, False
        if FOUND != self._look_up(
            &found,
            <const unsigned char*>PyBytes_AS_STRING(missing.serial_octets),
            PyBytes_GET_SIZE(missing.serial_octets),
        ):
            return None
        message = PyBytes_FromStringAndSize(NULL, found.size)
        self._write(<unsigned char*>PyBytes_AS_STRING(message), &found)
        return message

    cdef Finding find_all(
        self,
        const unsigned char* data,
        Py_ssize_t size,
        Found* found,
        int* count,
        Py_ssize_t* total,
        DerReader* serial,
    ) noexcept:
        cdef Framed framed
        cdef const unsigned char* end = data + size
        cdef const unsigned char* der
        cdef Py_ssize_t offset
        cdef Finding finding
        count[0] = 0
        total[0] = 0
        while data < end:
            if count[0] == MAX_REQUESTS:
                return NOT_MINE
            data = frame(data, end, &framed, &self._limits)
            if data == NULL or (framed.closes and data < end):
                return NOT_MINE
            der, size = framed.body, framed.body_size
            if not framed.is_post:
                if TARGET_OK != decode_octets(framed.target, framed.target_size, self._decoded, &size, &offset):
                    return NOT_MINE
                der = self._decoded
            found[count[0]].is_post = framed.is_post
            found[count[0]].closes = framed.closes
            finding = self._find(der, size, &found[count[0]], serial)
            if finding == MISSING and (count[0] > 0 or data < end):
                return NOT_MINE
            if finding != FOUND:
                return finding
            total[0] += found[count[0]].size
            count[0] += 1
            if total[0] > MAX_MESSAGES:
                return NOT_MINE
        return FOUND if count[0] > 0 else NOT_MINE

    cdef void write_all(self, unsigned char* at, const Found* found, int count) noexcept:
        cdef int index
        for index in range(count):
            at = self._write(at, &found[index])
            self._count(&found[index])

    def read(self, bytes data not None):
        cdef Found[MAX_REQUESTS] found
        cdef DerReader serial
        cdef Py_ssize_t total
        cdef int count
        cdef bytes messages
        cdef Finding finding
        self.look_at_clock()
        finding = self.find_all(
            <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), found, &count, &total, &serial
        )
        if finding == MISSING:
            return self.make_missing(&found[0], &serial)
        if finding != FOUND:
            return None
        messages = PyBytes_FromStringAndSize(NULL, total)
        self.write_all(<unsigned char*>PyBytes_AS_STRING(messages), found, count)
        return (messages,) if found[count - 1].closes else messages

    def ready_count(self):
        return self._ready_count

    def take_counts(self):
        cdef tuple counts = (self._messages, self._answered[0], self._answered[1], self._answered[2])
        self._messages = self._answered[0] = self._answered[1] = self._answered[2] = 0
        # Once a second by the loop's timer: a wall clock that was stepped back to the very second hides no blindness.
        self._second = -1
        return counts
