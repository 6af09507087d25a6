"""DER encodings (X.690), as plain as they can be: what the slow parsers compare with and the tests build requests from."""

from __future__ import annotations

from collections.abc import Sequence


def encode_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 + len(octets)]) + octets


def tlv(tag: int, *contents: bytes) -> bytes:
    """Encode one element; its contents are the parts joined."""
    joined = b"".join(contents)
    return bytes([tag]) + encode_length(len(joined)) + joined


def encode_integer(value: int) -> bytes:
    """Encode the contents octets of an INTEGER: the shortest that hold the value and its sign."""
    magnitude = value if value >= 0 else -value - 1
    return value.to_bytes(magnitude.bit_length() // 8 + 1, "big", signed=True)


def encode_oid(subidentifiers: Sequence[int]) -> bytes:
    """Encode the contents octets of an OBJECT IDENTIFIER; the first subidentifier holds the first two arcs."""
    octets = bytearray()
    for subidentifier in subidentifiers:
        group = [subidentifier % 128]
        while subidentifier := subidentifier // 128:
            group.append(subidentifier % 128 + 128)
        octets.extend(reversed(group))
    return bytes(octets)


def oid(dotted: str) -> bytes:
    """Encode the contents octets of an OBJECT IDENTIFIER in dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return encode_oid([first * 40 + second, *rest])
