# Bounded strict DER reader (X.690 §8 to §11): only C inline functions, cimported by the codecs of this package.
#
# It knows tags and lengths and a few primitive types; it knows no protocol, allocates nothing, needs no GIL and raises
# nothing: every function returns a DerStatus. der_write.pxd is its counterpart.
#
# A DerReader is a view into memory that the caller owns and keeps alive; it is passed on the stack and never stored.
# Invariant: [at, at + remaining) lies within the caller's buffer, remaining >= 0. Every length is compared with
# `remaining` before it is used, so a length near 2**64 cannot make a pointer wrap. There is no recursion: a codec opens
# a level by naming it, so nesting that no codec names is skipped, never followed.
#
# On failure the reader stands where it stood before the call, at the element that is wrong: `at` tells the offset.

from libc.string cimport memcmp

cdef enum DerStatus:
    DER_OK = 0
    DER_TRUNCATED = 1  # the input or the enclosing element ends where an element, or the rest of one, must be
    DER_UNEXPECTED_TAG = 2
    DER_HIGH_TAG_NUMBER = 3  # no standard that we read uses tag numbers above 30
    DER_INDEFINITE_LENGTH = 4  # X.690 §10.1: definite form only
    DER_LENGTH_NOT_MINIMAL = 5  # X.690 §10.1: the fewest octets possible
    DER_LENGTH_TOO_LARGE = 6  # above MAX_LENGTH_OCTETS
    DER_TRAILING_DATA = 7  # octets after the last element that the type has
    DER_INTEGER_INVALID = 8  # X.690 §8.3: empty, or nine leading bits alike
    DER_BOOLEAN_INVALID = 9  # X.690 §11.1: one octet, 00 or FF
    DER_OBJECT_IDENTIFIER_INVALID = 10  # X.690 §8.19: empty, unfinished or padded arc; or above MAX_OID_OCTETS
    DER_BIT_STRING_INVALID = 11  # X.690 §8.6, §11.2
    DER_STATUS_END = 12  # codecs number their own statuses from here

cdef enum:
    TAG_BOOLEAN = 0x01
    TAG_INTEGER = 0x02
    TAG_BIT_STRING = 0x03
    TAG_OCTET_STRING = 0x04
    TAG_NULL = 0x05
    TAG_OBJECT_IDENTIFIER = 0x06
    TAG_SEQUENCE = 0x30
    TAG_CONTEXT_0 = 0xA0  # constructed, as EXPLICIT tags are
    TAG_CONTEXT_1 = 0xA1
    TAG_CONTEXT_2 = 0xA2

    MAX_LENGTH_OCTETS = 4  # contents of up to 4 GiB: more than any input that we take
    MAX_OID_OCTETS = 63  # the longest in use have about 25; nothing here ever turns one into text (CVE-2023-2650)

cdef struct DerReader:
    const unsigned char* at
    Py_ssize_t remaining


cdef inline int der_open_header(const DerReader* reader, Py_ssize_t* header_size, Py_ssize_t* length) noexcept nogil:
    """Read the tag and length at the reader, which stays. On DER_OK header_size + length <= remaining."""
    cdef const unsigned char* at = reader.at
    cdef Py_ssize_t remaining = reader.remaining
    cdef Py_ssize_t count, index
    cdef unsigned long long value
    if remaining < 1:
        return DER_TRUNCATED
    if at[0] & 0x1F == 0x1F:
        return DER_HIGH_TAG_NUMBER
    if remaining < 2:
        return DER_TRUNCATED
    if at[1] < 0x80:
        header_size[0] = 2
        length[0] = at[1]
    else:
        if at[1] == 0x80:
            return DER_INDEFINITE_LENGTH
        count = at[1] & 0x7F
        if count > MAX_LENGTH_OCTETS:
            return DER_LENGTH_TOO_LARGE
        if remaining - 2 < count:
            return DER_TRUNCATED
        value = 0
        for index in range(count):
            value = (value << 8) | at[2 + index]
        if at[2] == 0 or value < 0x80:
            return DER_LENGTH_NOT_MINIMAL
        if value > <unsigned long long>remaining:  # also keeps the cast below in range
            return DER_TRUNCATED
        header_size[0] = 2 + count
        length[0] = <Py_ssize_t>value
    if remaining - header_size[0] < length[0]:
        return DER_TRUNCATED
    return DER_OK


cdef inline int der_read_any(DerReader* reader, unsigned char* tag, DerReader* contents) noexcept nogil:
    """Read one element of any type: `contents` views its contents, `reader` moves past it."""
    cdef Py_ssize_t header_size = 0
    cdef Py_ssize_t length = 0
    cdef int status = der_open_header(reader, &header_size, &length)
    if status != DER_OK:
        return status
    tag[0] = reader.at[0]
    contents.at = reader.at + header_size
    contents.remaining = length
    reader.at += header_size + length
    reader.remaining -= header_size + length
    return DER_OK


cdef inline int der_read(DerReader* reader, unsigned char tag, DerReader* contents) noexcept nogil:
    """Read one element that must carry `tag`: `contents` views its contents, `reader` moves past it."""
    cdef unsigned char found = 0
    if reader.remaining > 0 and reader.at[0] != tag and reader.at[0] & 0x1F != 0x1F:
        return DER_UNEXPECTED_TAG
    return der_read_any(reader, &found, contents)


cdef inline bint der_next_is(const DerReader* reader, unsigned char tag) noexcept nogil:
    """Tell whether an element with `tag` stands next: how OPTIONAL and DEFAULT fields are found."""
    return reader.remaining > 0 and reader.at[0] == tag


cdef inline int der_finish(const DerReader* reader) noexcept nogil:
    """Check that nothing is left: an element holds what its type has, and no more."""
    return DER_TRAILING_DATA if reader.remaining != 0 else DER_OK


cdef inline bint der_equals(const DerReader* contents, const unsigned char* expected, Py_ssize_t size) noexcept nogil:
    """Compare contents octets with `size` octets at `expected`."""
    return contents.remaining == size and memcmp(contents.at, expected, <size_t>size) == 0


cdef inline int der_check_integer(const DerReader* contents) noexcept nogil:
    """Check the contents octets of an INTEGER; of any size and sign."""
    if contents.remaining < 1:
        return DER_INTEGER_INVALID
    # X.690 §8.3.2: the first nine bits are not all alike, so each value has one encoding.
    if contents.remaining > 1 and (
        (contents.at[0] == 0x00 and contents.at[1] < 0x80) or (contents.at[0] == 0xFF and contents.at[1] >= 0x80)
    ):
        return DER_INTEGER_INVALID
    return DER_OK


cdef inline int der_check_boolean(const DerReader* contents, bint* value) noexcept nogil:
    """Check the contents octets of a BOOLEAN and give its value."""
    # X.690 §11.1: TRUE is FF, no other octet.
    if contents.remaining != 1 or (contents.at[0] != 0x00 and contents.at[0] != 0xFF):
        return DER_BOOLEAN_INVALID
    value[0] = contents.at[0] == 0xFF
    return DER_OK


cdef inline int der_check_oid(const DerReader* contents) noexcept nogil:
    """Check the contents octets of an OBJECT IDENTIFIER; arcs are never computed, so their size costs nothing."""
    cdef Py_ssize_t index
    cdef bint first = True
    if contents.remaining < 1 or contents.remaining > MAX_OID_OCTETS:
        return DER_OBJECT_IDENTIFIER_INVALID
    for index in range(contents.remaining):
        # X.690 §8.19.2: a subidentifier takes the fewest octets, so it never begins with 80.
        if first and contents.at[index] == 0x80:
            return DER_OBJECT_IDENTIFIER_INVALID
        first = contents.at[index] < 0x80
    return DER_OK if first else DER_OBJECT_IDENTIFIER_INVALID


cdef inline int der_check_bit_string(const DerReader* contents) noexcept nogil:
    """Check the contents octets of a BIT STRING: the count of unused bits, and that these are zero."""
    cdef unsigned char unused
    if contents.remaining < 1:
        return DER_BIT_STRING_INVALID
    unused = contents.at[0]
    if unused > 7 or (contents.remaining == 1 and unused != 0):
        return DER_BIT_STRING_INVALID
    # X.690 §11.2.1: unused bits are zero.
    if contents.at[contents.remaining - 1] & ((1 << unused) - 1) and contents.remaining > 1:
        return DER_BIT_STRING_INVALID
    return DER_OK
