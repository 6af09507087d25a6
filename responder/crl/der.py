"""DER elements around a CRL's entries: written, and read strictly from a part of a file (X.690 §10.1).

For the few elements of a head; entries are fastpath's.
"""

from __future__ import annotations

from typing import NamedTuple

INTEGER, BIT_STRING, OCTET_STRING, OID, BOOLEAN = 0x02, 0x03, 0x04, 0x06, 0x01
UTC_TIME, GENERALIZED_TIME, SEQUENCE, EXPLICIT_0 = 0x17, 0x18, 0x30, 0xA0
MAX_OID_OCTETS = 63  # as fastpath/der.pxd: nothing longer is ever turned into text (CVE-2023-2650)


def header(tag: int, size: int) -> bytes:
    """Encode an element's tag and length, in the fewest octets."""
    if size < 0x80:
        return bytes((tag, size))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def element(tag: int, contents: bytes) -> bytes:
    """Encode an element."""
    return header(tag, len(contents)) + contents


class Element(NamedTuple):
    """Where an element lies in its file: from ``start`` its tag, from ``contents`` to ``end`` its contents."""

    tag: int
    start: int
    contents: int
    end: int


class Window:
    """Some octets of a file, from ``base`` on; ``what`` names them for an error."""

    def __init__(self, octets: bytes, base: int, what: str) -> None:
        self._octets = octets
        self._base = base
        self._what = what

    def next(self, at: int, end: int, *tags: int) -> Element:
        """Read the header at ``at`` of an element that must lie before ``end`` and be of one of ``tags``; none: any.

        Its contents need not lie in the window. Raises ValueError, which names the octet.
        """
        if at >= end:
            raise ValueError(f"octet {at}: an element is missing (RFC 5280 §5.1)")
        head = self.octets(at, min(at + 6, end))
        tag = head[0]
        if tags and tag not in tags:
            raise ValueError(
                f"octet {at}: tag {tag:02x}, not {' or '.join(f'{one:02x}' for one in tags)} (RFC 5280 §5.1)"
            )
        if tag & 0x1F == 0x1F:
            raise ValueError(f"octet {at}: tag of more than one octet (RFC 5280 §5.1)")
        if len(head) < 2:
            raise ValueError(f"octet {at}: cut off")
        size, contents = head[1], at + 2
        if size >= 0x80:
            count = size - 0x80
            if count == 0:
                raise ValueError(f"octet {at}: indefinite length (X.690 §10.1)")
            if count > 4:
                raise ValueError(f"octet {at}: length of {count} octets; at most 4")
            if len(head) < 2 + count:
                raise ValueError(f"octet {at}: cut off")
            size, contents = int.from_bytes(head[2 : 2 + count], "big"), contents + count
            if size < 0x80 or head[2] == 0:
                raise ValueError(f"octet {at}: length not in the fewest octets (X.690 §10.1)")
        if size > end - contents:
            raise ValueError(f"octet {at}: cut off; it says {size} octets and {end - contents} are there")
        return Element(tag, at, contents, contents + size)

    def octets(self, start: int, end: int) -> bytes:
        """Return octets of the file; raises ValueError where they are not in the window."""
        if start < self._base or end > self._base + len(self._octets):
            raise ValueError(f"{self._what} has more than {len(self._octets)} octets")
        return self._octets[start - self._base : end - self._base]

    def raw(self, element: Element) -> bytes:
        """Return a whole element."""
        return self.octets(element.start, element.end)

    def contents(self, element: Element) -> bytes:
        """Return an element's contents."""
        return self.octets(element.contents, element.end)


def read_integer(contents: bytes) -> int:
    """Read an INTEGER's contents; raises ValueError where they are not in the fewest octets (X.690 §8.3)."""
    if not contents or (len(contents) > 1 and (contents[0], contents[1] >= 0x80) in ((0x00, False), (0xFF, True))):
        raise ValueError("an INTEGER is not in the fewest octets (X.690 §8.3)")
    return int.from_bytes(contents, "big", signed=True)


def read_oid(contents: bytes) -> str:
    """Read an OBJECT IDENTIFIER's contents as dotted text; raises ValueError (X.690 §8.19)."""
    if not contents or len(contents) > MAX_OID_OCTETS or contents[-1] >= 0x80:
        raise ValueError("an OBJECT IDENTIFIER is empty, unfinished or too long (X.690 §8.19)")
    arcs: list[int] = []
    value, begins = 0, True
    for octet in contents:
        if begins and octet == 0x80:
            raise ValueError("an OBJECT IDENTIFIER's arc begins with 80 (X.690 §8.19)")
        value, begins = value << 7 | octet & 0x7F, octet < 0x80
        if begins:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
