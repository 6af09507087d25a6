"""Revoked serials and their status texts → the elements of a CRL's revokedCertificates (RFC 5280 §5.1.2.6, §5.3).

Records come from the store's ``revoked`` index, in *chunks* (store.layout.CHUNK_BITS). Times are never computed with here: the
store's texts and DER both spell them in digits, so digits are moved, and compared as text. crl_decode.pyx reads entries, with
code of its own. Bytes in, bytes out: no Redis, no clock, no keys.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastpath.der cimport TAG_BOOLEAN, TAG_INTEGER, TAG_OBJECT_IDENTIFIER, TAG_OCTET_STRING, TAG_SEQUENCE, DerReader
from fastpath.der cimport DER_OK, der_check_integer
from fastpath.der_write cimport (
    GENERALIZED_TIME_CONTENTS,
    GENERALIZED_TIME_SIZE,
    TAG_ENUMERATED,
    TAG_GENERALIZED_TIME,
    der_last_second,
    der_put_header,
    der_put_octets,
    der_size,
)

from datetime import UTC, datetime, timedelta

cdef enum:
    MAX_SERIAL = 64  # contents octets; RFC 5280 §4.1.2.2 allows 20, and old CAs went past that
    MAX_TEXT = 512  # of a status; the longest that responder.model writes has 117
    TIME_TEXT = 20  # 2026-11-20T10:00:00Z
    TAG_UTC_TIME = 0x17
    UTC_TIME_CONTENTS = 13  # YYMMDDHHMMSSZ
    NO_REASON = -1
    REASON_COUNT = 11
    REMOVE_FROM_CRL = 8
    REASON_EXTENSION = 12
    INVALIDITY_EXTENSION = 26
    MOST_BESIDES_SERIAL = 96  # octets of an entry but for serial and certificateIssuer

MAX_SERIAL_OCTETS = MAX_SERIAL
# RFC 5280 §5.3.1: unspecified SHOULD be left out, 7 is not used, and removeFromCRL stands in deltas only.
ALL_REASONS = 0b110_0111_1110

cdef const unsigned char* ID_CE_REASON_CODE = b"\x06\x03\x55\x1d\x15"  # 2.5.29.21
cdef const unsigned char* ID_CE_INVALIDITY_DATE = b"\x06\x03\x55\x1d\x18"  # 2.5.29.24
cdef const unsigned char* ID_CE_CERTIFICATE_ISSUER = b"\x06\x03\x55\x1d\x1d"  # 2.5.29.29

cdef const char* REASON_NAMES[REASON_COUNT]
cdef Py_ssize_t REASON_SIZES[REASON_COUNT]
REASON_NAMES[0] = "unspecified"
REASON_NAMES[1] = "keyCompromise"
REASON_NAMES[2] = "cACompromise"
REASON_NAMES[3] = "affiliationChanged"
REASON_NAMES[4] = "superseded"
REASON_NAMES[5] = "cessationOfOperation"
REASON_NAMES[6] = "certificateHold"
REASON_NAMES[7] = ""
REASON_NAMES[8] = "removeFromCRL"
REASON_NAMES[9] = "privilegeWithdrawn"
REASON_NAMES[10] = "aACompromise"
for _number in range(REASON_COUNT):
    REASON_SIZES[_number] = len(REASON_NAMES[_number])

cdef int[14] DIGIT_PLACES  # of the digits in 2026-11-20T10:00:00Z
DIGIT_PLACES[:] = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
cdef unsigned char[256] NIBBLES  # of lower-case hex digits; 255: no digit
for _number in range(256):
    NIBBLES[_number] = int(chr(_number), 16) if chr(_number) in "0123456789abcdef" else 255

cdef enum Kind:
    KIND_ABSENT
    KIND_GOOD
    KIND_REVOKED

cdef struct Status:
    # Pointers lie in the record's text; NULL: not there.
    Kind kind
    int reason
    const char* revoked_at
    const char* not_after
    const char* invalidity_date

cdef struct Record:
    const unsigned char* serial
    Py_ssize_t serial_size
    const char* text
    Py_ssize_t text_size

cdef struct Place:
    # Where a record belongs: serials of other sizes or beginnings have other keys, in the same order.
    unsigned long long key
    Py_ssize_t index


# --- status texts -----------------------------------------------------------------------------------------------------


cdef inline int two_digits(const char* at) noexcept nogil:
    return (at[0] - 48) * 10 + at[1] - 48


cdef bint is_time(const char* at) noexcept nogil:
    """Say whether 20 octets spell a moment that there is, such as 2026-11-20T10:00:00Z, from the year 1 to 9999."""
    cdef int index, year, month, day, days = 31
    cdef unsigned int wrong = 0
    for index in range(14):  # of all at once, without a branch for each
        wrong |= <unsigned char>(at[DIGIT_PLACES[index]] - 48) > 9
    wrong |= (at[4] ^ c"-") | (at[7] ^ c"-") | (at[10] ^ c"T") | (at[13] ^ c":") | (at[16] ^ c":") | (at[19] ^ c"Z")
    if wrong:
        return False
    year, month, day = two_digits(at) * 100 + two_digits(at + 2), two_digits(at + 5), two_digits(at + 8)
    if month == 2:
        days = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        days = 30
    if year == 0 or month < 1 or month > 12 or day < 1 or day > days:
        return False
    return two_digits(at + 11) < 24 and at[14] < c"6" and at[17] < c"6"


cdef inline int reason_named(const char* word, Py_ssize_t size) noexcept nogil:
    cdef int number
    for number in range(REASON_COUNT):
        if REASON_SIZES[number] == size and size > 0 and memcmp(word, REASON_NAMES[number], <size_t>size) == 0:
            return number
    return NO_REASON


cdef bint read_status(const char* text, Py_ssize_t size, Status* status) noexcept nogil:
    """Read a status text of responder.model, or an empty one; False: it is none."""
    cdef const char* end = text + size
    cdef const char* word
    cdef Py_ssize_t length
    cdef bint may_be_reason = False, has_by = False
    status.kind = KIND_ABSENT
    status.reason = NO_REASON
    status.revoked_at = status.not_after = status.invalidity_date = NULL
    if size == 0:
        return True
    if size > MAX_TEXT:
        return False
    if size >= 4 and memcmp(text, b"good", 4) == 0:
        status.kind = KIND_GOOD
        text += 4
    elif size >= 8 + TIME_TEXT and memcmp(text, b"revoked ", 8) == 0 and is_time(text + 8):
        status.kind = KIND_REVOKED
        status.revoked_at = text + 8
        may_be_reason = True
        text += 8 + TIME_TEXT
    else:
        return False
    while text < end:
        if text[0] != c" ":
            return False
        text += 1
        word = text
        while text < end and text[0] != c" ":
            text += 1
        length = text - word
        if length == 4 + TIME_TEXT and memcmp(word, b"exp=", 4) == 0:
            if status.not_after != NULL or not is_time(word + 4):
                return False
            status.not_after = word + 4
        elif length == 8 + TIME_TEXT and memcmp(word, b"invalid=", 8) == 0:
            if status.invalidity_date != NULL or not is_time(word + 8):
                return False
            status.invalidity_date = word + 8
        elif length > 3 and memcmp(word, b"by=", 3) == 0:
            if has_by:
                return False
            has_by = True
        elif may_be_reason:
            status.reason = reason_named(word, length)
            if status.reason == NO_REASON:
                return False
        else:
            return False
        may_be_reason = False
    return True


# --- records ----------------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t read_u16(const unsigned char* at) noexcept nogil:
    return (at[0] << 8) | at[1]


cdef inline unsigned char* put_u16(unsigned char* at, Py_ssize_t value) noexcept nogil:
    at[0] = <unsigned char>(value >> 8)
    at[1] = <unsigned char>(value & 0xFF)
    return at + 2


cdef Py_ssize_t read_record(const unsigned char* at, Py_ssize_t remaining, Record* record) noexcept nogil:
    """View the record at `at`; returns its size, 0 where there is none whole."""
    if remaining < 2:
        return 0
    record.serial_size = read_u16(at)
    if record.serial_size < 1 or record.serial_size > MAX_SERIAL or remaining - 4 < record.serial_size:
        return 0
    record.serial = at + 2
    record.text_size = read_u16(at + 2 + record.serial_size)
    if record.text_size > MAX_TEXT or remaining - 4 - record.serial_size < record.text_size:
        return 0
    record.text = <const char*>(at + 4 + record.serial_size)
    return 4 + record.serial_size + record.text_size


cdef inline bint is_before(const Record* records, const Place* left, const Place* right) noexcept nogil:
    if left.key != right.key:
        return left.key < right.key
    return memcmp(records[left.index].serial, records[right.index].serial, <size_t>records[left.index].serial_size) < 0


cdef Place* sort_places(const Record* records, Place* places, Place* spare, Py_ssize_t count) noexcept nogil:
    """Sort by merging ever longer runs, between two arrays; returns the one in which they are sorted."""
    cdef Py_ssize_t run = 1, start, left, right, middle, end, at
    cdef Place* other
    while run < count:
        start = 0
        while start < count:
            middle, end = min(start + run, count), min(start + 2 * run, count)
            left, right = start, middle
            for at in range(start, end):
                if right == end or (left < middle and not is_before(records, &places[right], &places[left])):
                    spare[at] = places[left]
                    left += 1
                else:
                    spare[at] = places[right]
                    right += 1
            start = end
        other, places, spare = places, spare, places
        run *= 2
    return places


cdef bint read_hex(const char* digits, Py_ssize_t size, unsigned char* octets) noexcept nogil:
    """Turn 2 * size lower-case digits into octets; False where they are none."""
    cdef Py_ssize_t index
    cdef unsigned char high, low, all_of_them = 0
    for index in range(size):
        high, low = NIBBLES[<unsigned char>digits[2 * index]], NIBBLES[<unsigned char>digits[2 * index + 1]]
        octets[index] = <unsigned char>(high << 4 | (low & 15))
        all_of_them |= high | low
    return all_of_them < 16


cdef inline unsigned long long key_of(const unsigned char* serial, Py_ssize_t size) noexcept nogil:
    cdef unsigned long long key = <unsigned long long>size
    cdef Py_ssize_t index
    for index in range(7):
        key = key << 8 | (serial[index] if index < size else 0)
    return key


def pack_revoked(flat):
    """Turn a reply of HGETALL into a chunk of records, sorted; see the .pyi."""
    cdef list items = flat if isinstance(flat, list) else list(flat)
    cdef Py_ssize_t count = len(items) // 2
    cdef Py_ssize_t index, size, total = 0
    cdef bytes field, text, chunk
    cdef Status status
    cdef DerReader serial
    cdef unsigned char* at
    if len(items) % 2:
        raise ValueError(f"{len(items)} items: serials and status texts come in pairs")
    # The serials' octets lie behind the records that point at them; texts stay in `items`, which this function holds.
    cdef Record* records = <Record*>malloc(count * (sizeof(Record) + 2 * sizeof(Place) + MAX_SERIAL) + 1)
    if records == NULL:
        raise MemoryError
    cdef Place* places = <Place*>(records + count)
    cdef unsigned char* octets = <unsigned char*>(places + 2 * count)
    cdef Record* record
    try:
        for index in range(count):
            field = items[2 * index]
            text = items[2 * index + 1]
            size = PyBytes_GET_SIZE(field) // 2
            serial.at = octets
            serial.remaining = size
            # X.690 §8.3.2: one encoding a serial. Another one would be a certificate that no query and no CRL can name.
            if (
                PyBytes_GET_SIZE(field) % 2
                or not 1 <= size <= MAX_SERIAL
                or not read_hex(PyBytes_AS_STRING(field), size, octets)
                or der_check_integer(&serial) != DER_OK
            ):
                raise ValueError(
                    f"field {field[:140]!r} is no serial: DER INTEGER contents octets in lower-case hex, {MAX_SERIAL} at most"
                )
            if not read_status(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &status):
                raise ValueError(
                    f"field {field.decode()}: {text[:140]!r} is no status like 'revoked 2026-11-20T10:00:00Z keyCompromise exp=2027-12-31T23:59:59Z'"
                )
            record = &records[index]
            record.serial, record.serial_size = octets, size
            record.text, record.text_size = PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
            places[index].key, places[index].index = key_of(octets, size), index
            octets += size
            total += 4 + size + PyBytes_GET_SIZE(text)
        places = sort_places(records, places, places + count, count)
        chunk = PyBytes_FromStringAndSize(NULL, total)
        at = <unsigned char*>PyBytes_AS_STRING(chunk)
        for index in range(count):
            record = &records[places[index].index]
            if index > 0 and not is_before(records, &places[index - 1], &places[index]):
                field = PyBytes_FromStringAndSize(<const char*>record.serial, record.serial_size)
                raise ValueError(f"serial {field.hex()} is there twice")
            at = put_u16(at, record.serial_size)
            at = der_put_octets(at, record.serial, record.serial_size)
            at = put_u16(at, record.text_size)
            at = der_put_octets(at, <const unsigned char*>record.text, record.text_size)
        return chunk
    finally:
        free(records)


def unpack_records(bytes chunk not None):
    """Return a chunk's serials and status texts; see the .pyi."""
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(chunk)
    cdef Py_ssize_t remaining = PyBytes_GET_SIZE(chunk), size
    cdef Record record
    cdef list found = []
    while remaining > 0:
        size = read_record(at, remaining, &record)
        if size == 0:
            raise no_chunk(PyBytes_GET_SIZE(chunk) - remaining)
        found.append((
            PyBytes_FromStringAndSize(<const char*>record.serial, record.serial_size),
            PyBytes_FromStringAndSize(record.text, record.text_size),
        ))
        at += size
        remaining -= size
    return found


cdef object no_chunk(Py_ssize_t offset):
    return ValueError(f"octet {offset}: no record of a serial and its status")


# --- entries ----------------------------------------------------------------------------------------------------------


cdef void put_text(char* to, long long seconds) except *:
    cdef bytes text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    memcpy(to, PyBytes_AS_STRING(text), TIME_TEXT)


cdef bytes der(unsigned char tag, bytes contents):
    cdef unsigned char[8] head
    cdef unsigned char* end = der_put_header(head, tag, PyBytes_GET_SIZE(contents))
    return PyBytes_FromStringAndSize(<const char*>head, end - head) + contents


cdef class Terms:
    """On what terms records become entries of one CRL; see the .pyi."""

    def __init__(
        self,
        long long this_update,
        *,
        now=None,
        drop_expired_before=None,
        unsigned int shard=0,
        unsigned int shards=1,
        bint delta=False,
        unsigned int reasons=ALL_REASONS,
        bytes certificate_issuer=None,
    ):
        self.this_update = this_update
        self.now = this_update if now is None else now
        self.drop_expired_before = -1 if drop_expired_before is None else drop_expired_before
        for seconds in (self.this_update, self.now, max(self.drop_expired_before, 0)):
            if not 0 <= seconds <= der_last_second():
                raise ValueError(f"a CRL's times lie between the years 1970 and 9999; {seconds} does not")
        if self.now < self.this_update:
            raise ValueError(f"now ({self.now}) is before thisUpdate ({self.this_update})")
        if not 1 <= shards <= 0xFFFF or shard >= shards:
            raise ValueError(f"shard {shard} of {shards}: allowed are 1 to 65535 shards, numbered from 0")
        self.shard = shard
        self.shards = shards
        self.delta = delta
        self.reasons = reasons & ALL_REASONS
        self.certificate_issuer = certificate_issuer
        put_text(self.this_update_text, self.this_update)
        put_text(self.now_text, self.now)
        put_text(self.drop_text, max(self.drop_expired_before, 0))
        self.issuer_extension = b""
        if certificate_issuer is not None:
            # RFC 5280 §5.3.3: critical; GeneralNames of one directoryName [4], explicit since Name is a CHOICE.
            self.issuer_extension = der(
                TAG_SEQUENCE,
                (<const char*>ID_CE_CERTIFICATE_ISSUER)[:5]
                + der(TAG_BOOLEAN, b"\xff")
                + der(TAG_OCTET_STRING, der(TAG_SEQUENCE, der(0xA4, certificate_issuer))),
            )


cdef class Encoded:
    """Entries of one chunk; see the .pyi."""


cdef unsigned int modulo(const unsigned char* serial, Py_ssize_t size, unsigned int divisor) noexcept nogil:
    """Return an INTEGER modulo `divisor` (1 to 65535), never negative."""
    cdef unsigned long long rest = 0, power = 1
    cdef Py_ssize_t index
    for index in range(size):
        rest = rest << 8 | serial[index]
        if rest >> 48:  # a quotient costs more than all the rest
            rest %= divisor
    rest %= divisor
    if serial[0] & 0x80:  # two's complement: the value is 256**size less
        for index in range(size):
            power = (power << 8) % divisor
        rest = (rest + divisor - power) % divisor
    return <unsigned int>rest


def shard_of(bytes serial_octets not None, unsigned int shards):
    """Return the shard of a serial; see the .pyi."""
    if not 1 <= shards <= 0xFFFF or PyBytes_GET_SIZE(serial_octets) < 1:
        raise ValueError(f"{shards} shards: allowed are 1 to 65535; and a serial has an octet at least")
    return modulo(<const unsigned char*>PyBytes_AS_STRING(serial_octets), PyBytes_GET_SIZE(serial_octets), shards)


cdef inline unsigned char* put_digits(unsigned char* at, const char* text) noexcept nogil:
    """Write YYMMDDHHMMSSZ of 2026-11-20T10:00:00Z."""
    memcpy(at, text + 2, 2)
    memcpy(at + 2, text + 5, 2)
    memcpy(at + 4, text + 8, 2)
    memcpy(at + 6, text + 11, 2)
    memcpy(at + 8, text + 14, 2)
    memcpy(at + 10, text + 17, 2)
    at[12] = c"Z"
    return at + UTC_TIME_CONTENTS


cdef inline unsigned char* put_generalized_time(unsigned char* at, const char* text) noexcept nogil:
    at = der_put_header(at, TAG_GENERALIZED_TIME, GENERALIZED_TIME_CONTENTS)
    memcpy(at, text, 2)
    return put_digits(at + 2, text)


cdef inline unsigned char* put_time(unsigned char* at, const char* text) noexcept nogil:
    """Write a Time. RFC 5280 §5.1.2.4, §5.1.2.6: UTCTime through 2049; it has no year before 1950 either."""
    if memcmp(text, b"1950", 4) >= 0 and memcmp(text, b"2050", 4) < 0:
        at = der_put_header(at, TAG_UTC_TIME, UTC_TIME_CONTENTS)
        return put_digits(at, text)
    return put_generalized_time(at, text)


cdef unsigned char* put_entry(
    unsigned char* at,
    const Record* record,
    const char* revoked_at,
    int reason,
    const char* invalidity_date,
    const unsigned char* issuer_extension,
    Py_ssize_t issuer_size,
) noexcept nogil:
    """Write one element of revokedCertificates; `reason` NO_REASON, `invalidity_date` NULL, `issuer_size` 0: without."""
    cdef Py_ssize_t extensions = issuer_size
    cdef Py_ssize_t time_size = GENERALIZED_TIME_SIZE
    cdef Py_ssize_t size
    if memcmp(revoked_at, b"1950", 4) >= 0 and memcmp(revoked_at, b"2050", 4) < 0:
        time_size = 2 + UTC_TIME_CONTENTS
    if reason != NO_REASON:
        extensions += REASON_EXTENSION
    if invalidity_date != NULL:
        extensions += INVALIDITY_EXTENSION
    size = 2 + record.serial_size + time_size + (der_size(extensions) if extensions else 0)
    at = der_put_header(at, TAG_SEQUENCE, size)
    at = der_put_header(at, TAG_INTEGER, record.serial_size)
    at = der_put_octets(at, record.serial, record.serial_size)
    at = put_time(at, revoked_at)
    if extensions == 0:
        return at
    at = der_put_header(at, TAG_SEQUENCE, extensions)
    if reason != NO_REASON:
        at = der_put_header(at, TAG_SEQUENCE, REASON_EXTENSION - 2)
        at = der_put_octets(at, ID_CE_REASON_CODE, 5)
        at = der_put_header(at, TAG_OCTET_STRING, 3)
        at = der_put_header(at, TAG_ENUMERATED, 1)
        at[0] = <unsigned char>reason
        at += 1
    if invalidity_date != NULL:
        at = der_put_header(at, TAG_SEQUENCE, INVALIDITY_EXTENSION - 2)
        at = der_put_octets(at, ID_CE_INVALIDITY_DATE, 5)
        at = der_put_header(at, TAG_OCTET_STRING, GENERALIZED_TIME_SIZE)
        at = put_generalized_time(at, invalidity_date)
    return der_put_octets(at, issuer_extension, issuer_size)


def encode_entries(bytes chunk not None, Terms terms not None, *, bint first=False):
    """Encode a chunk's records as elements of revokedCertificates; see the .pyi."""
    cdef const unsigned char* start = <const unsigned char*>PyBytes_AS_STRING(chunk)
    cdef const unsigned char* read_at = start
    cdef Py_ssize_t remaining = PyBytes_GET_SIZE(chunk), size, most
    cdef const unsigned char* issuer = <const unsigned char*>PyBytes_AS_STRING(terms.issuer_extension)
    cdef Py_ssize_t issuer_size = PyBytes_GET_SIZE(terms.issuer_extension) if first else 0
    cdef Record record
    cdef Status status
    cdef const char* revoked_at
    cdef const char* soonest = NULL
    cdef int reason
    cdef Encoded encoded = Encoded.__new__(Encoded)
    # An entry is larger than its record by less than MOST_BESIDES_SERIAL; eight more for longer headers around an issuer.
    most = remaining + count_records(start, remaining) * MOST_BESIDES_SERIAL + 8 + issuer_size
    cdef unsigned char* buffer = <unsigned char*>malloc(<size_t>most)
    cdef unsigned char* at = buffer
    if buffer == NULL:
        raise MemoryError
    try:
        while remaining > 0:
            size = read_record(read_at, remaining, &record)
            if size == 0:
                raise no_chunk(read_at - start)
            read_at += size
            remaining -= size
            if terms.shards > 1 and modulo(record.serial, record.serial_size, terms.shards) != terms.shard:
                continue
            if not read_status(record.text, record.text_size, &status):
                raise refused(&record, "is no status")
            reason = status.reason
            revoked_at = status.revoked_at
            if status.kind != KIND_REVOKED:
                if not terms.delta:
                    raise refused(&record, "is not revoked")
                # RFC 5280 §5.2.4: listed by a base or a delta, maybe, and not revoked any more. What it was, others say.
                at = put_entry(at, &record, terms.this_update_text, REMOVE_FROM_CRL, NULL, issuer, issuer_size)
                issuer_size = 0
                encoded.count += 1
                continue
            if memcmp(revoked_at, terms.now_text, TIME_TEXT) > 0:
                if soonest == NULL or memcmp(revoked_at, soonest, TIME_TEXT) < 0:
                    soonest = revoked_at
                continue
            if (
                terms.drop_expired_before >= 0
                and status.not_after != NULL
                and memcmp(status.not_after, terms.drop_text, TIME_TEXT) < 0
            ):
                encoded.expired += 1
                continue
            # RFC 5280 §5.1.2.6: what was revoked after the moment that the CRL speaks of is dated to that moment.
            if memcmp(revoked_at, terms.this_update_text, TIME_TEXT) > 0:
                revoked_at = terms.this_update_text
            if reason > 0 and not terms.reasons >> reason & 1:
                encoded.reasons_left_out += 1
                reason = NO_REASON
            elif reason == 0:
                reason = NO_REASON
            encoded.without_reason += reason == NO_REASON
            at = put_entry(at, &record, revoked_at, reason, status.invalidity_date, issuer, issuer_size)
            issuer_size = 0
            encoded.count += 1
        encoded.der = PyBytes_FromStringAndSize(<const char*>buffer, at - buffer)
        if soonest != NULL:
            encoded.soonest_ahead = int(datetime.fromisoformat(soonest[:TIME_TEXT].decode()).timestamp())
        return encoded
    finally:
        free(buffer)


cdef Py_ssize_t count_records(const unsigned char* at, Py_ssize_t remaining) noexcept nogil:
    cdef Record record
    cdef Py_ssize_t size, count = 0
    while remaining > 0:
        size = read_record(at, remaining, &record)
        if size == 0:
            break
        at += size
        remaining -= size
        count += 1
    return count


cdef object refused(const Record* record, str problem):
    cdef bytes serial = PyBytes_FromStringAndSize(<const char*>record.serial, record.serial_size)
    cdef bytes text = PyBytes_FromStringAndSize(record.text, record.text_size)
    return ValueError(f"serial {serial.hex()}: {text[:140]!r} {problem}")
