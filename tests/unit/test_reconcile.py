"""The truth check: what was altered behind Revocast's back is found, in Redis, in the CRLs and in answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from loaders import reconcile
from loaders.reconcile import Comparison, Reconciler, report_lines
from responder import revocation
from responder.cli.app import build_app
from responder.config import load_config
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.published import Published
from responder.issuers import Issuers
from responder.model import CRLReason
from responder.store.layout import Layout
from responder.store.redis_store import Store
from tests.loader_room import AT, EXP, NOW, LoaderRoom, good, revoked
from tests.pki import make_ca, make_leaf
from tests.redis_fixture import RedisServer
from tests.server import Revocast, ca_section, index_line, write_index


@pytest.fixture
def room(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> LoaderRoom:
    return LoaderRoom(tmp_path, redis_server())


def compare(room: LoaderRoom, sleep: Callable[[float], None] = lambda _: None) -> Comparison:
    reconciler = Reconciler(
        room.store, room.config, str(room.config_file), room.issuers, room.issuer, room.clock, sleep=sleep
    )
    return reconciler.run(0, [])


def alter(room: LoaderRoom, serial: str, text: str | None) -> None:
    """Write a status past every rule, as somebody with redis-cli could."""
    octets = bytes.fromhex(serial)
    place = room.store.locate(room.issuer.id, [octets])[0]
    key = room.store.layout.status(room.issuer.id, place.bucket)
    if text is None:
        room.redis.hdel(key, serial)
    else:
        room.redis.hset(key, serial, text)


def test_what_is_equal_is_equal(room: LoaderRoom) -> None:
    """Also what an operator revoked, what the source deleted though it was revoked, and what nobody keeps."""
    rows = [good("01"), revoked("02", "superseded"), revoked("03", "certificateHold"), good("05", "20010101000000Z")]
    room.load(*rows, revoked("04"))
    room.load(*rows)
    revocation.revoke(room.store, room.issuer.id, b"\1", CRLReason.KEY_COMPROMISE, int(NOW), now=NOW)
    result = compare(room)
    assert (result.count, result.rows, result.rejected) == (0, 4, 0)
    assert list(report_lines(result)) == ["corp: compared 4 rows with Redis, 0 answers, 0 CRLs: no differences"]


@pytest.mark.parametrize(
    ("serial", "text", "problem"),
    [
        ("02", f"good {EXP}", f"the source says 'revoked {AT} superseded {EXP}', Redis 'good {EXP}'"),
        ("02", None, "Redis has nothing"),
        ("01", f"revoked {AT} {EXP}", "the source says 'good"),
        ("02", f"revoked 2026-01-03T00:00:00Z superseded {EXP}", "2026-01-03"),
        ("7f", f"good {EXP}", "the source does not list it"),
    ],
)
def test_each_alteration_is_found(room: LoaderRoom, serial: str, text: str | None, problem: str) -> None:
    room.load(good("01"), revoked("02", "superseded"))
    alter(room, serial, text)
    result = compare(room)
    assert [difference.serial_octets.hex() for difference in result.differences] == [serial]
    assert problem in str(result.differences[0])
    assert result.count == 1


def test_what_changes_meanwhile_is_no_difference(room: LoaderRoom) -> None:
    """The second look sees source and Redis as they are then."""
    room.load(good("01"), good("02"))
    room.write(good("01"), revoked("02"))

    def follow(_seconds: float) -> None:
        room.runner().run()

    assert compare(room, follow).count == 0
    room.write(good("01"), revoked("02"), good("03"))
    assert compare(room).count == 1


def test_a_row_that_cannot_be_read_is_no_difference(room: LoaderRoom) -> None:
    room.load(good("01"), good("02"))
    room.write(good("01"), good("02", "nonsense"))
    result = compare(room)
    assert (result.count, result.rejected) == (0, 1)


def test_a_row_that_surely_is_revoked_is_compared(room: LoaderRoom) -> None:
    """Though nobody can read when: good would be wrong."""
    room.load(good("01"), revoked("02"))
    room.write(good("01"), revoked("02", at="nonsense"))
    assert compare(room).count == 0
    alter(room, "02", f"good {EXP}")
    (difference,) = compare(room).differences
    assert "the source says 'revoked " in str(difference)


def publish(room: LoaderRoom, entries: Iterable[tuple[int, str, x509.ReasonFlags | None]], at: float = NOW) -> None:
    """Put a CRL into the depot."""
    when = datetime.fromtimestamp(at, UTC)
    builder = x509.CertificateRevocationListBuilder(room.ca.certificate.subject, when, when + timedelta(days=7))
    builder = builder.add_extension(x509.CRLNumber(7), critical=False)
    for serial, date, reason in entries:
        entry = x509.RevokedCertificateBuilder(serial, datetime.fromisoformat(date))
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    der = builder.sign(room.ca.key, hashes.SHA256()).public_bytes(Encoding.DER)
    depot = Depot(room.directory / "state" / DIRECTORY)
    fresh = depot.fresh("corp")
    fresh.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_bytes(der)
    digest = hashlib.sha256(der).hexdigest()
    depot.put(
        fresh,
        Published(
            "corp",
            room.issuer.id,
            "full",
            7,
            None,
            int(at),
            int(at) + 604_800,
            int(at) + 86_400,
            len(der),
            digest,
            0,
            False,
            "",
        ),
    )


def test_a_crl_that_says_something_else(room: LoaderRoom) -> None:
    """One that is missing, one too many, another date; what was revoked after it is no difference."""
    room.load(good("01"), revoked("02", "superseded"), revoked("03"), revoked("04", at="261231000000Z"), revoked("05"))
    publish(
        room,
        [(1, AT, None), (2, AT, x509.ReasonFlags.superseded), (5, "2026-02-02T00:00:00+00:00", None)],
    )
    result = compare(room)
    assert result.crls == 1
    assert sorted(str(difference) for difference in result.differences) == [
        f"serial 01: CRL: it says '{AT} 0', Redis 'good {EXP}'",
        f"serial 03: CRL: the CRL of 2026-11-18T11:06:40Z does not list it, Redis says 'revoked {AT} {EXP}'",
        f"serial 05: CRL: it says '2026-02-02T00:00:00Z 0', Redis 'revoked {AT} {EXP}'",
    ]


def test_a_small_ca_gives_a_whole_sample_too(room: LoaderRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many certificates are asked for as were ordered, however few buckets there are."""
    room.load(*(good(f"{number:04X}") for number in range(1, 401)))
    asked: list[bytes] = []

    async def note(_self: Reconciler, serials: Iterable[bytes], _place: object, _result: Comparison) -> None:
        asked.extend(serials)

    monkeypatch.setattr(Reconciler, "_compare_answers", note)
    reconciler = Reconciler(room.store, room.config, str(room.config_file), room.issuers, room.issuer, room.clock)
    reconciler.run(100, [("127.0.0.1", 1)])
    assert len(set(asked)) == 100


def test_answers_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole Revocast: exit code 0 as it stands; with a status altered in Redis the served answers contradict it."""
    ca = make_ca(tmp_path / "ca", delegated=True)
    leaves = [make_leaf(ca, host=f"host-{number}.example-shop.com") for number in range(3)]
    index = tmp_path / "index.txt"
    write_index(
        index,
        [
            index_line(leaves[0]),
            index_line(leaves[1]),
            index_line(leaves[2], int(ca.certificate.not_valid_before_utc.timestamp()), "superseded"),
        ],
    )
    with Revocast(tmp_path, [ca_section("corp", ca, index)]) as running:
        for leaf in leaves:
            running.wait_for(leaf, ca, *x509.ocsp.OCSPCertStatus)

        monkeypatch.setattr(reconcile, "LOOK_AGAIN_AFTER_S", 0.05)
        words = ["reconcile", "-c", str(running.config), "--sample", "10"]
        done = CliRunner().invoke(build_app(["reconcile"]), words)
        assert (done.exit_code, done.stdout) == (
            0,
            "corp: compared 3 rows with Redis, 3 answers, 0 CRLs: no differences\n",
        )
        config = load_config(running.config)
        issuer = next(iter(Issuers.from_config(config, str(running.config))))
        with Store.connect(config, "follow") as store:
            octets = leaves[2].certificate.serial_number.to_bytes(21, "big").lstrip(b"\0")
            octets = octets if octets[0] < 0x80 else b"\0" + octets
            place = store.locate(issuer.id, [octets])[0]
            assert place.text is not None
            key = Layout("rc:").status(issuer.id, place.bucket)
            store._link.call(
                "HSET",
                key,
                octets.hex(),
                place.text.replace("superseded", "keyCompromise").replace("revoked 20", "revoked 19"),
            )
        done = CliRunner().invoke(build_app(["reconcile"]), words)
        lines = done.stdout.splitlines()
        assert done.exit_code == 1
        assert [line.partition(": ")[2].partition(": ")[2].partition(":")[0] for line in lines[:-1]] == [
            "Redis",
            "HTTP",
        ]
