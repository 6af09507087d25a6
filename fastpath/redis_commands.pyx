"""The commands that read one answer from Redis (RESP2), and those that write a bucket's, packed in one pass.

A miss is made of little else, and presigning of nothing else that is done for each answer. Knows how RESP spells bulk
strings, and nothing of what the keys are called (responder/store/layout.py). Called by responder/store/edge_store.py and
answer_store.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memcpy

cdef enum:
    MOST_SERIAL = 4_999  # octets: their digits have a length of at most four digits
    MOST_HEAD = 24  # of a bulk string: `$`, its length's digits and CR LF; and CR LF after it

cdef const char* HEX = b"0123456789abcdef"


cdef inline char* put_octets(char* at, bytes octets) noexcept:
    memcpy(at, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return at + PyBytes_GET_SIZE(octets)


cdef inline char* put_size(char* at, Py_ssize_t size) noexcept nogil:
    """Write `$`, the size's digits and CR LF."""
    cdef Py_ssize_t unit = 1
    at[0] = c"$"
    at += 1
    while unit * 10 <= size:
        unit *= 10
    while unit > 0:
        at[0] = <char>(c"0" + size // unit % 10)
        at += 1
        unit //= 10
    at[0], at[1] = c"\r", c"\n"
    return at + 2


cdef inline char* put_bulk(char* at, const char* octets, Py_ssize_t size) noexcept nogil:
    at = put_size(at, size)
    memcpy(at, octets, size)
    at += size
    at[0], at[1] = c"\r", c"\n"
    return at + 2


cdef inline char* put_hex_bulk(char* at, const unsigned char* octets, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t index
    at = put_size(at, 2 * size)
    for index in range(size):
        at[2 * index] = HEX[octets[index] >> 4]
        at[2 * index + 1] = HEX[octets[index] & 15]
    at += 2 * size
    at[0], at[1] = c"\r", c"\n"
    return at + 2


def pack_answer_reads(bytes status not None, bytes answers not None, bytes serial_octets not None):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(serial_octets)
    cdef const unsigned char* serial = <const unsigned char*>PyBytes_AS_STRING(serial_octets)
    cdef bytes packed
    cdef char* at
    if size > MOST_SERIAL:
        raise ValueError(f"serial_octets has {size} octets: at most {MOST_SERIAL}")
    # Each bulk string: `$`, a length of up to four digits, CR LF, the octets, CR LF.
    packed = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(status) + PyBytes_GET_SIZE(answers) + 3 * size + 2 * 9)
    at = put_octets(<char*>PyBytes_AS_STRING(packed), status)
    at = put_hex_bulk(at, serial, size)
    at = put_octets(at, answers)
    at = put_bulk(at, <const char*>serial, size)
    return packed[: at - <char*>PyBytes_AS_STRING(packed)]


def pack_answer_writes(list answers not None):
    cdef Py_ssize_t most = 0, text_size = 0
    cdef bytes serial, octets, packed
    cdef str text
    cdef const char* text_chars
    for serial, text, octets in answers:
        PyUnicode_AsUTF8AndSize(text, &text_size)
        most += 3 * PyBytes_GET_SIZE(serial) + text_size + PyBytes_GET_SIZE(octets) + 4 * MOST_HEAD
    packed = PyBytes_FromStringAndSize(NULL, most)
    cdef char* at = <char*>PyBytes_AS_STRING(packed)
    for serial, text, octets in answers:
        at = put_bulk(at, PyBytes_AS_STRING(serial), PyBytes_GET_SIZE(serial))
        at = put_hex_bulk(at, <const unsigned char*>PyBytes_AS_STRING(serial), PyBytes_GET_SIZE(serial))
        text_chars = PyUnicode_AsUTF8AndSize(text, &text_size)
        at = put_bulk(at, text_chars, text_size)
        at = put_bulk(at, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return packed[: at - <char*>PyBytes_AS_STRING(packed)]
