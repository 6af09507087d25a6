from typing import Final, final

MAX_FIELDS: Final[int]
"""Fields in one header section; past it 431."""

@final
class HeadReader:
    """Reads the heads of one connection, one after the other; its attributes describe the latest.

    ``fields`` holds the fields that mean something here, by lower-case name, without surrounding whitespace.
    """

    def __init__(self, max_header_bytes: int, max_target_bytes: int) -> None: ...
    @property
    def method(self) -> bytes: ...
    @property
    def target(self) -> bytes:
        """In origin-form, otherwise as received."""

    @property
    def fields(self) -> dict[bytes, bytes]: ...
    @property
    def content_length(self) -> int | None:
        """None without that field."""

    @property
    def chunked(self) -> bool: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def http_1_0(self) -> bool: ...
    @property
    def is_plain(self) -> bool:
        """GET or POST on a persistent HTTP/1.1 connection, without preconditions."""

    def close(self) -> None:
        """Break the reference cycle with the parser."""

    def find_end(self, data: bytes, start: int) -> int:
        """Return the offset after the head that begins at ``start``, or -1 if more must arrive.

        Raises Refused as soon as no continuation could make it a request: too long, or not HTTP at all.
        """

    def read(self, head: bytes) -> None:
        """Read a whole head, its empty line included, into the attributes; raises Refused."""

    def check_body(self, raw: bytes) -> None:
        """Let llhttp read a body as it was framed by us; raises Refused unless it ends at the same octet."""
