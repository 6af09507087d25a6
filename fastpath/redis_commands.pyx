"""The commands that read one answer from Redis (RESP2), packed in one pass: a miss is made of little else.

Knows how RESP spells bulk strings, and nothing of what the keys are called (responder/store/layout.py). Called by
responder/store/edge_store.py for every miss.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef enum:
    MOST_SERIAL = 4_999  # octets: their digits have a length of at most four digits

cdef const char* HEX = b"0123456789abcdef"


cdef inline char* put_octets(char* at, bytes octets) noexcept:
    memcpy(at, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return at + PyBytes_GET_SIZE(octets)


cdef inline char* put_size(char* at, Py_ssize_t size) noexcept nogil:
    """Write `$`, up to four digits and CR LF."""
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


def pack_answer_reads(bytes status not None, bytes answers not None, bytes serial_octets not None):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(serial_octets)
    cdef const unsigned char* serial = <const unsigned char*>PyBytes_AS_STRING(serial_octets)
    cdef Py_ssize_t index
    cdef bytes packed
    cdef char* at
    if size > MOST_SERIAL:
        raise ValueError(f"serial_octets has {size} octets: at most {MOST_SERIAL}")
    # Each bulk string: `$`, a length of up to four digits, CR LF, the octets, CR LF.
    packed = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(status) + PyBytes_GET_SIZE(answers) + 3 * size + 2 * 9)
    at = put_octets(<char*>PyBytes_AS_STRING(packed), status)
    at = put_size(at, 2 * size)
    for index in range(size):
        at[2 * index] = HEX[serial[index] >> 4]
        at[2 * index + 1] = HEX[serial[index] & 15]
    at += 2 * size
    at[0], at[1] = c"\r", c"\n"
    at = put_octets(at + 2, answers)
    at = put_size(at, size)
    memcpy(at, serial, size)
    at += size
    at[0], at[1] = c"\r", c"\n"
    return packed[: at + 2 - <char*>PyBytes_AS_STRING(packed)]
