"""What a worker remembers: ready answers, and serials that are not there. In bounded bytes, without a Python object each.

Records lie one behind the other in a ring, and an index of open addressing (32-bit slots, linear probing) finds them by
issuer, hash algorithm and serial; a dual answer is one record, found for SHA-1 and for SHA-256. Room is made at the ring's tail, as CLOCK does: a record that was found since it was
written, or since it was last passed, is written again at the head, the others go. So what is asked for again and again
stays, and what was asked for once goes through the ring once, whatever its number (docs/architecture.md).

The journal names buckets, that is low bits of SHA-256(serial). Records are counted into groups by those bits; each group
has an epoch, which every record remembers. Naming a bucket raises the epochs of the groups that could lie in it: the
records are not visited, and are no longer found. A journal entry names a bucket's number and not its bits, and the
bucket may have been split since: so whatever could lie in a bucket of that number, at any bits, goes. Dropping too much
costs a read; dropping too little, a wrong "good".

Knows no clock: who finds an answer looks at its nextUpdate. One thread.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

import secrets

from fastpath.ocsp_request cimport HASH_SHA1, HASH_SHA256, HASH_SHA384, HASH_SHA512, HashKind
from fastpath.ocsp_response cimport AnswerHeader, ResponseTemplate, cert_status_of_packed

from fastpath.ocsp_response import assemble, is_dual

cdef extern from *:
    """
    static inline uint64_t revocast_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    uint64_t revocast_fold(uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    MAX_SERIAL = 21  # as ocsp_request takes them
    SERIAL_WORDS = 3
    MIN_BITS = 4  # of a bucket (responder/store/layout.py); its low bits are its partition
    MAX_BODY = 0xFFFF
    MAX_ISSUERS = 0x10000
    MAX_MOVES = 512  # records moved to make room for one: bounds a put to some 0.2 ms, should everything be wanted
    ANSWER_BYTES = 152  # of one P-256 answer with a 17-octet serial, as it lies in the ring: measures the index
    ABSENT_BYTES = 40
    GROUP_ENTRIES = 64  # a group's share of a full table: about half a bucket
    MAX_GROUP_BITS = 20

MAX_TABLE_BYTES = 16 << 30  # slots count in units of 4 octets

cdef dict HASH_KINDS = {"sha1": HASH_SHA1, "sha256": HASH_SHA256, "sha384": HASH_SHA384, "sha512": HASH_SHA512}


cdef HashKind hash_kind_named(str hash_name) except *:
    cdef object kind = HASH_KINDS.get(hash_name)
    if kind is None:
        raise ValueError(f"hash_name is {hash_name!r}: must be one of {', '.join(HASH_KINDS)}")
    return kind


cdef int flags_of(str hash_name, bint is_dual) except -1:
    cdef int hash_kind = hash_kind_named(hash_name)
    if not is_dual:
        return hash_kind
    if hash_kind not in (HASH_SHA1, HASH_SHA256):
        raise ValueError(f"hash_name is {hash_name!r}: a dual answer is for sha1 and sha256")
    return HASH_SHA1 | FLAG_DUAL


cdef inline Py_ssize_t record_size(const RecordHead* record) noexcept nogil:
    return padded(sizeof(RecordHead) + etag_size(record) + record.serial_size + record.body_size)


cdef inline Py_ssize_t padded(Py_ssize_t size) noexcept nogil:
    return (size + 3) & ~<Py_ssize_t>3


@cython.final
@cython.auto_pickle(False)
cdef class AnswerTerms:
    def __cinit__(
        self,
        long long this_update,
        long long next_update,
        long long fresh_base,
        long long fresh_span,
        bytes last_modified_line not None,
        bytes expires_line not None,
        ResponseTemplate template=None,
        AnswerHeader header=None,
    ):
        if fresh_span < 1:
            raise ValueError(f"fresh_span is {fresh_span}: must be at least 1")
        if (template is None) != (header is None):
            raise ValueError("template and header go together")
        self.this_update = this_update
        self.next_update = next_update
        self.fresh_base = fresh_base
        self.fresh_span = fresh_span
        self.last_modified_line = last_modified_line
        self.expires_line = expires_line
        self.template = template
        self.header = header

    cdef long long fresh_until_of(self, uint32_t bucket_hash) noexcept:
        # High bits: the low ones name the bucket, whose answers are all refreshed together.
        cdef long long until = self.fresh_base + <long long>(bucket_hash >> 8) % self.fresh_span
        # RFC 9919 §7.2: max-age ends after thisUpdate and before nextUpdate.
        return max(self.this_update, min(until, self.next_update - 1))

    def fresh_until(self, uint32_t bucket_hash):
        return self.fresh_until_of(bucket_hash)


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class TableAnswer:
    cdef readonly int cert_status
    cdef readonly AnswerTerms terms
    cdef readonly bytes etag_digest
    cdef readonly bytes response_der


cdef class Records:
    def __cinit__(self, Py_ssize_t max_bytes, ca_ids, *, uint32_t first_epoch=0):
        cdef bint is_absent = isinstance(self, AbsentTable)
        cdef Py_ssize_t largest = padded(
            sizeof(RecordHead) + MAX_SERIAL + (0 if is_absent else ETAG_OCTETS + MAX_BODY)
        )
        cdef Py_ssize_t most = max(16, max_bytes // ((ABSENT_BYTES if is_absent else ANSWER_BYTES) + 6))
        cdef Py_ssize_t groups = 1 << MIN_BITS
        cdef Py_ssize_t index
        if max_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"max_bytes is {max_bytes}: at most {MAX_TABLE_BYTES}")
        self._numbers = {ca: number for number, ca in enumerate(ca_ids)}
        if len(self._numbers) > MAX_ISSUERS:
            raise ValueError(f"{len(self._numbers)} issuers: at most {MAX_ISSUERS}")
        while groups < (1 << MAX_GROUP_BITS) and groups < most // GROUP_ENTRIES:
            groups <<= 1
        self.max_bytes = max_bytes
        # Three quarters full when the ring is, so that probes stay short; never resized, so that no put ever stalls.
        self._slot_count = <uint32_t>min(most * 4 // 3, 0xFFFFFFF0)
        self._group_mask = <uint32_t>(groups - 1)
        self._capacity = (max_bytes - 4 * <Py_ssize_t>self._slot_count - 4 * groups - largest) & ~<Py_ssize_t>3
        if self._capacity < largest:
            raise ValueError(f"max_bytes is {max_bytes}: too little for one record")
        # Pages that were never written take no memory.
        self._arena = <unsigned char*>calloc(self._capacity, 1)
        self._slots = <uint32_t*>calloc(self._slot_count, sizeof(uint32_t))
        self._epochs = <uint32_t*>calloc(groups, sizeof(uint32_t))
        self._moving = <unsigned char*>malloc(largest)
        if self._arena == NULL or self._slots == NULL or self._epochs == NULL or self._moving == NULL:
            raise MemoryError(f"no room for a table of {max_bytes} octets")
        for index in range(groups):
            self._epochs[index] = first_epoch
        # Serials of the absent are chosen by strangers: where they fall must not be known to them.
        for index in range(4):
            self._seed[index] = secrets.randbits(64)

    def __dealloc__(self):
        if self._arena != NULL:
            self._forget_all()
        free(self._arena)
        free(self._slots)
        free(self._epochs)
        free(self._moving)

    def __len__(self):
        return self._entries

    @property
    def used_bytes(self):
        return self._used + 4 * <Py_ssize_t>self._slot_count + 4 * (<Py_ssize_t>self._group_mask + 1)

    @property
    def fullness(self):
        # Three quarters of the slots are as many entries as there may be: see __cinit__.
        return max(<double>self._used / self._capacity, self._entries * 4.0 / (self._slot_count * 3.0))

    # --- the index ----------------------------------------------------------------------------------------------------

    cdef uint32_t _home(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept nogil:
        cdef uint64_t[SERIAL_WORDS] words
        cdef uint64_t folded
        words[0] = words[1] = words[2] = 0
        memcpy(words, serial, size)
        folded = revocast_fold(words[0] ^ self._seed[0], words[1] ^ self._seed[1])
        folded = revocast_fold(
            folded ^ words[2] ^ self._seed[2], self._seed[3] ^ (<uint64_t>issuer << 16 | hash_kind << 8 | size)
        )
        return <uint32_t>(((folded >> 32) * self._slot_count) >> 32)

    cdef uint32_t _home_of(self, const RecordHead* record) noexcept nogil:
        return self._home(record.issuer, record.flags & FLAG_HASH, serial_of(record), record.serial_size)

    cdef Py_ssize_t _slot_of(
        self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size
    ) noexcept nogil:
        """The slot that names the serial's record, or the free one where it would go."""
        cdef uint32_t slot = self._home(issuer, hash_kind, serial, size)
        cdef const RecordHead* record
        while self._slots[slot] != 0:
            record = <const RecordHead*>(self._arena + <Py_ssize_t>(self._slots[slot] - 1) * 4)
            if (
                record.serial_size == size
                and record.issuer == issuer
                and record.flags & FLAG_HASH == hash_kind
                and memcmp(serial_of(record), serial, size) == 0
            ):
                break
            slot += 1
            if slot == self._slot_count:
                slot = 0
        return slot

    cdef void _free_slot(self, Py_ssize_t slot) noexcept nogil:
        """Free a slot, and move back those that had to go past it: a probe ends at the first free slot."""
        cdef Py_ssize_t hole = slot
        cdef Py_ssize_t home
        while True:
            slot += 1
            if slot == self._slot_count:
                slot = 0
            if self._slots[slot] == 0:
                break
            home = self._home_of(<const RecordHead*>(self._arena + <Py_ssize_t>(self._slots[slot] - 1) * 4))
            # It stays where its home lies between the hole and itself, in the order of the probe.
            if (hole < home <= slot) if hole <= slot else (hole < home or home <= slot):
                continue
            self._slots[hole] = self._slots[slot]
            hole = slot
        self._slots[hole] = 0

    # --- the journal's groups -------------------------------------------------------------------------------------------

    cdef uint32_t _group(self, int issuer, uint32_t bucket_hash) noexcept nogil:
        # An issuer's groups are those of the others in another order, so that one CA's news rarely drops another's
        # answers. The low bits stay: a partition is the same groups for all.
        return (bucket_hash ^ (<uint32_t>issuer * 0x9E3779B0U & 0xFFFFFFF0U)) & self._group_mask

    cdef bint _is_outdated(self, const RecordHead* record) noexcept nogil:
        return record.epoch != self._epochs[self._group(record.issuer, record.bucket_hash)]

    cdef void _raise_epoch(self, uint32_t group) noexcept:
        if self._epochs[group] == 0xFFFFFFFF:
            # The next one was in use once: nothing may be left that remembers it.
            self._forget_all()
        self._epochs[group] += 1

    def drop_bucket(self, str ca, uint32_t bucket):
        cdef object number = self._numbers.get(ca)
        cdef uint32_t step = 1 << MIN_BITS
        cdef uint32_t low
        if number is None:
            return
        while step <= bucket and step <= self._group_mask:
            step <<= 1
        low = bucket & (step - 1) & self._group_mask
        while low <= self._group_mask:
            self._raise_epoch(self._group(number, low))
            low += step

    def drop_partition(self, uint32_t partition):
        cdef uint32_t group = partition & ((1 << MIN_BITS) - 1)
        while group <= self._group_mask:
            self._raise_epoch(group)
            group += 1 << MIN_BITS

    def clear(self):
        cdef uint32_t group
        for group in range(self._group_mask + 1):
            self._raise_epoch(group)

    # --- the ring -------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t _room(self, Py_ssize_t size) noexcept nogil:
        """Where a record of `size` octets may be written, or -1."""
        if self._used == 0:
            self._head = self._tail = 0
            return 0
        if self._head > self._tail:
            if self._capacity - self._head >= size:
                return self._head
            return 0 if self._tail >= size else -1
        return self._head if self._tail - self._head >= size else -1

    cdef RecordHead* _append(self, Py_ssize_t size) noexcept nogil:
        """Take `size` octets at the head; the caller has seen to it that there is room."""
        cdef Py_ssize_t at = self._room(size)
        if at == 0 and self._used > 0 and self._head > 0:
            self._wrap = self._head
        self._head = at + size
        self._used += size
        return <RecordHead*>(self._arena + at)

    cdef bint _evict(self, bint may_move) noexcept:
        """Take the oldest record out of the ring, or to its head; returns whether it was moved."""
        cdef RecordHead* record = <RecordHead*>(self._arena + self._tail)
        cdef RecordHead* fresh
        cdef Py_ssize_t size = record_size(record)
        cdef Py_ssize_t slot = 0
        cdef bint moves = False
        if not record.flags & FLAG_DEAD:
            slot = self._slot_of(record.issuer, record.flags & FLAG_HASH, serial_of(record), record.serial_size)
            moves = may_move and record.flags & FLAG_REFERENCED != 0 and not self._is_outdated(record)
            if moves:
                memcpy(self._moving, record, size)
            else:
                self._kill(record, slot)
        self._tail += size
        self._used -= size
        if self._head <= self._tail and self._used > 0 and self._tail == self._wrap:
            self._tail = 0
        if moves:
            fresh = self._append(size)
            memcpy(fresh, self._moving, size)
            fresh.flags &= ~<uint8_t>FLAG_REFERENCED
            self._slots[slot] = <uint32_t>((<unsigned char*>fresh - self._arena) // 4 + 1)
        return moves

    cdef void _kill(self, RecordHead* record, Py_ssize_t slot) noexcept:
        """Let go of a record that `slot` names; its octets stay until the tail passes."""
        cdef PyObject* terms = record.terms
        self._free_slot(slot)
        record.flags |= FLAG_DEAD
        self._entries -= 1
        if terms != NULL:
            Py_DECREF(<object>terms)

    cdef void _forget_all(self) noexcept:
        while self._used > 0:
            self._evict(False)

    # --- reading and writing --------------------------------------------------------------------------------------------

    cdef RecordHead* find(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept:
        cdef RecordHead* record = self._look(issuer, hash_kind, serial, size)
        if record == NULL and hash_kind == HASH_SHA256:
            record = self._look(issuer, HASH_SHA1, serial, size)
            if record != NULL and not record.flags & FLAG_DUAL:
                return NULL
        if record != NULL:
            record.flags |= FLAG_REFERENCED
        return record

    cdef RecordHead* _look(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept:
        cdef Py_ssize_t slot = self._slot_of(issuer, hash_kind, serial, size)
        cdef RecordHead* record
        if self._slots[slot] == 0:
            return NULL
        record = <RecordHead*>(self._arena + <Py_ssize_t>(self._slots[slot] - 1) * 4)
        if self._is_outdated(record):
            self._kill(record, slot)
            return NULL
        return record

    cdef bint _drop(self, int issuer, int hash_kind, const unsigned char* serial, Py_ssize_t size) noexcept:
        cdef Py_ssize_t slot = self._slot_of(issuer, hash_kind, serial, size)
        if self._slots[slot] == 0:
            return False
        self._kill(<RecordHead*>(self._arena + <Py_ssize_t>(self._slots[slot] - 1) * 4), slot)
        return True

    cdef int _number(self, str ca) except -1:
        cdef object number = self._numbers.get(ca)
        if number is None:
            raise ValueError(f"no issuer {ca!r}")
        return number

    cdef int _put(
        self,
        int issuer,
        int flags,
        bytes serial_octets,
        uint32_t bucket_hash,
        AnswerTerms terms,
        bytes etag_digest,
        bytes body,
    ) except -1:
        cdef Py_ssize_t serial_size = PyBytes_GET_SIZE(serial_octets)
        cdef Py_ssize_t body_size = PyBytes_GET_SIZE(body)
        cdef const unsigned char* serial = <const unsigned char*>PyBytes_AS_STRING(serial_octets)
        cdef Py_ssize_t size = padded(
            sizeof(RecordHead) + (0 if terms is None else ETAG_OCTETS) + serial_size + body_size
        )
        cdef RecordHead* record
        cdef unsigned char* at
        cdef int moves = 0
        if terms is not None and PyBytes_GET_SIZE(etag_digest) != ETAG_OCTETS:
            raise ValueError("etag_digest is a SHA-256 hash: 32 octets")
        if serial_size > MAX_SERIAL:
            return 0  # never asked for
        if self._drop(issuer, flags & FLAG_HASH, serial, serial_size):
            flags |= FLAG_REFERENCED  # asked for again: that is what brought it here
        # What answers for SHA-256 alone would be found before this one.
        if flags & FLAG_DUAL and self._drop(issuer, HASH_SHA256, serial, serial_size):
            flags |= FLAG_REFERENCED
        if body_size > MAX_BODY:
            return 0  # rare enough to be fetched each time
        # A quarter of the slots stays free: see __cinit__.
        while self._room(size) < 0 or (self._entries + 1) * 4 > <Py_ssize_t>self._slot_count * 3:
            moves += self._evict(moves < MAX_MOVES)
        record = self._append(size)
        record.terms = NULL
        record.bucket_hash = bucket_hash
        record.epoch = self._epochs[self._group(issuer, bucket_hash)]
        record.body_size = <uint16_t>body_size
        record.issuer = <uint16_t>issuer
        record.serial_size = <uint8_t>serial_size
        record.flags = <uint8_t>flags
        at = <unsigned char*>record + sizeof(RecordHead)
        if terms is not None:
            Py_INCREF(terms)
            record.terms = <PyObject*>terms
            memcpy(at, PyBytes_AS_STRING(etag_digest), ETAG_OCTETS)
            at += ETAG_OCTETS
        memcpy(at, serial, serial_size)
        memcpy(at + serial_size, PyBytes_AS_STRING(body), body_size)
        self._slots[self._slot_of(issuer, flags & FLAG_HASH, serial, serial_size)] = <uint32_t>(
            (<unsigned char*>record - self._arena) // 4 + 1
        )
        self._entries += 1
        return 0


@cython.final
cdef class AnswerTable(Records):
    def put(
        self,
        str ca not None,
        str hash_name not None,
        bytes serial_octets not None,
        uint32_t bucket_hash,
        AnswerTerms terms not None,
        bytes packed not None,
        bytes etag_digest not None,
    ):
        cdef int flags = flags_of(hash_name, is_dual(packed)) | cert_status_of_packed(packed) << FLAG_STATUS_SHIFT
        if terms.template is None:
            raise ValueError("terms without a template put no packed answer together")
        self._put(
            self._number(ca),
            flags,
            serial_octets,
            bucket_hash,
            terms,
            etag_digest,
            packed,
        )

    def put_whole(
        self,
        str ca not None,
        str hash_name not None,
        bytes serial_octets not None,
        uint32_t bucket_hash,
        AnswerTerms terms not None,
        int cert_status,
        bytes response_der not None,
        bytes etag_digest not None,
        bint is_dual=False,
    ):
        if not 0 <= cert_status <= 2:
            raise ValueError(f"cert_status is {cert_status}: must be 0 (good), 1 (revoked) or 2 (unknown)")
        self._put(
            self._number(ca),
            flags_of(hash_name, is_dual) | cert_status << FLAG_STATUS_SHIFT | FLAG_WHOLE,
            serial_octets,
            bucket_hash,
            terms,
            etag_digest,
            response_der,
        )

    def get(
        self,
        str ca not None,
        str hash_name not None,
        bytes serial_octets not None,
        bytes cert_id_der not None,
        both=None,
    ):
        cdef RecordHead* record
        cdef TableAnswer answer
        cdef bytes body
        if PyBytes_GET_SIZE(serial_octets) > MAX_SERIAL:
            return None
        record = self.find(
            self._number(ca),
            hash_kind_named(hash_name),
            <const unsigned char*>PyBytes_AS_STRING(serial_octets),
            PyBytes_GET_SIZE(serial_octets),
        )
        if record == NULL:
            return None
        answer = TableAnswer.__new__(TableAnswer)
        answer.cert_status = status_of(record)
        answer.terms = <AnswerTerms>record.terms
        answer.etag_digest = PyBytes_FromStringAndSize(<const char*>etag_of(record), ETAG_OCTETS)
        body = PyBytes_FromStringAndSize(<const char*>body_of(record), record.body_size)
        if record.flags & FLAG_WHOLE:
            answer.response_der = body
        elif record.flags & FLAG_DUAL:
            sha1_der, sha256_der = both(serial_octets)
            answer.response_der = assemble(answer.terms.template, answer.terms.header, sha1_der, body, sha256_der)
        else:
            answer.response_der = assemble(answer.terms.template, answer.terms.header, cert_id_der, body)
        return answer

    def drop(self, str ca not None, str hash_name not None, bytes serial_octets not None):
        cdef int issuer = self._number(ca)
        cdef int hash_kind = hash_kind_named(hash_name)
        cdef const unsigned char* serial = <const unsigned char*>PyBytes_AS_STRING(serial_octets)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(serial_octets)
        cdef RecordHead* record
        if size > MAX_SERIAL:
            return
        self._drop(issuer, hash_kind, serial, size)
        record = self.find(issuer, hash_kind, serial, size)
        if record != NULL:
            self._drop(issuer, record.flags & FLAG_HASH, serial, size)


@cython.final
cdef class AbsentTable(Records):
    def put(self, str ca not None, bytes serial_octets not None, uint32_t bucket_hash):
        self._put(self._number(ca), 0, serial_octets, bucket_hash, None, None, b"")

    def has(self, str ca not None, bytes serial_octets not None):
        return PyBytes_GET_SIZE(serial_octets) <= MAX_SERIAL and NULL != self.find(
            self._number(ca),
            0,
            <const unsigned char*>PyBytes_AS_STRING(serial_octets),
            PyBytes_GET_SIZE(serial_octets),
        )
