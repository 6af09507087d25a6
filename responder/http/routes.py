"""Which handler a request is for: those for files have names of their own, all else goes to the one for queries.

The express lane and ready answers never come by here. Called by the protocol as the worker's Handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from responder.http.message import Handler, Request, Response


class NamedFiles(Handler, Protocol):
    """A handler that knows which targets are its own."""

    def owns(self, target: bytes) -> bool:
        """Tell whether a GET or HEAD of this target, as it was received, is for this handler."""
        ...


class Routes:
    """GET and HEAD of a file's name go to ``files``; whatever else, and every POST, to ``queries``."""

    def __init__(self, queries: Handler, files: NamedFiles) -> None:
        self._queries = queries
        self._files = files
        self.accepted_types = queries.accepted_types

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        """Hand the request on."""
        is_file = request.method != b"POST" and self._files.owns(request.target)
        (self._files if is_file else self._queries).handle(request, reply)
