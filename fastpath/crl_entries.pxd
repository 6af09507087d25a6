# What other Cython modules may use of the CRL entries: the terms on which a CRL is made.

cdef class Terms:
    cdef readonly long long this_update  # POSIX seconds
    cdef readonly long long now
    cdef readonly long long drop_expired_before  # -1: nothing is dropped
    cdef readonly unsigned int shard
    cdef readonly unsigned int shards  # at least 1
    cdef readonly unsigned int reasons  # a bit for each CRLReason that may be written
    cdef readonly bint delta
    cdef readonly bytes certificate_issuer  # Name DER; None: the CRL's issuer issued the certificates too
    cdef char[20] this_update_text  # as the store spells times, not terminated
    cdef char[20] now_text
    cdef char[20] drop_text
    cdef bytes issuer_extension  # DER of the certificateIssuer extension; empty for none

cdef class Encoded:
    cdef readonly bytes der
    cdef readonly Py_ssize_t count
    cdef readonly object soonest_ahead  # POSIX seconds or None
    cdef readonly Py_ssize_t expired
    cdef readonly Py_ssize_t reasons_left_out
    cdef readonly Py_ssize_t without_reason
