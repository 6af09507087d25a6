"""PKCS#11 calls that python-pkcs11 cannot make: initialising with locks, closing a session, signing without the interpreter.

python-pkcs11 calls ``C_Initialize(NULL)``, which promises the module one thread at a time, and its own loop costs 7 µs a
signature. Sessions and keys come from it, by their handles; the module's function list is the same one, since a shared
library is loaded once a process. PKCS#11 v2.40 §3 (CK_FUNCTION_LIST), §5.4 (C_Initialize), §5.6 (C_CloseSession), §5.11 (C_Sign).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *, int)
    void *dlsym(void *, const char *)
    char *dlerror()
    int RTLD_NOW

cdef extern from *:
    """
    typedef unsigned long ck_ulong;
    typedef struct { ck_ulong mechanism; void *parameter; ck_ulong length; } ck_mechanism;
    typedef struct { void *create, *destroy, *lock, *unlock; ck_ulong flags; void *reserved; } ck_initialize_args;
    /* CK_FUNCTION_LIST: a version, then the functions in the order of the standard. */
    typedef struct { unsigned char version[2]; void *call[68]; } ck_function_list;
    typedef ck_ulong (*ck_get_function_list)(ck_function_list **);
    static ck_ulong call_initialize(ck_function_list *list, void *arguments) {
        return ((ck_ulong (*)(void *))list->call[0])(arguments);
    }
    static void call_finalize(ck_function_list *list) { ((ck_ulong (*)(void *))list->call[1])(0); }
    static void call_close_session(ck_function_list *list, ck_ulong session) {
        ((ck_ulong (*)(ck_ulong))list->call[13])(session);
    }
    static ck_ulong call_sign_init(ck_function_list *list, ck_ulong session, ck_mechanism *mechanism, ck_ulong key) {
        return ((ck_ulong (*)(ck_ulong, ck_mechanism *, ck_ulong))list->call[42])(session, mechanism, key);
    }
    static ck_ulong call_sign(ck_function_list *list, ck_ulong session, const char *data, ck_ulong size,
                              unsigned char *signature, ck_ulong *length) {
        return ((ck_ulong (*)(ck_ulong, const char *, ck_ulong, unsigned char *, ck_ulong *))list->call[43])(
            session, data, size, signature, length);
    }
    """
    ctypedef unsigned long ck_ulong
    ctypedef struct ck_mechanism:
        ck_ulong mechanism
        void *parameter
        ck_ulong length
    ctypedef struct ck_initialize_args:
        void *create
        void *destroy
        void *lock
        void *unlock
        ck_ulong flags
        void *reserved
    ctypedef struct ck_function_list:
        pass
    ctypedef ck_ulong (*ck_get_function_list)(ck_function_list **) noexcept nogil
    ck_ulong call_initialize(ck_function_list *, void *) noexcept nogil
    void call_finalize(ck_function_list *) noexcept nogil
    void call_close_session(ck_function_list *, ck_ulong) noexcept nogil
    ck_ulong call_sign_init(ck_function_list *, ck_ulong, ck_mechanism *, ck_ulong) noexcept nogil
    ck_ulong call_sign(ck_function_list *, ck_ulong, const char *, ck_ulong, unsigned char *, ck_ulong *) noexcept nogil

cdef enum:
    CKF_OS_LOCKING_OK = 2
    MOST_OCTETS = 1024  # of one signature: RSA of 8192 bits
    MOST_COORDINATE = 66  # octets of r and of s on P-521

# PKCS#11 v2.40 §3.6: what a token says when it fails, as far as an operator meets it.
_NAMES = {
    0x05: "GENERAL_ERROR",
    0x06: "FUNCTION_FAILED",
    0x07: "ARGUMENTS_BAD",
    0x0A: "CANT_LOCK",
    0x30: "DEVICE_ERROR",
    0x31: "DEVICE_MEMORY",
    0x32: "DEVICE_REMOVED",
    0x54: "FUNCTION_NOT_SUPPORTED",
    0x60: "KEY_HANDLE_INVALID",
    0x63: "KEY_TYPE_INCONSISTENT",
    0x68: "KEY_FUNCTION_NOT_PERMITTED",
    0x70: "MECHANISM_INVALID",
    0x71: "MECHANISM_PARAM_INVALID",
    0x82: "OBJECT_HANDLE_INVALID",
    0x90: "OPERATION_ACTIVE",
    0x91: "OPERATION_NOT_INITIALIZED",
    0xA4: "PIN_LOCKED",
    0xB0: "SESSION_CLOSED",
    0xB3: "SESSION_HANDLE_INVALID",
    0xE0: "TOKEN_NOT_PRESENT",
    0xE1: "TOKEN_NOT_RECOGNIZED",
    0x101: "USER_NOT_LOGGED_IN",
    0x150: "BUFFER_TOO_SMALL",
    0x190: "CRYPTOKI_NOT_INITIALIZED",
}


class CryptokiError(Exception):
    """A call returned something else than CKR_OK; ``value`` is the CK_RV."""

    def __init__(self, call, value):
        super().__init__(f"{call} returned CKR_{_NAMES[value]}" if value in _NAMES else f"{call} returned {value:#x}")
        self.value = value


cdef class Cryptoki:
    """A PKCS#11 module's functions."""

    cdef ck_function_list *_functions

    def __cinit__(self, path):
        """Load the module at ``path``; raises OSError where it is none."""
        cdef bytes name = path.encode()
        cdef const char *name_chars = name
        cdef void *library = dlopen(name_chars, RTLD_NOW)
        if library == NULL:
            raise OSError(dlerror().decode("utf-8", "replace"))
        cdef ck_get_function_list get_list = <ck_get_function_list>dlsym(library, b"C_GetFunctionList")
        if get_list == NULL or get_list(&self._functions) != 0 or self._functions == NULL:
            raise OSError(f"{path} has no C_GetFunctionList that works")

    def initialize_for_threads(self):
        """Call C_Initialize with CKF_OS_LOCKING_OK; raises CryptokiError, CANT_LOCK where the module has no locks."""
        cdef ck_initialize_args arguments
        arguments.create = arguments.destroy = arguments.lock = arguments.unlock = arguments.reserved = NULL
        arguments.flags = CKF_OS_LOCKING_OK
        cdef ck_ulong result
        with nogil:
            result = call_initialize(self._functions, &arguments)
        if result != 0:
            raise CryptokiError("C_Initialize", result)

    def finalize(self):
        """Call C_Finalize, whatever it returns: a device that is gone may fail here too."""
        with nogil:
            call_finalize(self._functions)

    def close_session(self, ck_ulong session):
        """Call C_CloseSession, whatever it returns."""
        with nogil:
            call_close_session(self._functions, session)

    def sign(self, ck_ulong session, ck_ulong key, ck_ulong mechanism, bytes parameter, list messages, Py_ssize_t coordinate_bytes):
        """Sign each message, in order and without the interpreter's lock; returns BIT STRING octets.

        ``parameter``: the mechanism's, as it lies in memory; empty for none. ``coordinate_bytes`` above 0: what the token returns is
        r‖s of so many octets each, and becomes DER SEQUENCE{r, s} (RFC 5758 §3.2, PKCS#11 v2.40 §2.3.1). Raises
        CryptokiError where a call fails, ValueError where what came is no signature; then none is returned.
        """
        cdef Py_ssize_t count = len(messages), at
        cdef ck_mechanism how
        how.mechanism = mechanism
        how.length = len(parameter)
        how.parameter = <void *>PyBytes_AS_STRING(parameter) if how.length else NULL
        if coordinate_bytes < 0 or coordinate_bytes > MOST_COORDINATE:
            raise ValueError(f"coordinates of {coordinate_bytes} octets: at most {MOST_COORDINATE}")
        cdef const char **data = <const char **>malloc((count + 1) * sizeof(char *))
        cdef ck_ulong *sizes = <ck_ulong *>malloc((count + 1) * sizeof(ck_ulong))
        cdef ck_ulong *lengths = <ck_ulong *>malloc((count + 1) * sizeof(ck_ulong))
        cdef unsigned char *out = <unsigned char *>malloc(count * MOST_OCTETS + 1)
        cdef ck_ulong result = 0
        cdef const char *call = b""
        cdef bytes message
        try:
            if data == NULL or sizes == NULL or lengths == NULL or out == NULL:
                raise MemoryError
            for at in range(count):
                message = messages[at]
                data[at] = PyBytes_AS_STRING(message)
                sizes[at] = PyBytes_GET_SIZE(message)
            with nogil:
                for at in range(count):
                    lengths[at] = MOST_OCTETS
                    result = call_sign_init(self._functions, session, &how, key)
                    if result != 0:
                        call = b"C_SignInit"
                        break
                    result = call_sign(self._functions, session, data[at], sizes[at], out + at * MOST_OCTETS, &lengths[at])
                    if result != 0:
                        call = b"C_Sign"
                        break
            if result != 0:
                raise CryptokiError(call.decode(), result)
            return [_signature(out + at * MOST_OCTETS, lengths[at], coordinate_bytes) for at in range(count)]
        finally:
            free(data)
            free(sizes)
            free(lengths)
            free(out)


def ecdsa_der(bytes raw not None, Py_ssize_t coordinate_bytes):
    """Turn r‖s into DER SEQUENCE{r, s}, as ``Cryptoki.sign`` does; raises ValueError where it is no signature."""
    if not 0 < coordinate_bytes <= MOST_COORDINATE:
        raise ValueError(f"coordinates of {coordinate_bytes} octets: at most {MOST_COORDINATE}")
    return _signature(<const unsigned char *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), coordinate_bytes)


cdef bytes _signature(const unsigned char *raw, ck_ulong length, Py_ssize_t coordinate_bytes):
    cdef unsigned char der[2 * MOST_COORDINATE + 16]
    cdef unsigned char *end
    cdef Py_ssize_t body
    if length == 0 or length > MOST_OCTETS:
        raise ValueError(f"the token returned a signature of {length} octets")
    if coordinate_bytes == 0:
        return PyBytes_FromStringAndSize(<const char *>raw, length)
    if length != <ck_ulong>(2 * coordinate_bytes):
        raise ValueError(f"the token returned {length} octets for r‖s, not {2 * coordinate_bytes}")
    # The contents first, behind room for the longest head: 30 81 xx.
    end = _integer(der + 3, raw, coordinate_bytes)
    if end != NULL:
        end = _integer(end, raw + coordinate_bytes, coordinate_bytes)
    if end == NULL:
        raise ValueError("the token returned a signature with r or s of zero")
    body = end - (der + 3)
    if body < 128:
        der[1], der[2] = 0x30, <unsigned char>body
        return PyBytes_FromStringAndSize(<const char *>(der + 1), body + 2)
    der[0], der[1], der[2] = 0x30, 0x81, <unsigned char>body
    return PyBytes_FromStringAndSize(<const char *>der, body + 3)


cdef unsigned char *_integer(unsigned char *to, const unsigned char *octets, Py_ssize_t size) noexcept:
    """Write a positive INTEGER with the fewest octets (X.690 §8.3.2); NULL for zero (FIPS 186-5 §6.4.1)."""
    while size and octets[0] == 0:
        octets += 1
        size -= 1
    if size == 0:
        return NULL
    cdef bint padded = octets[0] >= 0x80
    to[0], to[1], to[2] = 0x02, <unsigned char>(size + padded), 0
    memcpy(to + 2 + padded, octets, size)
    return to + 2 + padded + size
