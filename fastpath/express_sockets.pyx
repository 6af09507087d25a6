"""The express lane's own hands: sockets lent to it, read and answered without the event loop's transports.

A connection that is between requests lends its socket: its transport stops reading, and this object waits for the
socket in an epoll of its own, which the event loop watches as one descriptor. What the lane answers is sent at once. All
else gives the socket back, with the octets that were read: an unusual or unfinished request, the end of the stream (which
the transport will meet again), a client that does not take its answer. A miss keeps the socket here while the
answer is fetched; whoever sends more meanwhile gets it back too. So a hot query costs two system calls and what the lane
takes, and every rule of connections stays where it is, in responder/http/protocol.py.

With ``frames`` off the lane looks at nothing: each read is the owner's, who answers it past its transport all the same.

The owner of a socket has these methods: ``received(data)``, with ``frames`` off: a read, to be answered with ``send``;
``returned(data, unsent)``: it is given back, `data` was read and not answered, `unsent` was answered and not sent; ``missing(what)``: fetch the answer, then ``send`` it and say ``answered``;
``finished()``: the connection ends with what was answered; ``failed()``: it is broken.
One event loop's thread. The only module of this package that makes system calls (docs/adr/0008).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from posix.unistd cimport close

import os

from fastpath.der cimport DerReader
from fastpath.express cimport FOUND, MAX_MESSAGES, MAX_REQUESTS, MISSING, ExpressLane, Finding, Found

cdef extern from "Python.h":
    ctypedef struct PyObject

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    uint32_t EPOLLIN
    uint32_t EPOLLET
    uint32_t EPOLLERR
    uint32_t EPOLLHUP
    uint32_t EPOLLRDHUP

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t send(int fd, const void* buffer, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    MAX_EVENTS = 64  # sockets looked at with one reading of the clock, each once: about half a millisecond
    MAX_ROUNDS = 8  # of these in one turn of the loop, while each finds some
    READ_SIZE = 65_536

cdef struct Lent:
    PyObject* owner  # a counted reference; NULL: not lent
    long long tick  # of the last request or answer, at first of the loan
    unsigned int served  # answers since it was lent
    bint pending  # an answer is being fetched


@cython.final
@cython.auto_pickle(False)
cdef class ExpressSockets:
    cdef public long long tick  # the owner's clock: what `activity` is told in
    cdef ExpressLane _lane
    cdef bint _frames
    cdef int _epoll
    cdef Lent* _lent  # by descriptor
    cdef Py_ssize_t _size
    cdef unsigned char[READ_SIZE + 1] _in
    cdef unsigned char[MAX_MESSAGES] _out

    def __cinit__(self, ExpressLane lane not None, *, bint frames=True):
        self._lane = lane
        self._frames = frames
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        cdef Py_ssize_t fd
        for fd in range(self._size):
            if self._lent[fd].owner != NULL:
                Py_DECREF(<object>self._lent[fd].owner)
        free(self._lent)
        if self._epoll >= 0:
            close(self._epoll)

    def fileno(self):
        return self._epoll

    def lend(self, int fd, owner not None):
        cdef epoll_event event
        cdef Py_ssize_t size
        cdef Lent* grown
        if fd >= self._size:
            size = max(1024, 2 * fd)
            grown = <Lent*>realloc(self._lent, size * sizeof(Lent))
            if grown == NULL:
                raise MemoryError(f"no room for {size} sockets")
            memset(grown + self._size, 0, (size - self._size) * sizeof(Lent))
            self._lent, self._size = grown, size
        if self._lent[fd].owner != NULL:
            raise ValueError(f"descriptor {fd} is lent already")
        memset(&event, 0, sizeof(event))
        # Edge-triggered: a socket that was read empty costs no second look. What leaves it otherwise gives it back.
        event.events = EPOLLIN | EPOLLRDHUP | EPOLLET
        event.data.fd = fd
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        memset(&self._lent[fd], 0, sizeof(Lent))
        self._lent[fd].owner = <PyObject*>owner
        self._lent[fd].tick = self.tick
        Py_INCREF(owner)

    def take_back(self, int fd, owner not None):
        cdef Lent* lent = self._find(fd, owner)
        cdef epoll_event event
        if lent == NULL:
            return
        lent.owner = NULL
        memset(&event, 0, sizeof(event))
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event)
        Py_DECREF(owner)

    def activity(self, int fd, owner not None):
        cdef Lent* lent = self._find(fd, owner)
        if lent == NULL:
            return 0, 0
        return lent.served, lent.tick

    def answered(self, int fd, owner not None):
        cdef Lent* lent = self._find(fd, owner)
        if lent != NULL:
            lent.pending = False
            lent.tick = self.tick

    def send(self, int fd, bytes octets not None):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets)
        cdef Py_ssize_t sent = send(fd, PyBytes_AS_STRING(octets), size, MSG_DONTWAIT | MSG_NOSIGNAL)
        return b"" if sent == size else octets[max(sent, 0):]

    cdef Lent* _find(self, int fd, owner):
        # A descriptor's number may be somebody else's by now.
        if 0 <= fd < self._size and self._lent[fd].owner == <PyObject*>owner:
            return &self._lent[fd]
        return NULL

    def run(self):
        cdef epoll_event[MAX_EVENTS] events
        cdef int count, index, fd
        cdef object failure = None
        for _ in range(MAX_ROUNDS):
            self._lane.look_at_clock()
            count = epoll_wait(self._epoll, events, MAX_EVENTS, 0)
            if count <= 0:
                break
            for index in range(count):
                fd = events[index].data.fd
                try:
                    self._serve(fd, events[index].events)
                except Exception as error:
                    # The others of this batch are not announced again: a mistake about one must not cost them their answers.
                    failure = error
                    if fd < self._size and self._lent[fd].owner != NULL:
                        (<object>self._lent[fd].owner).failed()
        if failure is not None:
            raise failure

    cdef int _serve(self, int fd, uint32_t events) except -1:
        cdef Found[MAX_REQUESTS] found
        cdef DerReader serial
        cdef Py_ssize_t got, sent, total
        cdef int requests
        cdef Finding finding
        cdef Lent* lent
        cdef object owner
        # Whoever was called before may have taken it back.
        if fd >= self._size or self._lent[fd].owner == NULL:
            return 0
        lent = &self._lent[fd]
        owner = <object>lent.owner
        got = recv(fd, self._in, READ_SIZE, MSG_DONTWAIT)
        while got < 0 and errno == EINTR:
            got = recv(fd, self._in, READ_SIZE, MSG_DONTWAIT)
        if got < 0 and errno == EAGAIN and not events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            return 0
        if got < 0 and errno != EAGAIN:
            owner.failed()  # nobody will be told of it again
            return 0
        if got <= 0:
            owner.returned(b"", b"")
            return 0
        self._in[got] = 0
        if lent.pending:
            owner.returned(PyBytes_FromStringAndSize(<const char*>self._in, got), b"")
            return 0
        if not self._frames:
            lent.tick = self.tick
            lent.served += 1
            owner.received(PyBytes_FromStringAndSize(<const char*>self._in, got))
            self._check_rest(fd, owner, got, events)
            return 0
        finding = self._lane.find_all(self._in, got, found, &requests, &total, &serial)
        if finding == FOUND:
            self._lane.write_all(self._out, found, requests)
            lent.served += requests
            lent.tick = self.tick
            sent = send(fd, self._out, total, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < total:
                sent = max(sent, 0)
                owner.returned(b"", PyBytes_FromStringAndSize(<const char*>self._out + sent, total - sent))
            if found[requests - 1].closes:
                owner.finished()
                return 0
        elif finding == MISSING:
            lent.pending = True
            lent.tick = self.tick
            owner.missing(self._lane.make_missing(&found[0], &serial))
        else:
            owner.returned(PyBytes_FromStringAndSize(<const char*>self._in, got), b"")
        self._check_rest(fd, owner, got, events)
        return 0

    cdef int _check_rest(self, int fd, owner, Py_ssize_t got, uint32_t events) except -1:
        """Give a socket back that holds what will not be announced again: the end, or more than one read takes."""
        if (got == READ_SIZE or events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) and self._find(fd, owner) != NULL:
            owner.returned(b"", b"")
        return 0
