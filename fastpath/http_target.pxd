# What other Cython modules may use of the GET target's decoder.

cdef enum:
    MAX_TARGET = 65_536  # octets: the most that the configuration lets a target have
    MAX_DECODED = 49_152  # three octets for four letters
    TARGET_OK = 0

# Decode `size` octets of a target to at most size // 4 * 3 octets at `decoded`. Returns TARGET_OK and the decoded size, or
# a status of the .pyx and the offset of the character that is wrong.
cdef int decode_octets(
    const unsigned char* target, Py_ssize_t size, unsigned char* decoded, Py_ssize_t* decoded_size, Py_ssize_t* offset
) noexcept nogil
