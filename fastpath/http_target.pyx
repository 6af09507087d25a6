"""The target of an OCSP GET (RFC 6960 App. A.1, RFC 9919 §6): percent-encoding and base64 to DER in one bounded pass.

Knows no OCSP and no files: no path is ever made of a target, and nothing outside the base64 alphabet gets through
(STANDARDS SEC-04). Called by the HTTP side with the target as it stood on the request line. A request has exactly one
base64 text; what may vary is how that text is spelled in the URL:

- Any character may be percent-encoded, in either case of hex; ``+``, ``/`` and ``=`` may also stand raw. ``+`` is
  never a space, ``//`` is never merged, nothing is decoded twice.
- The target begins with ``/``; one more may follow, for clients that add theirs to an AIA URL that ends in one. That is
  unambiguous: the DER of a SEQUENCE begins with octet 30 and its base64 therefore with ``M``, never with ``/``.
- Refused: query and fragment, the absolute form, the base64url letters ``-`` and ``_``, missing or surplus padding,
  white space and line breaks, and trailing bits that are not zero (RFC 4648 §3.5). RFC 9919 §6 forbids clients to send
  them, and an answer must not be reachable, and cached on its way, under spellings that only we understand.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef enum:
    NOT_BASE64 = 255

cdef unsigned int NONE = 0x80000000

cdef enum TargetStatus:
    TARGET_TOO_LONG = TARGET_OK + 1
    TARGET_NOT_ORIGIN_FORM
    TARGET_EMPTY
    TARGET_QUERY
    TARGET_FRAGMENT
    TARGET_PERCENT_INVALID
    TARGET_CHARACTER_INVALID
    TARGET_PADDING_INVALID
    TARGET_TRAILING_BITS

MAX_TARGET_OCTETS = MAX_TARGET

_CODES = {
    TARGET_TOO_LONG: "too-long",
    TARGET_NOT_ORIGIN_FORM: "not-origin-form",
    TARGET_EMPTY: "empty",
    TARGET_QUERY: "query",
    TARGET_FRAGMENT: "fragment",
    TARGET_PERCENT_INVALID: "percent-invalid",
    TARGET_CHARACTER_INVALID: "character-invalid",
    TARGET_PADDING_INVALID: "padding-invalid",
    TARGET_TRAILING_BITS: "trailing-bits",
}

# Indexed by octet; filled once below, read only afterwards.
cdef unsigned char[256] BASE64_VALUES
cdef unsigned char[256] HEX_VALUES
# The same values where they go in 24 bits, by the letter's place among four; the top bit for what is none.
cdef unsigned int[256] FIRST
cdef unsigned int[256] SECOND
cdef unsigned int[256] THIRD
cdef unsigned int[256] FOURTH


cdef void fill_tables():
    cdef int value
    cdef int letter
    for value in range(256):
        BASE64_VALUES[value] = NOT_BASE64
        HEX_VALUES[value] = 255
    for value, letter in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):
        BASE64_VALUES[letter] = <unsigned char>value
    for letter in range(256):
        value = BASE64_VALUES[letter]
        FIRST[letter] = <unsigned int>value << 18 if value < 64 else NONE
        SECOND[letter] = <unsigned int>value << 12 if value < 64 else NONE
        THIRD[letter] = <unsigned int>value << 6 if value < 64 else NONE
        FOURTH[letter] = <unsigned int>value if value < 64 else NONE
    for value, letter in enumerate(b"0123456789abcdef"):
        HEX_VALUES[letter] = <unsigned char>value
    for value, letter in enumerate(b"0123456789ABCDEF"):
        HEX_VALUES[letter] = <unsigned char>value


fill_tables()


class TargetError(ValueError):
    """The request target does not hold base64 of an OCSP request (RFC 6960 App. A.1). ``code`` is a fixed short name."""

    category = "target"

    def __init__(self, code, offset):
        super().__init__(f"request target: {code} at octet {offset}")
        self.code = code
        self.offset = offset


cdef int decode_octets(
    const unsigned char* target, Py_ssize_t size, unsigned char* decoded, Py_ssize_t* decoded_size, Py_ssize_t* offset
) noexcept nogil:
    # Writes at most size // 4 * 3 octets to `decoded`. `offset` is where the character in hand begins.
    cdef Py_ssize_t at = 1
    cdef Py_ssize_t letters = 0
    cdef Py_ssize_t paddings = 0
    cdef Py_ssize_t written = 0
    cdef unsigned int bits = 0
    cdef unsigned int four
    cdef unsigned char letter, value
    cdef bint may_be_extra_slash = True
    offset[0] = 0
    if size > MAX_TARGET:
        return TARGET_TOO_LONG
    if size < 1 or target[0] != c"/":
        return TARGET_NOT_ORIGIN_FORM
    while at < size:
        # Four plain letters at once, which most of a target is; whatever is not one is looked at below.
        while letters & 3 == 0 and paddings == 0 and not may_be_extra_slash and size - at >= 4:
            four = FIRST[target[at]] | SECOND[target[at + 1]] | THIRD[target[at + 2]] | FOURTH[target[at + 3]]
            if four & NONE:
                break
            decoded[written] = <unsigned char>(four >> 16)
            decoded[written + 1] = <unsigned char>(four >> 8)
            decoded[written + 2] = <unsigned char>four
            letters += 4
            written += 3
            at += 4
        if at == size:
            break
        offset[0] = at
        letter = target[at]
        if letter == c"%":
            if size - at < 3 or HEX_VALUES[target[at + 1]] > 15 or HEX_VALUES[target[at + 2]] > 15:
                return TARGET_PERCENT_INVALID
            letter = <unsigned char>(HEX_VALUES[target[at + 1]] << 4 | HEX_VALUES[target[at + 2]])
            at += 3
        else:
            at += 1
            if letter == c"?":
                return TARGET_QUERY
            if letter == c"#":
                return TARGET_FRAGMENT
        if may_be_extra_slash:
            may_be_extra_slash = False
            if letter == c"/":
                continue
        if letter == c"=":
            # RFC 4648 §4: one or two, and only to fill the last group of four.
            paddings += 1
            if letters & 3 < 2 or (letters & 3) + paddings > 4:
                return TARGET_PADDING_INVALID
            # RFC 4648 §3.5: bits of the last letter that encode nothing are zero, so each text has one meaning and
            # each meaning one text.
            if bits != 0:
                return TARGET_TRAILING_BITS
            continue
        value = BASE64_VALUES[letter]
        if value == NOT_BASE64:
            return TARGET_CHARACTER_INVALID
        if paddings > 0:
            return TARGET_PADDING_INVALID
        # `bits` holds what previous letters left over: 6, 4 or 2 bits, by the number of letters in the group.
        bits = bits << 6 | value
        letters += 1
        if letters & 3 == 2:
            decoded[written] = <unsigned char>(bits >> 4)
            written += 1
            bits &= 0xF
        elif letters & 3 == 3:
            decoded[written] = <unsigned char>(bits >> 2)
            written += 1
            bits &= 0x3
        elif letters & 3 == 0:
            decoded[written] = <unsigned char>bits
            written += 1
            bits = 0
    offset[0] = size
    if letters == 0:
        return TARGET_EMPTY
    if letters & 3 != 0 and (letters & 3) + paddings != 4:
        return TARGET_PADDING_INVALID
    decoded_size[0] = written
    return TARGET_OK


def decode_target(bytes target not None):
    """Decode a GET target (origin form, leading ``/`` included, raw as on the wire) into the request's DER.

    One bounded pass: %-decoding and base64 together. Raises TargetError.
    """
    cdef unsigned char[MAX_DECODED] decoded
    cdef Py_ssize_t decoded_size = 0
    cdef Py_ssize_t offset = 0
    cdef int status = decode_octets(
        <const unsigned char*>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target), decoded, &decoded_size, &offset
    )
    if status != TARGET_OK:
        raise TargetError(_CODES[status], offset)
    return PyBytes_FromStringAndSize(<const char*>decoded, decoded_size)
