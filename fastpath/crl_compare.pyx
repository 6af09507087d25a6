"""A CRL's entries compared as a stream: with the store's records, and with another CRL's entries.

Shares nothing with crl_entries.pyx, which makes entries of records. What a record must have become is found from the entry's
side: the entry is spelled as the store spells it, and that must be what stands there. Entries are in the order of ADR 13: by the low
12 bits of SHA-256(serial's contents octets), then by the serial's length, then its octets.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset

from fastpath.crl_decode cimport DIGITS, Entry, EntryReader, EntryScan
from fastpath.crl_entries cimport Terms
from fastpath.der cimport DerReader

from datetime import UTC, datetime, timedelta

cdef enum:
    TIME_TEXT = 20  # 2026-11-20T10:00:00Z
    ORDER_MASK = 0xFFF
    MAX_SERIAL = 64

cdef tuple _REASONS = (
    b"unspecified",
    b"keyCompromise",
    b"cACompromise",
    b"affiliationChanged",
    b"superseded",
    b"cessationOfOperation",
    b"certificateHold",
    b"",
    b"removeFromCRL",
    b"privilegeWithdrawn",
    b"aACompromise",
)


class EntriesDiffer(ValueError):
    """A CRL's entries are not those of the store; see the .pyi."""


# --- the order --------------------------------------------------------------------------------------------------------
# FIPS 180-4 §6.2. Own code, since hashlib costs half a second for a million serials, each of one block.

cdef unsigned int[64] K
K[:] = [
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
]


cdef inline unsigned int turned(unsigned int value, int by) noexcept nogil:
    return (value >> by) | (value << (32 - by))


cdef void sha256_plainly(unsigned int* state, const unsigned char* block) noexcept nogil:
    cdef unsigned int[64] w
    cdef unsigned int a, b, c, d, e, f, g, h, one, two
    cdef int t
    for t in range(16):
        w[t] = (
            (<unsigned int>block[4 * t] << 24) | (<unsigned int>block[4 * t + 1] << 16)
            | (<unsigned int>block[4 * t + 2] << 8) | block[4 * t + 3]
        )
    for t in range(16, 64):
        one = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ (w[t - 15] >> 3)
        two = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ (w[t - 2] >> 10)
        w[t] = w[t - 16] + one + w[t - 7] + two
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for t in range(64):
        one = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t]
        two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))
        h, g, f, e = g, f, e, d + one
        d, c, b, a = c, b, a, one + two
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


cdef extern from *:
    """
    /* The same with the processor's own instructions, in a sixth of the time, where it is an x86 that has them. */
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <cpuid.h>
    #include <immintrin.h>
    static int has_sha_instructions(void) {
        unsigned a, b, c, d;
        /* SSSE3 and SSE4.1 are asked for too: leaf 1, ECX. */
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 9)) || !(c & (1u << 19))) return 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
    }
    __attribute__((target("sha,sse4.1,ssse3")))
    static void sha256_by_instructions(const unsigned *k, unsigned *state, const unsigned char *block) {
        const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
        __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);        /* c d a b */
        __m128i cdgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B); /* e f g h */
        __m128i abef = _mm_alignr_epi8(low, cdgh, 8), w[4];
        cdgh = _mm_blend_epi16(cdgh, low, 0xF0);
        const __m128i abef_before = abef, cdgh_before = cdgh;
        for (int t = 0; t < 16; t++) {
            __m128i *now = &w[t & 3], before = w[(t + 3) & 3];
            if (t < 4)
                *now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * t)), swap);
            else
                *now = _mm_sha256msg2_epu32(
                    _mm_add_epi32(_mm_sha256msg1_epu32(*now, w[(t + 1) & 3]), _mm_alignr_epi8(before, w[(t + 2) & 3], 4)),
                    before);
            __m128i sum = _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)(k + 4 * t)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
        low = _mm_shuffle_epi32(abef, 0x1B);
        cdgh = _mm_shuffle_epi32(cdgh, 0xB1);
        _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, cdgh, 0xF0));
        _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(cdgh, low, 8));
    }
    #else
    static int has_sha_instructions(void) { return 0; }
    static void sha256_by_instructions(const unsigned *k, unsigned *state, const unsigned char *block) {
        (void)k; (void)state; (void)block;
    }
    #endif
    """
    bint has_sha_instructions() noexcept nogil
    void sha256_by_instructions(const unsigned int* k, unsigned int* state, const unsigned char* block) noexcept nogil

cdef bint by_instructions = has_sha_instructions()


cdef inline void sha256_block(unsigned int* state, const unsigned char* block) noexcept nogil:
    if by_instructions:
        sha256_by_instructions(K, state, block)
    else:
        sha256_plainly(state, block)


def use_instructions(bint wanted):
    """For tests: compute plainly from now on, or as the processor can."""
    global by_instructions
    by_instructions = wanted and has_sha_instructions()


cdef unsigned int order(const DerReader* serial) noexcept nogil:
    """The last word of SHA-256(serial), which has at most MAX_SERIAL octets: one block, or two from 56 on."""
    cdef unsigned int[8] state
    cdef unsigned char[128] blocks
    cdef Py_ssize_t size = 64 if serial.remaining < 56 else 128
    state = [
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    ]
    memset(blocks, 0, <size_t>size)
    memcpy(blocks, serial.at, <size_t>serial.remaining)
    blocks[serial.remaining] = 0x80
    blocks[size - 2] = <unsigned char>(serial.remaining * 8 >> 8)
    blocks[size - 1] = <unsigned char>(serial.remaining * 8 & 0xFF)
    sha256_block(state, blocks)
    if size == 128:
        sha256_block(state, blocks + 64)
    return state[7]


def order_of(bytes serial_octets not None):
    """Return the low 32 bits of SHA-256(serial's contents octets); see the .pyi."""
    cdef DerReader serial
    if PyBytes_GET_SIZE(serial_octets) > MAX_SERIAL:
        raise ValueError(f"a serial of {len(serial_octets)} octets: at most {MAX_SERIAL}")
    serial.at = <const unsigned char*>PyBytes_AS_STRING(serial_octets)
    serial.remaining = PyBytes_GET_SIZE(serial_octets)
    return order(&serial)


cdef inline int compare_serials(const DerReader* left, const DerReader* right) noexcept nogil:
    """Compare two of the same chunk: below 0, 0, above 0."""
    if left.remaining != right.remaining:
        return -1 if left.remaining < right.remaining else 1
    return memcmp(left.at, right.at, <size_t>left.remaining)


cdef int compare_places(const DerReader* left, const DerReader* right) noexcept nogil:
    """Compare two places in the order of entries: below 0, 0, above 0."""
    cdef unsigned int one = order(left) & ORDER_MASK, two = order(right) & ORDER_MASK
    if one != two:
        return -1 if one < two else 1
    return compare_serials(left, right)


# --- with the store's records -----------------------------------------------------------------------------------------


cdef inline bint spells(const char* text, const char* digits) noexcept nogil:
    """Say whether 2026-11-20T10:00:00Z is 20261120100000."""
    return (
        memcmp(text, digits, 4) == 0 and text[4] == c"-"
        and memcmp(text + 5, digits + 4, 2) == 0 and text[7] == c"-"
        and memcmp(text + 8, digits + 6, 2) == 0 and text[10] == c"T"
        and memcmp(text + 11, digits + 8, 2) == 0 and text[13] == c":"
        and memcmp(text + 14, digits + 10, 2) == 0 and text[16] == c":"
        and memcmp(text + 17, digits + 12, 2) == 0 and text[19] == c"Z"
    )


cdef bytes time_text(long long seconds):
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


cdef const char* word_value(const char* text, Py_ssize_t size, const char* name, Py_ssize_t name_size) noexcept nogil:
    """Find the time behind " exp=" and the like; NULL: there is none."""
    cdef Py_ssize_t at
    for at in range(size - name_size - TIME_TEXT + 1):
        if text[at] == c" " and memcmp(text + at, name, <size_t>name_size) == 0:
            return text + at + name_size
    return NULL


cdef bint is_in_shard(const DerReader* serial, unsigned int shard, unsigned int shards) noexcept nogil:
    """Divide the serial's INTEGER by hand, from its sign on."""
    cdef long long rest = -1 if serial.at[0] & 0x80 else 0
    cdef Py_ssize_t index
    for index in range(serial.remaining):
        rest = rest * 256 + serial.at[index]
        if index % 4 == 3:  # a quotient costs more than all the rest
            rest %= <long long>shards
    rest %= <long long>shards
    return (rest + shards) % shards == shard


cdef class Comparison:
    """What must hold of each record, kept from the terms."""

    cdef Terms terms
    cdef bytes this_update, now, drop

    def __cinit__(self, Terms terms):
        self.terms = terms
        self.this_update = time_text(terms.this_update)
        self.now = time_text(terms.now)
        self.drop = time_text(terms.drop_expired_before) if terms.drop_expired_before >= 0 else b""

    cdef bint is_listed(self, const DerReader* serial, const char* text, Py_ssize_t size) except -1:
        """Say whether a record has an entry in this CRL."""
        cdef const char* not_after
        if size < 8 or memcmp(text, b"revoked ", 8) != 0:
            if self.terms.delta:
                return True
            raise differ(serial, "is not revoked, and this is no delta CRL")
        if size < 8 + TIME_TEXT:
            raise differ(serial, "has a status without a time")
        if memcmp(text + 8, PyBytes_AS_STRING(self.now), TIME_TEXT) > 0:
            return False
        if self.drop:
            not_after = word_value(text, size, b" exp=", 5)
            if not_after != NULL and memcmp(not_after, PyBytes_AS_STRING(self.drop), TIME_TEXT) < 0:
                return False
        return True

    cdef int check(self, const EntryScan* scan, const char* text, Py_ssize_t size) except -1:
        """Check that an entry says what its record says."""
        cdef const char* revoked_at
        cdef const char* invalidity_date
        cdef const char* word
        cdef Py_ssize_t length = 0
        cdef bytes reason
        if scan.unknown_critical.at != NULL:
            raise differ(&scan.serial, "has a critical extension that is none of ours")
        if size < 8 or memcmp(text, b"revoked ", 8) != 0:
            if scan.reason != 8:
                raise differ(&scan.serial, "is not revoked any more, and its entry does not say removeFromCRL")
            if not spells(PyBytes_AS_STRING(self.this_update), scan.revocation_date) or scan.has_invalidity_date:
                raise differ(&scan.serial, "is removed with another date than thisUpdate")
            return 0
        revoked_at = text + 8
        if memcmp(revoked_at, PyBytes_AS_STRING(self.this_update), TIME_TEXT) > 0:
            revoked_at = PyBytes_AS_STRING(self.this_update)
        if not spells(revoked_at, scan.revocation_date):
            raise differ(&scan.serial, f"has revocationDate {scan.revocation_date[:DIGITS].decode()}, its record {text[:size]!r}")
        # The word behind the time, up to a blank, is the reason's name unless it is name=value.
        word = text + 8 + TIME_TEXT
        if size > 8 + TIME_TEXT:
            word += 1
            while word + length < text + size and word[length] != c" ":
                if word[length] == c"=":
                    length = 0
                    break
                length += 1
        if scan.reason >= 0:
            reason = _REASONS[scan.reason]
            if (
                scan.reason == 0 or scan.reason == 8 or not self.terms.reasons >> scan.reason & 1
                or length != len(reason) or memcmp(word, PyBytes_AS_STRING(reason), <size_t>length) != 0
            ):
                raise differ(&scan.serial, f"has reason {reason.decode()}, its record {text[:size]!r}")
        elif length > 0:
            reason = word[:length]
            if reason not in _REASONS or self.terms.reasons >> _REASONS.index(reason) & 1:
                raise differ(&scan.serial, f"has no reason, its record {text[:size]!r}")
        invalidity_date = word_value(text, size, b" invalid=", 9)
        if scan.has_invalidity_date != (invalidity_date != NULL) or (
            scan.has_invalidity_date and not spells(invalidity_date, scan.invalidity_date)
        ):
            raise differ(&scan.serial, f"has another invalidityDate than its record {text[:size]!r}")
        return 0


cdef object differ(const DerReader* serial, str problem):
    return EntriesDiffer(f"serial {hexadecimal(serial)} {problem}")


cdef str hexadecimal(const DerReader* view):
    return PyBytes_FromStringAndSize(<const char*>view.at, view.remaining).hex()


def compare_entries(EntryReader reader not None, chunks, Terms terms not None):
    """Prove that a CRL's entries are the store's records; see the .pyi."""
    cdef Comparison comparison = Comparison(terms)
    cdef EntryScan scan
    cdef bytes chunk
    cdef const unsigned char* at
    cdef Py_ssize_t remaining, text_size
    cdef DerReader serial, before
    cdef unsigned int place
    cdef int last_place = -1
    cdef object issuer = terms.certificate_issuer
    for chunk in chunks:
        at = <const unsigned char*>PyBytes_AS_STRING(chunk)
        remaining = PyBytes_GET_SIZE(chunk)
        before.at = NULL
        before.remaining = 0
        while remaining > 0:
            serial.remaining = 256 * at[0] + at[1] if remaining >= 2 else 0
            if serial.remaining < 1 or serial.remaining > MAX_SERIAL or serial.remaining > remaining - 4:
                raise ValueError("no chunk of records: a serial's length is wrong")
            serial.at = at + 2
            at += 2 + serial.remaining
            text_size = 256 * at[0] + at[1]
            remaining -= 4 + serial.remaining
            if text_size > remaining:
                raise ValueError("no chunk of records: a status text's length is wrong")
            remaining -= text_size
            at += 2 + text_size
            # Of shards each record is looked at by one check alone: that of its own shard.
            if terms.shards > 1 and not is_in_shard(&serial, terms.shard, terms.shards):
                continue
            place = order(&serial) & ORDER_MASK
            if before.at == NULL:
                if <int>place <= last_place:
                    raise differ(&serial, "belongs before those of the chunk before, or among them")
                last_place = <int>place
            elif <int>place != last_place:
                raise differ(&serial, "does not belong into its chunk")
            elif compare_serials(&before, &serial) >= 0:
                raise differ(&serial, "is there twice, or not in its place")
            before = serial
            if not comparison.is_listed(&serial, <const char*>at - text_size, text_size):
                continue
            if not reader.advance(&scan):
                raise differ(&serial, "has no entry; the CRL ends before it")
            if compare_serials(&serial, &scan.serial) != 0:
                raise differ(&serial, f"has no entry in its place, where serial {hexadecimal(&scan.serial)} stands")
            comparison.check(&scan, <const char*>at - text_size, text_size)
            if (scan.issuer.at != NULL and issuer is None) or reader.issuer != issuer:
                raise differ(&serial, "has another certificateIssuer")
    if reader.advance(&scan):
        raise differ(&scan.serial, "has an entry and no record")
    return reader.count


# --- with another CRL's entries ---------------------------------------------------------------------------------------


cdef class Change:
    """One serial whose entry is not the same in two CRLs; see the .pyi."""

    cdef readonly bytes serial_octets
    cdef readonly Entry before
    cdef readonly Entry after

    def __repr__(self):
        return f"Change({self.before} -> {self.after})"


cdef class Changes:
    """Compares two CRLs' entries in one pass; see the .pyi."""

    cdef EntryReader _before
    cdef EntryReader _after
    cdef EntryScan _old
    cdef EntryScan _new
    cdef bint _has_old
    cdef bint _has_new
    cdef bint _begun
    cdef readonly Py_ssize_t same

    def __init__(self, EntryReader before not None, EntryReader after not None):
        self._before = before
        self._after = after

    def __iter__(self):
        return self

    def __next__(self):
        cdef int place
        cdef Change change = None
        if not self._begun:
            self._begun = True
            self._has_old = self._before.advance(&self._old)
            self._has_new = self._after.advance(&self._new)
        while change is None:
            if self._has_old and self._has_new:
                place = compare_serials(&self._old.serial, &self._new.serial)
                if place != 0:
                    place = compare_places(&self._old.serial, &self._new.serial)
            elif self._has_old or self._has_new:
                place = -1 if self._has_old else 1
            else:
                raise StopIteration
            if place == 0 and self.is_same():
                self.same += 1
            else:
                change = Change.__new__(Change)
                if place <= 0:
                    change.before = self._before.entry(&self._old)
                    change.serial_octets = change.before.serial_octets
                if place >= 0:
                    change.after = self._after.entry(&self._new)
                    change.serial_octets = change.after.serial_octets
            if place <= 0:
                self._has_old = self._before.advance(&self._old)
            if place >= 0:
                self._has_new = self._after.advance(&self._new)
        return change

    cdef bint is_same(self):
        """Say whether two entries of one serial say the same."""
        return (
            memcmp(self._old.revocation_date, self._new.revocation_date, DIGITS) == 0
            and self._old.reason == self._new.reason
            and self._old.has_invalidity_date == self._new.has_invalidity_date
            and (
                not self._old.has_invalidity_date
                or memcmp(self._old.invalidity_date, self._new.invalidity_date, DIGITS) == 0
            )
            and (self._before.issuer is self._after.issuer or self._before.issuer == self._after.issuer)
        )
