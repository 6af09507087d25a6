from typing import Any, Protocol, Self, final

from fastpath.express import ExpressLane

class Owner(Protocol):
    """The connection that lends a socket; called from ``run``."""

    def received(self, data: bytes) -> None:
        """Answer a read with ``send``, or take the socket back; only where the lane looks at nothing."""

    def returned(self, data: bytes, unsent: bytes) -> None:
        """Take the socket back: ``data`` was read and not answered, ``unsent`` is the rest of answers.

        Both empty: the stream has ended; the transport will find out. The owner calls ``take_back``.
        """

    def finished(self) -> None:
        """End the connection: its last answer was sent, or handed over to be sent."""

    def failed(self) -> None:
        """End the connection: it is broken, and the transport would take it for the end of the stream."""

    def missing(self, answer: Any) -> None:
        """Fetch the answer to one plain request (fastpath.express.Missing), ``send`` it and say ``answered``."""

@final
class ExpressSockets:
    """Sockets lent to the express lane. ``tick`` is the owners' clock, to be kept up by them."""

    tick: int

    def __new__(cls, lane: ExpressLane, *, frames: bool = True) -> Self:
        """Make the epoll descriptor; raises OSError where there is none left.

        ``frames`` off: the lane looks at nothing, each read is its owner's (``received``).
        """

    def fileno(self) -> int:
        """Return the descriptor that is readable while any lent socket is; then ``run`` is to be called."""

    def run(self) -> None:
        """Read each lent socket that is readable, and answer or give it back; at most 512 reads."""

    def lend(self, fd: int, owner: Owner) -> None:
        """Take over a socket whose transport has stopped reading and has nothing unsent.

        Raises OSError, ValueError for one that is lent already.
        """

    def take_back(self, fd: int, owner: Owner) -> None:
        """Let go of an owner's socket, before it is closed or its transport reads again; nothing where it is not lent."""

    def activity(self, fd: int, owner: Owner) -> tuple[int, int]:
        """Return how many requests were answered since it was lent, and the tick of the last request or answer."""

    def answered(self, fd: int, owner: Owner) -> None:
        """Say that the answer that was missing has been sent."""

    def send(self, fd: int, octets: bytes) -> bytes:
        """Send at once; returns what could not be sent, all of it where the connection has failed."""
