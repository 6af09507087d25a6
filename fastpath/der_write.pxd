# DER writer (X.690 §8 to §11): only C inline functions, cimported by the codecs of this package.
#
# The counterpart of der.pxd, and like it without protocol, allocation, GIL or errors. Writing takes two passes: the
# codec adds up sizes from the inside out (der_size), allocates once, then puts headers and octets from the outside in.
# Every der_put_* writes at `at`, for which the caller has made room, and returns the place behind what it wrote.
# Sizes are below 2**32, as DER_WRITE_MAX says: the codecs check their inputs against it.

from libc.string cimport memcpy

cdef enum:
    DER_WRITE_MAX = 0x0FFFFFFF  # octets of any one input of a codec: a few of them together stay below 2**32
    TAG_ENUMERATED = 0x0A
    TAG_GENERALIZED_TIME = 0x18

    GENERALIZED_TIME_CONTENTS = 15  # YYYYMMDDHHMMSSZ
    GENERALIZED_TIME_SIZE = 17

# Seconds of 9999-12-31T23:59:59Z, the last that GeneralizedTime can spell (four digits of year).
cdef inline long long der_last_second() noexcept nogil:
    return 253402300799


cdef inline Py_ssize_t der_size(Py_ssize_t contents) noexcept nogil:
    """Size of a whole element with that many contents octets."""
    if contents < 0x80:
        return 2 + contents
    if contents < 0x100:
        return 3 + contents
    if contents < 0x10000:
        return 4 + contents
    if contents < 0x1000000:
        return 5 + contents
    return 6 + contents


cdef inline unsigned char* der_put_header(unsigned char* at, unsigned char tag, Py_ssize_t contents) noexcept nogil:
    """Write tag and length. X.690 §10.1: definite form, in the fewest octets."""
    cdef int shift
    at[0] = tag
    if contents < 0x80:
        at[1] = <unsigned char>contents
        return at + 2
    shift = 0 if contents < 0x100 else 8 if contents < 0x10000 else 16 if contents < 0x1000000 else 24
    at[1] = <unsigned char>(0x81 + shift // 8)
    at += 2
    while shift >= 0:
        at[0] = <unsigned char>((contents >> shift) & 0xFF)
        at += 1
        shift -= 8
    return at


cdef inline unsigned char* der_put_octets(
    unsigned char* at, const unsigned char* octets, Py_ssize_t size
) noexcept nogil:
    """Write octets that are encoded already. With a size of 0, `octets` is not looked at."""
    if size > 0:
        memcpy(at, octets, <size_t>size)
    return at + size


cdef inline unsigned char* der_put_two_digits(unsigned char* at, int value) noexcept nogil:
    """Write 00 to 99 in ASCII."""
    at[0] = <unsigned char>(0x30 + value // 10)
    at[1] = <unsigned char>(0x30 + value % 10)
    return at + 2


cdef inline unsigned char* der_put_generalized_time(unsigned char* at, long long seconds) noexcept nogil:
    """Write a GeneralizedTime element of POSIX seconds, 0 to der_last_second().

    RFC 9919 §3.2.4, RFC 5280 §4.1.2.5.2: Zulu, seconds present, no fraction. Own arithmetic, since gmtime_r costs a
    lock and depends on the C library's time_t.
    """
    cdef int days = <int>(seconds // 86400)
    cdef int second = <int>(seconds % 86400)
    # Civil date of a day number in the proleptic Gregorian calendar. Years are counted from March, so that the leap
    # day comes last; 719468 days lie between 0000-03-01 and 1970-01-01. All values are non-negative here.
    cdef int shifted = days + 719468
    cdef int era = shifted // 146097  # eras of 400 years, all of the same length
    cdef int day_of_era = shifted - era * 146097
    cdef int year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef int day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int month_from_march = (5 * day_of_year + 2) // 153
    cdef int day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    cdef int month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    cdef int year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    at = der_put_header(at, TAG_GENERALIZED_TIME, GENERALIZED_TIME_CONTENTS)
    at = der_put_two_digits(at, year // 100)
    at = der_put_two_digits(at, year % 100)
    at = der_put_two_digits(at, month)
    at = der_put_two_digits(at, day)
    at = der_put_two_digits(at, second // 3600)
    at = der_put_two_digits(at, second // 60 % 60)
    at = der_put_two_digits(at, second % 60)
    at[0] = 0x5A  # Z
    return at + 1
