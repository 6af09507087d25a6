"""A CRL's revokedCertificates read strictly, as a stream (RFC 5280 §5.1.2.6, §5.3).

For CRLs of anybody, and for checking our own: nothing here is shared with crl_entries.pyx, which writes entries, so that one
mistake is not made twice. Octets come in blocks from an iterator; nothing of a CRL's size is ever held.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from fastpath.der cimport (
    DER_OK,
    DER_STATUS_END,
    DER_TRAILING_DATA,
    DER_TRUNCATED,
    DER_UNEXPECTED_TAG,
    TAG_BOOLEAN,
    TAG_INTEGER,
    TAG_OBJECT_IDENTIFIER,
    TAG_OCTET_STRING,
    TAG_SEQUENCE,
    DerReader,
    der_check_boolean,
    der_check_integer,
    der_check_oid,
    der_next_is,
    der_open_header,
    der_read,
    der_read_any,
)

cdef enum:
    MAX_ENTRY = 65_536  # octets of one; with reason, dates and an issuer's name few have 200
    MAX_SERIAL = 64  # contents octets; RFC 5280 §4.1.2.2 allows 20
    MAX_ENTRY_EXTENSIONS = 16  # four are defined
    BATCH = 512
    UTC_TIME = 0x17
    GENERALIZED_TIME = 0x18
    ENUMERATED = 0x0A
    DIRECTORY_NAME = 0xA4  # GeneralName [4], explicit since Name is a CHOICE

    # Statuses behind those of der.pxd.
    TIME_INVALID = DER_STATUS_END
    SERIAL_TOO_LONG = DER_STATUS_END + 1
    EXTENSIONS_IN_VERSION_1 = DER_STATUS_END + 2
    EXTENSIONS_EMPTY = DER_STATUS_END + 3
    DUPLICATE_EXTENSION = DER_STATUS_END + 4
    TOO_MANY_EXTENSIONS = DER_STATUS_END + 5
    REASON_INVALID = DER_STATUS_END + 6
    CERTIFICATE_ISSUER_INVALID = DER_STATUS_END + 7
    ENTRY_TOO_LARGE = DER_STATUS_END + 8
    STATUS_COUNT = DER_STATUS_END + 9

    # Faults that can be understood.
    FAULT_GENERALIZED_BEFORE_2050 = 1
    FAULT_REASON_CRITICAL = 2
    FAULT_REASON_UNSPECIFIED = 4
    FAULT_INVALIDITY_CRITICAL = 8
    FAULT_ISSUER_NOT_CRITICAL = 16
    FAULT_SERIAL_NOT_POSITIVE = 32
    FAULT_SERIAL_LONG = 64
    FAULT_FALSE_WRITTEN = 128

MAX_ENTRY_OCTETS = MAX_ENTRY

cdef tuple _CODES = (
    ("ok", ""),
    ("truncated", "X.690 §8.1"),
    ("unexpected-tag", "RFC 5280 §5.1"),
    ("high-tag-number", "RFC 5280 §5.1"),
    ("indefinite-length", "X.690 §10.1"),
    ("length-not-minimal", "X.690 §10.1"),
    ("length-too-large", "X.690 §10.1"),
    ("trailing-data", "RFC 5280 §5.1"),
    ("integer-invalid", "X.690 §8.3"),
    ("boolean-invalid", "X.690 §11.1"),
    ("object-identifier-invalid", "X.690 §8.19"),
    ("bit-string-invalid", "X.690 §8.6"),
    ("time-invalid", "RFC 5280 §5.1.2.6"),
    ("serial-too-long", "RFC 5280 §4.1.2.2"),
    ("extensions-in-version-1", "RFC 5280 §5.1.2.1"),
    ("extensions-empty", "RFC 5280 §5.1"),
    ("duplicate-extension", "RFC 5280 §4.2"),
    ("too-many-extensions", "RFC 5280 §5.3"),
    ("reason-invalid", "RFC 5280 §5.3.1"),
    ("certificate-issuer-invalid", "RFC 5280 §5.3.3"),
    ("entry-too-large", "RFC 5280 §5.1.2.6"),
)
assert len(_CODES) == STATUS_COUNT

cdef dict _FAULTS = {
    FAULT_GENERALIZED_BEFORE_2050: "a revocationDate through 2049 is a GeneralizedTime (RFC 5280 §5.1.2.6)",
    FAULT_REASON_CRITICAL: "a reasonCode is critical (RFC 5280 §5.3.1)",
    FAULT_REASON_UNSPECIFIED: "a reasonCode says unspecified (RFC 5280 §5.3.1)",
    FAULT_INVALIDITY_CRITICAL: "an invalidityDate is critical (RFC 5280 §5.3.2)",
    FAULT_ISSUER_NOT_CRITICAL: "a certificateIssuer is not critical (RFC 5280 §5.3.3)",
    FAULT_SERIAL_NOT_POSITIVE: "a serial number is zero or negative (RFC 5280 §4.1.2.2)",
    FAULT_SERIAL_LONG: "a serial number has more than 20 octets (RFC 5280 §4.1.2.2)",
    FAULT_FALSE_WRITTEN: "an extension says that it is not critical, which is left out (X.690 §11.5)",
}

class EntryError(ValueError):
    """Octets that are no entry of a CRL; see the .pyi."""

    category = "crl_entry"

    def __init__(self, code, offset, clause=""):
        super().__init__(f"{code} at octet {offset}" + (f" ({clause})" if clause else ""))
        self.code = code
        self.offset = offset
        self.clause = clause


# --- one entry --------------------------------------------------------------------------------------------------------


cdef inline int fail(EntryScan* scan, const unsigned char* at, int status) noexcept nogil:
    scan.error_at = at
    return status


cdef inline int take(EntryScan* scan, DerReader* reader, unsigned char tag, DerReader* contents) noexcept nogil:
    cdef int status = der_read(reader, tag, contents)
    return status if status == DER_OK else fail(scan, reader.at, status)


cdef inline int ends(EntryScan* scan, const DerReader* reader) noexcept nogil:
    return DER_OK if reader.remaining == 0 else fail(scan, reader.at, DER_TRAILING_DATA)


cdef int scan_digits(const DerReader* contents, Py_ssize_t year_digits, char* digits) noexcept nogil:
    """Check the octets of a time that ends with Z, and spell it with four digits of year."""
    cdef Py_ssize_t index, at = 4 - year_digits
    cdef int year, month, day, leap
    cdef int[13] days
    if contents.remaining != year_digits + 11 or contents.at[year_digits + 10] != c"Z":
        return TIME_INVALID
    for index in range(contents.remaining - 1):
        if contents.at[index] < c"0" or contents.at[index] > c"9":
            return TIME_INVALID
        digits[at + index] = <char>contents.at[index]
    if year_digits == 2:
        # RFC 5280 §4.1.2.5.1: 50 to 99 are of the last century.
        digits[0] = c"1" if digits[2] >= c"5" else c"2"
        digits[1] = c"9" if digits[2] >= c"5" else c"0"
    year = ((digits[0] - 48) * 10 + digits[1] - 48) * 100 + (digits[2] - 48) * 10 + digits[3] - 48
    month = (digits[4] - 48) * 10 + digits[5] - 48
    day = (digits[6] - 48) * 10 + digits[7] - 48
    if year == 0 or month == 0 or month > 12 or day == 0:
        return TIME_INVALID
    leap = 1 if (year % 4 == 0 and year % 100 != 0) or year % 400 == 0 else 0
    days = [0, 31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    if day > days[month]:
        return TIME_INVALID
    # hh < 24, mm < 60, ss < 60
    if digits[8] > c"2" or (digits[8] == c"2" and digits[9] > c"3") or digits[10] > c"5" or digits[12] > c"5":
        return TIME_INVALID
    return DER_OK


cdef int scan_time(EntryScan* scan, DerReader* fields) noexcept nogil:
    cdef DerReader contents
    cdef const unsigned char* start = fields.at
    cdef int status
    if der_next_is(fields, UTC_TIME):
        status = take(scan, fields, UTC_TIME, &contents)
        if status == DER_OK:
            status = scan_digits(&contents, 2, scan.revocation_date)
    else:
        status = take(scan, fields, GENERALIZED_TIME, &contents)
        if status == DER_OK:
            status = scan_digits(&contents, 4, scan.revocation_date)
            if status == DER_OK and 0 <= memcmp(scan.revocation_date, b"1950", 4) and memcmp(scan.revocation_date, b"2050", 4) < 0:
                scan.faults |= FAULT_GENERALIZED_BEFORE_2050
    return status if status == DER_OK else fail(scan, start, status)


cdef int scan_reason(EntryScan* scan, DerReader* value) noexcept nogil:
    # CRLReason ::= ENUMERATED; 7 is not used (RFC 5280 §5.3.1)
    cdef DerReader contents
    cdef int status = take(scan, value, ENUMERATED, &contents)
    if status != DER_OK:
        return status
    if contents.remaining != 1 or contents.at[0] > 10 or contents.at[0] == 7:
        return fail(scan, contents.at, REASON_INVALID)
    scan.reason = contents.at[0]
    if scan.reason == 0:
        scan.faults |= FAULT_REASON_UNSPECIFIED
    return ends(scan, value)


cdef int scan_invalidity_date(EntryScan* scan, DerReader* value) noexcept nogil:
    cdef DerReader contents
    cdef const unsigned char* start = value.at
    cdef int status = take(scan, value, GENERALIZED_TIME, &contents)
    if status != DER_OK:
        return status
    if scan_digits(&contents, 4, scan.invalidity_date) != DER_OK:
        return fail(scan, start, TIME_INVALID)
    scan.has_invalidity_date = True
    return ends(scan, value)


cdef int scan_certificate_issuer(EntryScan* scan, DerReader* value) noexcept nogil:
    # GeneralNames, of which the certificate's issuer field is the one directoryName (RFC 5280 §5.3.3)
    cdef DerReader names, name, skipped
    cdef const unsigned char* start = value.at
    cdef unsigned char tag = 0
    cdef int status = take(scan, value, TAG_SEQUENCE, &names)
    if status != DER_OK:
        return status
    while names.remaining > 0:
        status = der_read_any(&names, &tag, &name)
        if status != DER_OK:
            return fail(scan, names.at, status)
        if tag != DIRECTORY_NAME:
            continue
        if scan.issuer.at != NULL:
            return fail(scan, start, CERTIFICATE_ISSUER_INVALID)
        scan.issuer = name
        status = take(scan, &name, TAG_SEQUENCE, &skipped)
        if status != DER_OK:
            return status
        status = ends(scan, &name)
        if status != DER_OK:
            return status
    if scan.issuer.at == NULL:
        return fail(scan, start, CERTIFICATE_ISSUER_INVALID)
    return ends(scan, value)


cdef int scan_entry_extensions(EntryScan* scan, DerReader* extensions) noexcept nogil:
    # Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    cdef DerReader[MAX_ENTRY_EXTENSIONS] seen
    cdef DerReader extension, flag, value
    cdef const unsigned char* start
    cdef Py_ssize_t count = 0, index
    cdef bint critical
    cdef int status, arc
    if extensions.remaining == 0:
        return fail(scan, extensions.at, EXTENSIONS_EMPTY)
    while extensions.remaining > 0:
        start = extensions.at
        if count == MAX_ENTRY_EXTENSIONS:
            return fail(scan, start, TOO_MANY_EXTENSIONS)
        status = take(scan, extensions, TAG_SEQUENCE, &extension)
        if status != DER_OK:
            return status
        status = take(scan, &extension, TAG_OBJECT_IDENTIFIER, &seen[count])
        if status == DER_OK:
            status = der_check_oid(&seen[count])
            if status != DER_OK:
                return fail(scan, seen[count].at, status)
        else:
            return status
        critical = False
        if der_next_is(&extension, TAG_BOOLEAN):
            status = take(scan, &extension, TAG_BOOLEAN, &flag)
            if status != DER_OK:
                return status
            status = der_check_boolean(&flag, &critical)
            if status != DER_OK:
                return fail(scan, flag.at, status)
            if not critical:
                scan.faults |= FAULT_FALSE_WRITTEN
        status = take(scan, &extension, TAG_OCTET_STRING, &value)
        if status != DER_OK:
            return status
        status = ends(scan, &extension)
        if status != DER_OK:
            return status
        for index in range(count):
            if seen[index].remaining == seen[count].remaining and (
                memcmp(seen[index].at, seen[count].at, <size_t>seen[count].remaining) == 0
            ):
                return fail(scan, start, DUPLICATE_EXTENSION)
        # id-ce is 2.5.29
        arc = -1
        if seen[count].remaining == 3 and seen[count].at[0] == 0x55 and seen[count].at[1] == 0x1D:
            arc = seen[count].at[2]
        if arc == 21:
            scan.faults |= FAULT_REASON_CRITICAL if critical else 0
            status = scan_reason(scan, &value)
        elif arc == 24:
            scan.faults |= FAULT_INVALIDITY_CRITICAL if critical else 0
            status = scan_invalidity_date(scan, &value)
        elif arc == 29:
            scan.faults |= 0 if critical else FAULT_ISSUER_NOT_CRITICAL
            status = scan_certificate_issuer(scan, &value)
        elif critical and scan.unknown_critical.at == NULL:
            # RFC 5280 §5.3: such a CRL MUST NOT be used to find a certificate's status; but what it lists is revoked.
            scan.unknown_critical = seen[count]
        if status != DER_OK:
            return status
        count += 1
    return DER_OK


cdef int scan_entry(EntryScan* scan, DerReader* fields, bint version_2) noexcept nogil:
    # SEQUENCE { userCertificate CertificateSerialNumber, revocationDate Time, crlEntryExtensions Extensions OPTIONAL }
    cdef DerReader extensions
    cdef int status
    scan.reason = -1
    scan.has_invalidity_date = False
    scan.issuer.at = NULL
    scan.issuer.remaining = 0
    scan.unknown_critical.at = NULL
    scan.unknown_critical.remaining = 0
    scan.faults = 0
    status = take(scan, fields, TAG_INTEGER, &scan.serial)
    if status != DER_OK:
        return status
    status = der_check_integer(&scan.serial)
    if status != DER_OK:
        return fail(scan, scan.serial.at, status)
    if scan.serial.remaining > 20:
        if scan.serial.remaining > MAX_SERIAL:
            return fail(scan, scan.serial.at, SERIAL_TOO_LONG)
        scan.faults |= FAULT_SERIAL_LONG
    if scan.serial.at[0] >= 0x80 or (scan.serial.remaining == 1 and scan.serial.at[0] == 0):
        scan.faults |= FAULT_SERIAL_NOT_POSITIVE
    status = scan_time(scan, fields)
    if status != DER_OK:
        return status
    if fields.remaining == 0:
        return DER_OK
    # RFC 5280 §5.1.2.1: a CRL with extensions is of version 2.
    if not version_2:
        return fail(scan, fields.at, EXTENSIONS_IN_VERSION_1)
    status = take(scan, fields, TAG_SEQUENCE, &extensions)
    if status != DER_OK:
        return status
    status = ends(scan, fields)
    if status != DER_OK:
        return status
    return scan_entry_extensions(scan, &extensions)


# --- a stream of them -------------------------------------------------------------------------------------------------


cdef class ElementReader:
    """Elements of a SEQUENCE OF whose octets come in blocks: the part that knows no entries."""

    def __cinit__(self, blocks, Py_ssize_t size, Py_ssize_t offset=0, **_):
        if size < 0 or offset < 0:
            raise ValueError(f"{size} octets at {offset}")
        self._blocks = iter(blocks)
        self._block = b""
        self._to_come = size
        self._offset = offset
        self._view.at = self._start = <const unsigned char*>PyBytes_AS_STRING(self._block)
        self._view.remaining = 0

    cdef Py_ssize_t place(self, const unsigned char* at):
        return self._offset + (at - self._start)

    cdef object error(self, int status, const unsigned char* at):
        return EntryError(_CODES[status][0], self.place(at), _CODES[status][1])

    cdef int refill(self) except -1:
        """Take in another block; 0: there is none."""
        cdef bytes block, rest
        if self._to_come == 0:
            return 0
        block = next(self._blocks, None)
        if block is None or PyBytes_GET_SIZE(block) == 0:
            raise EntryError("truncated", self.place(self._view.at + self._view.remaining), "X.690 §8.1")
        if PyBytes_GET_SIZE(block) > self._to_come:
            block = block[: self._to_come]
        self._to_come -= PyBytes_GET_SIZE(block)
        self._offset = self.place(self._view.at)
        if self._view.remaining > 0:
            rest = PyBytes_FromStringAndSize(<const char*>self._view.at, self._view.remaining)
            block = rest + block
        self._block = block
        self._start = self._view.at = <const unsigned char*>PyBytes_AS_STRING(block)
        self._view.remaining = PyBytes_GET_SIZE(block)
        return 1

    cdef int next_element(self, DerReader* contents) except -1:
        """View the next SEQUENCE's contents octets, valid until the next call; 0: there is none more."""
        cdef int status
        cdef Py_ssize_t header_size = 0, length = 0
        while True:
            if self._view.remaining == 0:
                if not self.refill():
                    return 0
            status = der_open_header(&self._view, &header_size, &length)
            if status == DER_OK:
                if self._view.at[0] != TAG_SEQUENCE:
                    raise self.error(DER_UNEXPECTED_TAG, self._view.at)
                if header_size + length > MAX_ENTRY:
                    raise self.error(ENTRY_TOO_LARGE, self._view.at)
                contents.at = self._view.at + header_size
                contents.remaining = length
                self._view.at += header_size + length
                self._view.remaining -= header_size + length
                return 1
            if status != DER_TRUNCATED:
                raise self.error(status, self._view.at)
            if self._view.remaining > MAX_ENTRY:
                raise self.error(ENTRY_TOO_LARGE, self._view.at)
            if not self.refill():
                raise self.error(DER_TRUNCATED, self._view.at)


    cdef bint skip_whole(self):
        """Pass one element that the view holds whole; False: there is none, or it is no element that we take."""
        cdef Py_ssize_t header_size = 0, length = 0
        if der_open_header(&self._view, &header_size, &length) != DER_OK:
            return False
        if self._view.at[0] != TAG_SEQUENCE or header_size + length > MAX_ENTRY:
            return False
        self._view.at += header_size + length
        self._view.remaining -= header_size + length
        return True


cdef class Entry:
    """One element of revokedCertificates; see the .pyi."""

    def __repr__(self):
        return (
            f"Entry({self.serial_octets.hex()} at {self.revocation_date} reason={self.reason}"
            f" invalidity_date={self.invalidity_date})"
        )


cdef long long to_seconds(const char* digits) noexcept nogil:
    """Turn fourteen digits that were checked into POSIX seconds, negative before 1970."""
    cdef int[7] fields
    cdef long long year, days
    cdef int index
    fields[0] = 0
    for index in range(1, 7):
        fields[index] = (digits[2 * index] - 48) * 10 + digits[2 * index + 1] - 48
    year = (digits[0] - 48) * 1000 + (digits[1] - 48) * 100 + fields[1]
    # Days before the year, then before the month: March begins the counting, so that a leap day is the last.
    if fields[2] <= 2:
        year -= 1
        fields[2] += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (fields[2] - 3) + 2) // 5 + fields[3] - 1 - 719_468
    return ((days * 24 + fields[4]) * 60 + fields[5]) * 60 + fields[6]


cdef class EntryReader(ElementReader):
    """A streaming strict reader of revokedCertificates; see the .pyi."""

    def __init__(self, blocks, Py_ssize_t size, Py_ssize_t offset=0, *, bint version_2=True):
        self._version_2 = version_2

    @property
    def faults(self):
        """What is not as RFC 5280 wants it, but can be understood."""
        return frozenset(text for bit, text in _FAULTS.items() if self._faults & bit)

    cdef int advance(self, EntryScan* scan) except -1:
        """Read the next entry, whose pointers hold until the next call; 0: there is none more."""
        cdef DerReader contents
        cdef int status
        if not self.next_element(&contents):
            return 0
        status = scan_entry(scan, &contents, self._version_2)
        if status != DER_OK:
            raise self.error(status, scan.error_at)
        self._faults |= scan.faults
        self.count += 1
        # RFC 5280 §5.3.3: it holds for the entries behind it, until another names another.
        if scan.issuer.at != NULL:
            self.issuer = octets(&scan.issuer)
        return 1

    cdef Entry entry(self, const EntryScan* scan):
        cdef Entry entry = Entry.__new__(Entry)
        entry.serial_octets = octets(&scan.serial)
        entry.revocation_date = to_seconds(scan.revocation_date)
        if scan.reason >= 0:
            entry.reason = scan.reason
        if scan.has_invalidity_date:
            entry.invalidity_date = to_seconds(scan.invalidity_date)
        entry.certificate_issuer = self.issuer
        if scan.unknown_critical.at != NULL:
            entry.unknown_critical = octets(&scan.unknown_critical)
        return entry

    def __iter__(self):
        return self

    def __next__(self):
        cdef EntryScan scan
        cdef list batch = []
        while len(batch) < BATCH and self.advance(&scan):
            batch.append(self.entry(&scan))
        if not batch:
            raise StopIteration
        return batch


cdef inline bytes octets(const DerReader* view):
    return PyBytes_FromStringAndSize(<const char*>view.at, view.remaining)


def split_entries(blocks, Py_ssize_t size):
    """Cut the contents octets of revokedCertificates between two elements; see the .pyi."""
    cdef ElementReader reader = ElementReader(blocks, size)
    cdef DerReader contents
    cdef const unsigned char* start
    while reader.next_element(&contents):
        # The first of what the reader holds may have come in two blocks; all that are whole are behind it.
        start = reader._start
        while reader.skip_whole():
            pass
        yield PyBytes_FromStringAndSize(<const char*>start, reader._view.at - start)
