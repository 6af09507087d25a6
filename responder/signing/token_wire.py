"""What the presigning role and the process that holds a token's sessions say to each other: frames over a socket pair.

A frame is its payload's length, its kind and the number of the job it belongs to, then the payload. Both ends trust each
other: they are one program, and the host has no other input than its parent and the PKCS#11 module.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from typing import Any

_HEAD = struct.Struct(">IBI")
_SIGN = struct.Struct(">IBI")


@unique
class Kind(IntEnum):
    """What a frame says. Above the line the parent's, below it the host's."""

    OPEN = 1  # JSON: a key to be found; its number is the job's, and names it from then on
    SIGN = 2  # messages for a key
    PIN = 3  # the PIN that was asked for, UTF-8
    NO_PIN = 4  # why there is none
    CLOSE = 5  # a key is no longer used
    # ---
    OPENED = 10  # JSON: what the key is
    SIGNED = 11  # signatures, as many and in the order of the messages
    FAILED = 12  # JSON: error ("config" or "unavailable"), text, pin_refused
    NEED_PIN = 13  # the job cannot go on without
    SIGNING = 14  # no job's: some messages more are signed


def frame(kind: Kind, job: int, payload: bytes = b"") -> bytes:
    """Encode a frame."""
    return _HEAD.pack(len(payload), kind, job) + payload


def json_frame(kind: Kind, job: int, **fields: Any) -> bytes:
    """Encode a frame whose payload is JSON."""
    return frame(kind, job, json.dumps(fields).encode())


def sign_frame(job: int, key: int, priority: int, mechanism: int, messages: Sequence[bytes]) -> bytes:
    """Encode what is to be signed, with which key and mechanism; the lowest ``priority`` goes first."""
    return frame(Kind.SIGN, job, _SIGN.pack(key, priority, mechanism) + pack_octets(messages))


def read_sign(payload: bytes) -> tuple[int, int, int, list[bytes]]:
    """Read key, priority, mechanism and messages from a SIGN frame."""
    key, priority, mechanism = _SIGN.unpack_from(payload)
    return key, priority, mechanism, unpack_octets(payload[_SIGN.size :])


def pack_octets(items: Sequence[bytes]) -> bytes:
    """Encode octet strings: count, lengths, contents."""
    return struct.pack(f">I{len(items)}I", len(items), *map(len, items)) + b"".join(items)


def unpack_octets(data: bytes) -> list[bytes]:
    """Read what ``pack_octets`` wrote."""
    (count,) = struct.unpack_from(">I", data)
    at = 4 + 4 * count
    items = []
    for length in struct.unpack_from(f">{count}I", data, 4):
        items.append(data[at : at + length])
        at += length
    return items


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Take octets in; yields kind, job and payload of each frame that is whole now."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            length, kind, job = _HEAD.unpack_from(self._buffer)
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            yield Kind(kind), job, payload
