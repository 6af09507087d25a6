"""Names and encodings: responder/store/layout.py."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.model import serial_from_octets, serial_to_octets
from responder.store import layout
from responder.store.layout import Layout, bucket_number, due_member, parse_due_member, partition_of, serial_hash

CA = "0123456789abcdef"


@given(st.integers(min_value=-(2**160), max_value=2**160))
def test_no_serial_is_a_header_field(serial: int) -> None:
    """X.690 §8.3.2 keeps them apart: 2e30, the octets of ".0", is the serial 11824."""
    assert serial_to_octets(serial) not in layout.HEADER_FIELDS


def test_header_fields_are_no_minimal_integers() -> None:
    assert len(set(layout.HEADER_FIELDS)) == layout.HEADER_SLOTS
    for field in layout.HEADER_FIELDS:
        assert serial_to_octets(serial_from_octets(field)) != field


@given(st.binary(min_size=1, max_size=20), st.integers(layout.MIN_BITS, layout.MAX_BITS - 1))
def test_a_split_moves_a_serial_to_the_child_or_leaves_it(serial: bytes, bits: int) -> None:
    number, deeper = (bucket_number(serial_hash(serial), depth) for depth in (bits, bits + 1))
    assert deeper in (number, number + (1 << bits))
    assert partition_of(number) == partition_of(deeper) == partition_of(serial_hash(serial))


def test_serial_hash_is_the_end_of_sha256() -> None:
    assert serial_hash(b"\x01") == int(hashlib.sha256(b"\x01").hexdigest()[-8:], 16)


@given(st.binary(min_size=1, max_size=20), st.integers(layout.MIN_BITS, layout.MAX_BITS))
def test_what_changes_together_has_one_hash_tag(serial: bytes, bits: int) -> None:
    """Redis Cluster: one script may touch the keys of one slot only."""
    names, hash_value = Layout("rc:"), serial_hash(serial)
    bucket = bucket_number(hash_value, bits)
    partition = partition_of(bucket)
    keys = [
        names.status(CA, bucket),
        *(names.answers(CA, bucket, name) for name in layout.STORED_HASHES),
        names.revoked(CA, hash_value),
        names.changed(CA, partition),
        names.due(partition),
        names.journal(partition),
        names.override(CA, partition),
    ]
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in keys} == {f"{partition:x}"}
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("bucket", [0, 15, 4096, 2**24 - 1])
def test_due_members_read_back(bucket: int) -> None:
    assert parse_due_member(due_member(CA, bucket)) == (CA, bucket)


def test_a_ca_is_named_by_subject_and_key() -> None:
    """Two generations of one CA share the name and differ in the key (PEERS §6: one issuer's answer for another's serial)."""
    assert layout.ca_id(b"name", b"key") == hashlib.sha256(b"namekey").hexdigest()[:16]
    assert layout.ca_id(b"name", b"key") != layout.ca_id(b"name", b"yek")
