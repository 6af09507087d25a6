"""One HTTP/1.1 connection: octets in, whole requests to the handler, responses out in the same order.

The life of a query begins here: ``data_received`` frames a request (framing), gives it to the handler, and writes
what the handler replies, within the same call where the answer is ready. No Task, no await. Knows no OCSP and no
routes. RFC 9112; docs/server-behavior.md tells in prose what a client sees. Created by the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, cast

from responder.errors import InvariantBroken
from responder.http.deadlines import NEVER
from responder.http.file_sender import Sending
from responder.http.files import FileResponse
from responder.http.framing import ChunkedBody, Refused
from responder.http.message import PreparedResponse, Request, Response, http_error
from responder.http.state import ServerState, address_key
from responder.log import get_logger

log = get_logger(__name__)

ALLOWED = (b"GET", b"HEAD", b"POST")
MAX_PIPELINED = 64  # unanswered requests of one connection; past it we stop reading until an answer goes out
WRITE_HIGH_WATER = 65_536  # unsent octets at which we stop reading a client that does not read
OUT_LIMIT = 65_536  # octets of responses gathered before they go to the transport, within one read
LINGER_S = 2  # how long a client that we hang up on may go on sending, so that it can read why
MAX_LINGER_BYTES = 1 << 20
MAX_WAITING_BYTES = 65_536  # octets that may arrive while a connection waits for its turn
MAX_EMPTY_LINES = 4  # RFC 9112 §2.2: at least one empty line before a request is to be ignored

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONNECTION_CLOSE = b"Connection: close\r\n\r\n"
_CONNECTION_KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
_METHOD_NOT_ALLOWED = http_error(405, ((b"Allow", b", ".join(ALLOWED)),))
_PLAIN = (Request(b"GET", b"/"), Request(b"POST", b"/"))  # what the express lane leaves of a request that it has read
_ERRORS: dict[int, Response] = {405: _METHOD_NOT_ALLOWED}


def _error(status: int) -> Response:
    if status not in _ERRORS:
        _ERRORS[status] = http_error(status)
    return _ERRORS[status]


class Exchange:
    """A request's place in its connection's queue; called with the Response, it is the handler's ``reply``."""

    __slots__ = ("http_1_0", "keep_alive", "protocol", "request", "response")

    def __init__(self, protocol: HTTPProtocol, request: Request | None, keep_alive: bool, http_1_0: bool) -> None:
        self.protocol: HTTPProtocol | None = protocol  # None once the connection has gone
        self.request = request  # None for a request that was refused unread
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.response: Response | None = None

    def __call__(self, response: Response) -> None:
        """Answer; does nothing if the client has gone. Raises InvariantBroken for a second answer."""
        if self.response is not None:
            raise InvariantBroken("a request was answered twice")
        self.response = response
        if self.protocol is not None:
            self.protocol.replied(self)


class HTTPProtocol(asyncio.Protocol):
    """See the module. ``deadline`` and ``bucket`` belong to the DeadlineWheel."""

    __slots__ = (
        "_address_key",
        "_advancing",
        "_body_length",
        "_chunked",
        "_close_sent",
        "_continue_due",
        "_discarded",
        "_empty_lines",
        "_file_head",
        "_head",
        "_lent_fd",
        "_linger",
        "_may_lend",
        "_mid_request",
        "_needed",
        "_out",
        "_out_bytes",
        "_peer",
        "_pieces",
        "_pieces_bytes",
        "_queue",
        "_reading",
        "_sending",
        "_served",
        "_state",
        "_stopped",
        "_transport",
        "_waiting",
        "_write_paused",
        "bucket",
        "deadline",
    )

    def __init__(self, state: ServerState) -> None:
        # Per worker:
        self._state = state
        # Per connection:
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._address_key: bytes | None = None  # None: not admitted
        self._head = state.no_head  # until a head comes that is not plain
        self._may_lend = True  # until it was tried: what came back once is not plain
        self._lent_fd = -1  # the descriptor, while the express lane reads and writes it
        self._queue: deque[Exchange] = deque()  # in the order of the requests
        self._out: list[bytes] = []  # gathered within one call, then written
        self._out_bytes = 0
        self._file_head: tuple[bytes, FileResponse] | None = None  # to be sent when the transport has nothing unsent
        self._sending: Sending | None = None  # the file of queue[0], past the transport
        self._served = 0
        self._reading = True
        self._write_paused = False
        self._advancing = False
        self._waiting = False  # for its turn to read on
        self._stopped = False  # no further request will be read
        self._close_sent = False  # the last response has been written
        self._discarded = 0  # octets that arrived after the last request that we read
        self._linger = False  # the client may be in the middle of sending
        self.deadline = self.bucket = NEVER
        # Per request, while it arrives:
        self._pieces: list[bytes] = []  # what arrived and is not used yet
        self._pieces_bytes = 0
        self._needed = 1  # octets without which there is nothing to be gained from looking again
        self._mid_request = False
        self._empty_lines = 0
        self._body_length = -1  # of the request whose head was read; -1: no head yet
        self._chunked: ChunkedBody | None = None
        self._continue_due = False

    # --- what the event loop calls --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or close it at once where a limit is reached."""
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if isinstance(peername, tuple) else ""
        key = address_key(self._peer)
        if not self._state.admit(self, key):
            self._stopped = self._close_sent = True
            self._transport.abort()
            return
        self._address_key = key
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        # The first request must begin within the time that it may take to arrive.
        self._set_deadline(self._state.config.header_timeout)

    def data_received(self, data: bytes) -> None:
        """Take what arrived and answer every request that is now whole."""
        state = self._state
        if state.read is not None and self._is_between_requests():
            answer = state.read(data)
            if answer is not None:
                self._answer_express(answer)
                return
        if self._stopped:
            self._discard(len(data))
            return
        self._pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes >= self._needed:
            if state.turns is None:
                self._advance()
            elif not self._waiting:
                self._waiting = True
                state.turns.add(self._take_turn)
            elif self._pieces_bytes > MAX_WAITING_BYTES:
                self._set_reading(False)
        if self._pieces or self._body_length >= 0 or self._chunked is not None:
            self._watch_arrival()

    def _take_turn(self) -> None:
        """Read on, when the ready answers of others have gone out."""
        self._waiting = False
        if self._pieces and not self._stopped and not self._stalled():
            self._advance()
        if not self._stopped and not self._stalled():
            self._set_reading(True)
            self._watch_arrival()

    def eof_received(self) -> bool:
        """Answer what was asked before the client closed its side; returns True while answers are due."""
        if self._waiting:
            self._take_turn()
        self._stopped = True
        self._drop_input()
        if self._queue and not self._close_sent:
            self._queue[-1].keep_alive = False
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything; answers still under way come to nothing."""
        self.take_back()
        self._stop_file()
        self._stopped = self._close_sent = True
        for exchange in self._queue:
            exchange.protocol = None
        self._queue.clear()
        self._drop_input()
        if self._head is not self._state.no_head:
            self._head.close()
        self._transport = None
        self._state.wheel.forget(self)
        if self._address_key is not None:
            self._state.release(self, self._address_key)
            self._address_key = None

    def pause_writing(self) -> None:
        """Stop reading a client that does not read; cut it off if it goes on like that."""
        self._write_paused = True
        self._set_reading(False)
        self._set_deadline(self._state.config.idle_timeout)

    def resume_writing(self) -> None:
        """Go on where pause_writing stopped."""
        self._write_paused = False
        if self._close_sent:
            return
        self._set_deadline(self._arrival_timeout())
        if not self._advancing:
            self._resume()

    # --- what the express lane calls while it has the socket ----------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Answer a read while the lane itself is turned off: as ``data_received``, past the transport."""
        head = self._head
        try:
            if data[0] not in b"\r\n" and head.find_end(data, 0) == len(data):
                self._take_head(data, 0, len(data))
            else:
                self.take_back()
                self.data_received(data)
        except Refused as refused:
            self._refuse(refused, data[:200])
        self._flush()
        if not self._is_between_requests() or self._body_length >= 0 or self._chunked is not None:
            self.take_back()
            self._watch_arrival()

    def returned(self, data: bytes, unsent: bytes) -> None:
        """Go on by ourselves: see fastpath.express_sockets."""
        self.take_back()
        if unsent and self._transport is not None:
            self._transport.write(unsent)
        if data:
            self.data_received(data)

    def finished(self) -> None:
        """Hang up after the last answer, which the lane has made."""
        self._served += 1
        self._stopped = True
        self._hang_up()

    def failed(self) -> None:
        """End a connection that broke in the lane's hands."""
        self.cut()

    def missing(self, answer: Any) -> None:
        """Fetch what one plain request lacks; the lane keeps the socket, and reads on once it is answered."""
        self._answer_express(answer)

    def _lend(self) -> None:
        """Let the express lane read and answer on our socket, for as long as everything is plain."""
        state, transport = self._state, self._transport
        if state.sockets is None or transport is None or transport.is_closing():
            return
        if not self._is_between_requests() or transport.get_write_buffer_size():
            self._may_lend = True  # at the next answer, perhaps
            return
        fd = transport.get_extra_info("socket").fileno()
        try:
            state.sockets.lend(fd, self)
        except OSError as error:
            log.warning("socket_not_lent", error=str(error))
            return
        self._set_reading(False)
        self._lent_fd = fd

    def take_back(self) -> None:
        """Have the socket for ourselves again, if it was lent; before it is closed, and before anything unusual."""
        fd, sockets = self._lent_fd, self._state.sockets
        if fd < 0 or sockets is None:
            return
        self._set_deadline(max(0, self._idle_ticks_left()))
        self._served += sockets.activity(fd, self)[0]
        sockets.take_back(fd, self)
        self._lent_fd = -1
        self._set_reading(not self._stopped)

    def _idle_ticks_left(self) -> int:
        """Return how long a lent connection may still wait for its next request; below 0: it is over."""
        state = self._state
        tick = state.sockets.activity(self._lent_fd, self)[1] if state.sockets is not None else 0
        return tick + state.idle_timeout - state.wheel.now

    def _may_stay_lent(self) -> bool:
        """Tell whether the lane, which does not tell of each answer, has given one lately; then look again later."""
        if self._lent_fd < 0 or self._queue:
            return False
        left = self._idle_ticks_left()
        if left < 0:
            return False
        self._set_deadline(left)
        return True

    # --- what the server and the deadline wheel call ----------------------------------------------------------------

    def drain(self) -> None:
        """Close if nothing is under way; otherwise after the answer that is (the state is draining).

        A connection that has asked nothing yet may ask once: its first request may be on its way.
        """
        self.take_back()
        if not self._queue and not self._mid_request and self._served and not self._close_sent:
            self._stopped = self._linger = True
            self._hang_up()

    def cut(self) -> None:
        """End the connection now, whatever is under way."""
        self.take_back()
        self._stop_file()
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Act on a deadline: which one it was follows from what we are waiting for."""
        if self._transport is None or self._may_stay_lent():
            return
        self.take_back()
        if self._close_sent:
            self.cut()  # it had LINGER_S
        elif self._sending is not None:
            left = self._sending.patience(self._state.wheel.now, self._state.config.idle_timeout)
            if left:
                self._set_deadline(left)
            else:
                self._state.timeouts["write"] += 1
                self.cut()
        elif self._write_paused or self._transport.get_write_buffer_size():
            self._state.timeouts["write"] += 1
            self.cut()
        elif self._mid_request:
            self._state.timeouts["request"] += 1
            # RFC 9110 §15.5.9: 408, and close.
            self._refuse(Refused(408, "request not complete in time"))
            self._flush()
        elif self._queue:
            self._state.timeouts["reply"] += 1
            log.error("reply_overdue", peer=self._peer, unanswered=len(self._queue))
            self.cut()
        else:
            self._state.timeouts["idle"] += 1
            self._stopped = True
            self._hang_up()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _answer_express(self, answer: Any) -> None:
        """Write what the express lane answered to a whole read, or have it fetched."""
        state = self._state
        self._empty_lines = 0
        self._set_deadline(state.config.idle_timeout)
        if type(answer) is bytes:
            self._transport.write(answer)  # type: ignore[union-attr]  # it is there while data arrives
            if self._may_lend and state.sockets is not None:
                # Whoever asks once may ask again; soon, when this answer has left the transport.
                self._may_lend = False
                asyncio.get_running_loop().call_soon(self._lend)
            self._served += 1
        elif type(answer) is tuple:
            self._transport.write(answer[0])  # type: ignore[union-attr]
            self.finished()
        else:
            exchange = Exchange(self, _PLAIN[answer.is_post], not answer.closes, http_1_0=False)
            self._queue.append(exchange)
            self._stopped = self._stopped or answer.closes  # RFC 9112 §9.6: what follows a close is not read
            fetch = partial(state.fetch, answer, exchange)  # type: ignore[misc, arg-type]  # it is there where read is
            if state.turns is None:
                fetch()
            else:
                state.turns.add(fetch)

    def _is_between_requests(self) -> bool:
        """Tell whether nothing is owed to either side: no part of a request, no answer, no end."""
        return not (self._mid_request or self._queue or self._pieces or self._stopped or self._write_paused)

    def _stalled(self) -> bool:
        return self._write_paused or len(self._queue) >= MAX_PIPELINED

    def _set_deadline(self, seconds: int) -> None:
        wheel = self._state.wheel
        self.deadline = wheel.now + seconds + 1
        if self.deadline < self.bucket:  # else it looks at us in time anyway
            wheel.set(self, seconds)

    def _arrival_timeout(self) -> int:
        return self._state.config.header_timeout if self._mid_request else self._state.config.idle_timeout

    def _watch_arrival(self) -> None:
        """Start a request's clock with its first octet, whatever dribbles in later; not while we make it wait."""
        if self._mid_request or self._waiting or self._stopped or self._stalled():
            return
        if self._pieces or self._body_length >= 0 or self._chunked is not None:
            self._mid_request = True
            self._set_deadline(self._state.config.header_timeout)

    def _advance(self) -> None:
        """Read requests from what has arrived until more must arrive, then write what was answered meanwhile."""
        self._advancing = True
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        position = 0
        self._needed = 1
        starved = False
        try:
            size = len(data)
            while position < size and not (self._stopped or self._write_paused or len(self._queue) >= MAX_PIPELINED):
                before = position
                position = self._step(data, position)
                if position == before:
                    starved = True
                    break
        except Refused as refused:
            self._refuse(refused, data[position : position + 200])
            position = len(data)
        finally:
            self._advancing = False
        left = len(data) - position
        self._pieces_bytes = 0
        if not left:
            pieces.clear()
        elif self._stopped:
            pieces.clear()
            self._discarded += left
        else:
            self._pieces = [data[position:]]
            self._pieces_bytes = left
            if starved:
                self._needed = max(self._needed, left + 1)
            if self._stalled():
                self._set_reading(False)
        self._flush()

    def _step(self, data: bytes, position: int) -> int:
        """Read one head or what there is of a body; returns the new offset, the same one if more must arrive."""
        if self._chunked is not None:
            return self._read_chunks(self._chunked, data, position)
        if self._body_length >= 0:
            return self._read_body(data, position)
        if data[position] in b"\r\n":
            return self._skip_empty_line(data, position)
        head = self._head
        if head is self._state.no_head:
            head = self._head = self._state.new_head()
        end = head.find_end(data, position)
        if end < 0:
            return position
        self._take_head(data, position, end)
        return end

    def _take_head(self, data: bytes, position: int, end: int) -> None:
        """Read a whole head, and answer it unless content follows; raises Refused."""
        head = self._head
        head.read(data if position == 0 and end == len(data) else data[position:end])
        method = head.method
        if method == b"POST":
            self._begin_post(data, end)
        elif head.content_length or head.chunked:
            # RFC 9110 §9.3.1: content in a GET means nothing, and serves to smuggle.
            if method in ALLOWED:
                raise Refused(400, "content in GET or HEAD")
            raise Refused(405, "method not allowed, with content")
        elif method in ALLOWED:
            self._dispatch(b"")
        else:
            # After CONNECT a client may believe that it speaks with somebody else.
            exchange = self._enqueue(None, head.keep_alive and method != b"CONNECT")
            exchange(_METHOD_NOT_ALLOWED)

    def _skip_empty_line(self, data: bytes, position: int) -> int:
        # RFC 9112 §2.2: an empty line before the request line is to be ignored; some old clients send one after a body.
        line = data[position : position + 2]
        if line == b"\r":
            return position
        self._empty_lines += 1
        if line != b"\r\n" or self._empty_lines > MAX_EMPTY_LINES:
            raise Refused(400, "not a request line")
        return position + 2

    def _begin_post(self, data: bytes, end: int) -> None:
        head, config = self._head, self._state.config
        length = head.content_length
        if length is None and not head.chunked:
            # RFC 9112 §6.3: such a request has no content; RFC 9110 §15.5.12 lets us ask for a length.
            raise Refused(411, "no length")
        if length is not None and length > config.max_body_bytes:
            raise Refused(413, "body too large")
        content_type = head.fields.get(b"content-type")
        if content_type is not None:
            # RFC 9110 §8.3.1: media types are case-insensitive, and may carry parameters.
            media_type = content_type.partition(b";")[0].rstrip(b" \t").lower()
            if media_type not in self._state.handler.accepted_types:
                raise Refused(415, "media type not accepted")
        expect = head.fields.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise Refused(417, "unknown expectation")
        if head.chunked:
            self._chunked = ChunkedBody(config.max_body_bytes)
        elif length:
            self._body_length = length
        else:
            self._dispatch(b"")
            return
        # RFC 9110 §10.1.1: not to an HTTP/1.0 client; and needless where content has begun to arrive.
        if expect is not None and not head.http_1_0 and end == len(data):
            if self._queue:
                self._continue_due = True  # once the answers before it have gone
            else:
                self._write(_CONTINUE)

    def _read_body(self, data: bytes, position: int) -> int:
        end = position + self._body_length
        if end > len(data):
            self._needed = self._body_length
            return position
        body = data[position:end]
        self._head.check_body(body)
        self._dispatch(body)
        return end

    def _read_chunks(self, chunked: ChunkedBody, data: bytes, position: int) -> int:
        position = chunked.feed(data, position)
        if chunked.complete:
            self._head.check_body(chunked.raw)
            self._dispatch(chunked.body)
        return position

    # --- answering --------------------------------------------------------------------------------------------------

    def _enqueue(self, request: Request | None, keep_alive: bool) -> Exchange:
        """Give the request that was just read its place, and be ready for the next."""
        exchange = Exchange(self, request, keep_alive, self._head.http_1_0)
        self._queue.append(exchange)
        self._begin_request()
        self._set_deadline(self._state.config.idle_timeout)
        if not keep_alive:
            self._stopped = True  # RFC 9112 §9.6: what follows a close is not read
        return exchange

    def _begin_request(self) -> None:
        """Be ready for the next request: the one before was read to its end."""
        self._mid_request = False
        self._empty_lines = 0
        self._body_length = -1
        self._chunked = None
        self._continue_due = False

    def _dispatch(self, body: bytes) -> None:
        head, state = self._head, self._state
        if state.ready is not None and head.is_plain and not self._queue:
            octets = state.ready(head.method == b"POST", head.target, body)
            if octets is not None:
                if self._mid_request or self._empty_lines:
                    self._begin_request()
                if self._may_lend and state.sockets is not None and state.read is None:
                    self._may_lend = False
                    asyncio.get_running_loop().call_soon(self._lend)
                self._body_length = -1
                self._chunked = None
                self._served += 1
                self._set_deadline(state.idle_timeout)
                self._out.append(octets)
                self._out_bytes += len(octets)
                if self._out_bytes >= OUT_LIMIT:
                    self._flush()
                return
        get = head.fields.get
        request = Request(head.method, head.target, body, peer=self._peer)
        if len(head.fields) > 1:  # more than Host
            request.content_type = get(b"content-type")
            request.if_none_match = get(b"if-none-match")
            request.if_modified_since = get(b"if-modified-since")
            request.if_match = get(b"if-match")
            request.if_unmodified_since = get(b"if-unmodified-since")
            request.range = get(b"range")
            request.if_range = get(b"if-range")
        exchange = self._enqueue(request, head.keep_alive)
        try:
            self._state.handler.handle(request, exchange)
        except Exception as error:
            log.exception("handler_failed", error=str(error))
            if exchange.response is None:
                exchange.keep_alive = False
                self._stopped = True
                exchange(_error(500))

    def _refuse(self, refused: Refused, start: bytes = b"") -> None:
        """Queue the one response that a refused request gets; nothing is read after it."""
        log.debug("request_refused", status=refused.status, reason=refused.reason, peer=self._peer, start=repr(start))
        exchange = Exchange(self, None, keep_alive=False, http_1_0=False)
        self._queue.append(exchange)
        self._stopped = self._linger = True
        self._mid_request = False
        self._set_deadline(self._state.config.idle_timeout)
        exchange(_error(refused.status))

    def replied(self, exchange: Exchange) -> None:
        """Write every answer whose turn it is (RFC 9112 §9.3.2: in the order of the requests)."""
        queue = self._queue
        if self._close_sent or queue[0] is not exchange:
            return
        if self._lent_fd >= 0 and exchange.keep_alive and exchange.request in _PLAIN:
            self._reply_lent(exchange)
            return
        self._reply_due()
        state = self._state
        if not self._advancing:
            self._set_deadline(self._arrival_timeout())
            self._resume()
            if self._may_lend and state.sockets is not None and exchange.request in _PLAIN:
                self._may_lend = False
                asyncio.get_running_loop().call_soon(self._lend)

    def _reply_due(self) -> None:
        """Write the answers at the front of the queue, up to a file, which keeps its place until it has been sent."""
        queue = self._queue
        second = int(self._state.clock.now())
        while queue and self._file_head is None and (response := queue[0].response) is not None:
            self._send(queue.popleft(), response, second)
        if self._continue_due and not queue:
            self._continue_due = False
            self._write(_CONTINUE)

    def _reply_lent(self, exchange: Exchange) -> None:
        """Send the answer that the express lane missed, past the transport, whose queue its next one would overtake."""
        state, sockets, response = self._state, self._state.sockets, exchange.response
        assert response is not None  # noqa: S101 - replied saw to it
        assert exchange.request is not None  # noqa: S101 - the lane read it
        assert sockets is not None  # noqa: S101 - something is lent
        self._queue.clear()
        if type(response) is PreparedResponse:
            octets = response.message
        else:
            second = int(state.clock.now())
            response = response.for_request(exchange.request, second)
            octets = response.wire(second)
        state.responses[response.status] += 1
        self._served += 1
        self._set_deadline(state.idle_timeout)
        unsent = sockets.send(self._lent_fd, octets)
        sockets.answered(self._lent_fd, self)
        if unsent:
            self.returned(b"", unsent)

    def _send(self, exchange: Exchange, response: Response, second: int) -> None:
        request = exchange.request
        head_only = False
        if request is not None:
            response = response.for_request(request, second)
            head_only = request.method == b"HEAD"
        self._state.responses[response.status] += 1
        self._served += 1
        if isinstance(response, FileResponse) and not head_only:
            self._queue_file(exchange, response, second)
        elif not exchange.keep_alive or (self._state.draining and not self._queue):
            # RFC 9112 §9.6: a server that will close SHOULD say so.
            self._write(response.head(second) + _CONNECTION_CLOSE)
            self._close_sent = self._stopped = True
        elif exchange.http_1_0:
            self._write(response.head(second) + _CONNECTION_KEEP_ALIVE)
        elif head_only:
            self._write(response.head(second) + b"\r\n")
        else:
            self._write(response.wire(second))
            return
        if response.body and not head_only:  # RFC 9110 §9.3.2: no content in answer to HEAD
            self._write(response.body)

    def _write(self, octets: bytes) -> None:
        self._out.append(octets)
        self._out_bytes += len(octets)
        if self._out_bytes >= OUT_LIMIT:
            self._flush()

    def _flush(self) -> None:
        """Hand what was gathered to the transport; hang up after the last response."""
        out = self._out
        if out and self._transport is not None:
            octets = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_bytes = 0
            if self._lent_fd >= 0 and self._state.sockets is not None:
                # Past the transport, whose queue would let the next answer overtake this one.
                octets = self._state.sockets.send(self._lent_fd, octets)
                if octets:
                    self.take_back()
            if octets and not self._transport.is_closing():
                self._transport.write(octets)
        if self._close_sent and not self._advancing:
            self._hang_up()
        if self._file_head is not None and self._sending is None and not self._advancing:
            self._begin_file(*self._file_head)

    def _resume(self) -> None:
        """Write, and read on what had to wait for it."""
        self._flush()
        if self._stopped or self._stalled():
            return
        self._set_reading(True)
        if self._pieces and self._pieces_bytes >= self._needed:
            self._advance()
        self._watch_arrival()

    # --- sending a file ---------------------------------------------------------------------------------------------

    def _queue_file(self, exchange: Exchange, response: FileResponse, second: int) -> None:
        """Have a file sent after what was written before it. Its exchange stays in the queue, and so whatever follows."""
        if self._state.draining and not self._queue:
            exchange.keep_alive = False
        connection = _CONNECTION_KEEP_ALIVE if exchange.http_1_0 else b"\r\n"
        head = response.head(second) + (connection if exchange.keep_alive else _CONNECTION_CLOSE)
        self._queue.appendleft(exchange)
        self._file_head = (head, response)

    def _begin_file(self, head: bytes, response: FileResponse) -> None:
        """Send it past the transport, once that has nothing unsent: ``resume_writing`` comes back here."""
        self.take_back()
        transport, state = self._transport, self._state
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)
            return
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._set_deadline(state.config.idle_timeout)
        fd = transport.get_extra_info("socket").fileno()
        self._sending = state.files.send(fd, self, head, response.file, response.start, response.end, state.wheel.now)

    def file_sent(self) -> None:
        """Go on with what was asked for after the file."""
        exchange = self._queue.popleft()
        self._sending = self._file_head = None
        if exchange.keep_alive and not (self._state.draining and not self._queue):
            self._reply_due()
            self._set_deadline(self._arrival_timeout())
            self._resume()
        else:
            self._stopped = True
            self._hang_up()

    def file_failed(self) -> None:
        """End the connection: nobody can tell what is left of the file from the next answer."""
        self.cut()

    def _stop_file(self) -> None:
        if self._sending is not None:
            self._state.files.stop(self._sending)
        self._sending = self._file_head = None

    # --- ending -----------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        """Close so that the client gets the last response: our side first, while it may still be sending.

        Closing a socket with unread octets makes the kernel send a reset, which can take the response back from
        the client's buffer (RFC 9112 §9.6).
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.take_back()
        self._close_sent = True
        unsent = transport.get_write_buffer_size() > 0
        self._set_deadline(self._state.config.idle_timeout if unsent else LINGER_S)
        if self._discarded or self._linger:
            self._drop_input()
            self._set_reading(True)
            if transport.can_write_eof():
                transport.write_eof()
                return
        transport.close()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._close_sent and self._discarded > MAX_LINGER_BYTES:
            self.cut()

    def _drop_input(self) -> None:
        self._pieces = []
        self._pieces_bytes = 0

    def _set_reading(self, wanted: bool) -> None:
        if self._lent_fd >= 0:
            return  # the lane reads
        if wanted != self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
