"""Seeded mutations of DER: of the octets, and of the tree with the lengths around it put right again.

Mutations of octets mostly break an outer length and are refused at the door; those of the tree reach the inner rules.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.reference.der import encode_length

TAGS = [
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x0C,
    0x30,
    0x31,
    0x80,
    0x81,
    0x82,
    0xA0,
    0xA1,
    0xA2,
    0xA3,
    0xA4,
    0x1F,
    0x00,
]

SIZES = [1, 2, 20, 21, 22, 64, 65, 128, 129, 300]  # around every limit of the parser


def mutate_octets(rng: random.Random, data: bytes) -> bytes:
    """Flip, insert or delete up to three octets, or cut the end off."""
    octets = bytearray(data or b"\0")
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(octets))
        match rng.randrange(6):
            case 0:
                octets[at] ^= 1 << rng.randrange(8)
            case 1:
                octets[at] = rng.choice([0x00, 0x01, 0x7F, 0x80, 0x81, 0x84, 0xFF, rng.randrange(256)])
            case 2:
                octets[at] = (octets[at] + rng.choice([-1, 1])) % 256
            case 3:
                octets.insert(at, rng.choice([0x00, 0xFF, rng.randrange(256)]))
            case 4 if len(octets) > 1:
                del octets[at]
            case 5 if rng.random() < 0.1 and at > 0:
                del octets[at:]
    return bytes(octets)


def encode_nodes(nodes: list[Node]) -> bytes:
    return b"".join(node.encode() for node in nodes)


@dataclass
class Node:
    tag: int
    contents: bytes = b""
    children: list[Node] | None = None  # None: primitive, ``contents`` hold
    length_form: int = 0  # 0: minimal; n: n length octets; -1: indefinite

    def encode(self) -> bytes:
        contents = self.contents if self.children is None else encode_nodes(self.children)
        if self.length_form < 0:
            return bytes([self.tag, 0x80]) + contents + b"\0\0"
        length = encode_length(len(contents))
        if self.length_form > 0:
            length = (
                bytes([0x80 + self.length_form])
                + len(contents).to_bytes(max(self.length_form, 3), "big")[-self.length_form :]
            )
        return bytes([self.tag]) + length + contents


def parse_nodes(data: bytes) -> list[Node] | None:
    """Take octets for elements one after the other; None where they are not."""
    nodes, at = [], 0
    while at < len(data):
        if at + 2 > len(data) or data[at] % 32 == 31:
            return None
        size = 1 if data[at + 1] < 128 else 1 + data[at + 1] - 128
        length = data[at + 1] if size == 1 else int.from_bytes(data[at + 2 : at + 1 + size], "big")
        start = at + 1 + size
        contents = data[start : start + length]
        if len(contents) != length or encode_length(length) != data[at + 1 : start]:
            return None
        # Constructed, or an OCTET STRING that holds an element as extnValue does.
        inner = parse_nodes(contents) if data[at] & 0x20 or data[at] == 4 else None
        nodes.append(Node(data[at], contents, inner))
        at = start + length
    return nodes


def walk(nodes: list[Node]) -> list[list[Node]]:
    """Return every list of siblings."""
    return [nodes, *(inner for node in nodes if node.children for inner in walk(node.children))]


def mutate_tree(rng: random.Random, data: bytes) -> bytes:
    """Change one element of well-formed DER; the lengths around it fit again unless the change is one of lengths."""
    roots = parse_nodes(data)
    if not roots:
        return mutate_octets(rng, data)
    siblings = rng.choice(walk(roots))
    at = rng.randrange(len(siblings))
    node = siblings[at]
    match rng.randrange(10):
        case 0:
            node.tag = rng.choice(TAGS)
        case 1 | 2 if node.children is None:
            node.contents = mutate_octets(rng, node.contents) if node.contents else rng.randbytes(rng.randrange(3))
        case 3 if node.children is None:
            node.contents = rng.choice([b"", b"\0", b"\xff", b"\x80", rng.randbytes(rng.choice(SIZES))])
        case 4:
            del siblings[at]
        case 5:
            siblings.insert(
                at,
                rng.choice([node, Node(5), Node(1, b"\xff"), Node(1, b"\0"), Node(2, b"\0"), Node(0xA0), Node(0x30)]),
            )
        case 6 if len(siblings) > 1:
            other = rng.randrange(len(siblings))
            siblings[at], siblings[other] = siblings[other], node
        case 7:
            node.length_form = rng.choice([-1, 1, 2, 3, 4, 5])
        case 8:
            node.contents, node.children = node.encode(), None  # wrapped in itself once more
        case 9:
            siblings[at:] = siblings[at:] * rng.choice([2, 2, 2, 9, 18])
        case _:
            return mutate_octets(rng, data)
    return encode_nodes(roots)
