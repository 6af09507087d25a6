"""Directories of certificates: forms, bundles, other CAs' certificates, and what is none."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loaders.certdir import CertDirLoader, CertDirOptions
from loaders.runner import CONFIRM_AFTER_S
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from responder.revocation import apply
from tests.loader_reading import NOW, SAMPLES, Read, issuer_of, needs_samples
from tests.loader_room import LoaderRoom
from tests.pki import PKI, Leaf, make_ca, make_leaf
from tests.redis_fixture import RedisServer

EXPIRES = 1_900_000_000
GOOD = "good exp=2030-03-17T17:46:40Z"


class Tree:
    """A CA, five certificates, and a directory that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.ca: PKI = make_ca(folder / "ca")
        self.path = folder / "issued"
        self.path.mkdir()
        self.leaves: list[Leaf] = [make_leaf(self.ca, serial_number=at, not_after=EXPIRES) for at in range(1, 6)]
        self.clock = ManualClock(NOW)

    def loader(self, **options: object) -> CertDirLoader:
        made = CertDirOptions.model_validate({"path": self.path, **options}, context={"base": self.path.parent})
        return CertDirLoader(made, issuer_of(self.ca.certificate_path), (), self.clock)

    def put(self, name: str, data: bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def pem(self, at: int) -> bytes:
        return self.leaves[at].certificate.public_bytes(Encoding.PEM)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_every_form_is_read(tree: Tree) -> None:
    """PEM, DER, several in one file with text between, PKCS #7 as PEM and DER; the CA's own certificate is not listed."""
    tree.put("a/one.pem", b"Certificate:\n    Data:\n" + tree.pem(0))
    tree.put("a/b/two.DER", tree.leaves[1].certificate_der)
    tree.put("chain.crt", tree.pem(2) + b"\n# the CA\n" + tree.ca.certificate.public_bytes(Encoding.PEM))
    tree.put("four.p7b", serialize_certificates([tree.leaves[3].certificate, tree.ca.certificate], Encoding.DER))
    tree.put("five.p7c", serialize_certificates([tree.leaves[4].certificate], Encoding.PEM))
    tree.put("notes.txt", b"not looked at")
    got = Read(tree.loader())
    # A root signs its own certificate: that is one of its certificates too.
    root = f"{tree.ca.certificate.serial_number:x}"
    statuses = {serial: text for serial, text in got.statuses.items() if serial.lstrip("0") != root}
    assert statuses == {f"{at:02x}": GOOD for at in range(1, 6)}
    assert not got.rejected
    assert got.whole
    assert got.as_of == NOW


def test_what_is_no_certificate_costs_one_row(tree: Tree, tmp_path: Path) -> None:
    """Each file is named; pipes and dead links are passed over; the rest is read."""
    tree.put("a.pem", tree.pem(0))
    tree.put("b.der", b"")
    tree.put("c.der", b"\x30\x82\xff\xff" + bytes(50))
    tree.put("d.pem", tree.pem(1)[:200])
    tree.put("e.pem", tree.pem(2) + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    tree.put("f.p7b", b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02")
    v2 = tree.leaves[0].certificate_der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01")
    tree.put("v2.der", v2)
    tree.put(
        "v2.p7b",
        serialize_certificates([tree.leaves[0].certificate], Encoding.DER).replace(tree.leaves[0].certificate_der, v2),
    )
    tree.put("v2.pem", b"-----BEGIN CERTIFICATE-----\n" + b64encode(v2) + b"\n-----END CERTIFICATE-----\n")
    os.mkfifo(tree.path / "g.pem")
    (tree.path / "h.pem").symlink_to(tmp_path / "gone.pem")
    (tree.path / "loop").symlink_to(tree.path)
    got = Read(tree.loader())
    assert got.statuses == {"01": GOOD, "03": GOOD}
    assert sorted(row.row.rpartition("/")[2] for row in got.rejected) == [
        "b.der",
        "c.der",
        "d.pem",
        "e.pem, certificate 2",
        "f.p7b",
        "v2.der",
        "v2.p7b",
        "v2.pem",
    ]


def test_certificates_of_other_cas_are_not_listed(tree: Tree, tmp_path: Path) -> None:
    """A directory with none of ours is refused; an empty one is empty."""
    other = make_ca(tmp_path / "other", label="other")
    assert not Read(tree.loader()).rows
    tree.put("x.pem", make_leaf(other, serial_number=7).certificate.public_bytes(Encoding.PEM))
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        Read(tree.loader())
    tree.put("y.pem", tree.pem(0))
    assert Read(tree.loader()).statuses == {"01": GOOD}


def test_a_change_in_any_directory_is_seen(tree: Tree) -> None:
    """peek asks each directory's mtime, and waits till that is long enough ago to be trusted."""
    tree.put("a/b/one.pem", tree.pem(0))
    tree.clock.step(2**33)
    loader = tree.loader()
    Read(loader)
    before = loader.peek()
    assert loader.peek() == before
    tree.put("a/b/two.pem", tree.pem(1))
    os.utime(tree.path / "a" / "b", (NOW, NOW))
    assert loader.peek() != before


def test_without_the_directory_nothing_is_read(tree: Tree) -> None:
    """One line."""
    tree.path.rmdir()
    for act in (tree.loader().peek, tree.loader().snapshot):
        with pytest.raises(SourceUnavailable, match="issued: "):
            act()


@needs_samples
def test_a_real_directory() -> None:
    """What openssl ca put into newcerts."""
    demo = SAMPLES / "openssl-ca" / "demoCA"
    made = CertDirOptions.model_validate({"path": demo / "newcerts"}, context={"base": demo})
    got = Read(CertDirLoader(made, issuer_of(demo / "ca.pem"), (), ManualClock(NOW)))
    assert len(got.rows) == len(list((demo / "newcerts").iterdir()))
    assert not got.rejected


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["pem", "der", "p7b"]), st.lists(st.tuples(st.integers(0, 1500), st.binary(max_size=3)), max_size=4)
)
def test_damage_costs_rows(tree: Tree, suffix: str, changes: list[tuple[int, bytes]]) -> None:
    """Whatever octets are changed: a row, a rejected row, or another CA's certificate."""
    made = {
        "pem": tree.pem(0),
        "der": tree.leaves[0].certificate_der,
        "p7b": serialize_certificates([tree.leaves[0].certificate], Encoding.DER),
    }[suffix]
    data = bytearray(made)
    for at, octets in changes:
        data[at % len(data) : at % len(data) + len(octets)] = octets
    tree.put(f"x.{suffix}", bytes(data))
    tree.put("y.pem", tree.pem(1))
    got = Read(tree.loader())
    assert "02" in got.statuses
    assert len(got.rows) + len(got.rejected) <= 4
    (tree.path / f"x.{suffix}").unlink()


def test_a_file_that_was_tidied_away_does_not_undo_the_issuing(
    tmp_path: Path, redis_server: Callable[..., RedisServer]
) -> None:
    """Its certificate stays known, however often the directory is read; and no file makes a revoked one good."""
    room = LoaderRoom(tmp_path, redis_server())
    folder = tmp_path / "issued"
    folder.mkdir()
    for number in (1, 2, 3):
        leaf = make_leaf(room.ca, serial_number=number, not_after=EXPIRES)
        (folder / f"{number}.der").write_bytes(leaf.certificate_der)
    text = room.config_file.read_text().replace(
        'type = "openssl", path = "index.txt"', 'type = "certdir", path = "issued"'
    )
    room.config_file.write_text(text)
    runner = room.runner()
    assert runner.run().listed == 3
    apply(
        room.store,
        room.issuer.id,
        [(b"\x02", "revoked 2026-01-02T03:04:05Z certificateHold")],
        signal="operator",
        now=NOW,
    )
    (folder / "1.der").unlink()
    for _ in range(3):
        room.pass_time(CONFIRM_AFTER_S)
        runner.run()
    found = room.statuses()
    assert sorted(found) == ["01", "02", "03"]
    assert found["02"].startswith("revoked")
