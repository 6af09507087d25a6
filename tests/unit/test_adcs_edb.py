"""The reader of AD CS database files, on a real one, and on what is made of it: revoked rows, damage, other CAs."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.adcs import AdcsLoader, AdcsOptions
from loaders.adcs_edb import AdcsDatabase
from loaders.adcs_rows import AdcsJudge, AdcsRow
from loaders.base import CursorLost, Incremental, Loader, Row, RowRejected
from loaders.contract_suite import ContractSource, LoaderContract
from loaders.ownership import CertificateOwner
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from responder.model import Status
from tests.edb import Values, with_index_of_dispositions, with_request, with_requests
from tests.loader_reading import NOW, SAMPLES, Read, issuer_of, needs_samples
from tests.loader_room import LoaderRoom
from tests.pki import make_ca
from tests.redis_fixture import RedisServer

SAMPLE = SAMPLES / "adcs-edb" / "SEVENKINGDOMS-CA.edb"
pytestmark = needs_samples
CONSISTENT_AT = 1_761_822_971  # 2025-10-30T11:16:11Z, in the sample's header
STATE_AT = 52  # dbstate in the header
ISSUED = (2, 3, 4, 6, 9, 10, 11)
WHEN, EFFECTIVE = 1_761_000_000, 1_760_000_000


@pytest.fixture(scope="module")
def raw() -> bytes:
    return SAMPLE.read_bytes()


@pytest.fixture(scope="module")
def certificates(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[int, x509.Certificate]:
    """The certificates by RequestID, as the file has them; 1 is the CA's own."""
    with SAMPLE.open("rb") as file:
        found = {}
        for row in AdcsDatabase(SAMPLE, file).rows():
            der = row.certificate()
            if der is not None:
                found[int(row.where.split()[1])] = x509.load_der_x509_certificate(der)
    return found


@pytest.fixture
def ca_file(certificates: dict[int, x509.Certificate], tmp_path: Path) -> Path:
    path = tmp_path / "seven.pem"
    path.write_bytes(certificates[1].public_bytes(Encoding.PEM))
    return path


def loader_of(path: Path, ca_file: Path) -> AdcsLoader:
    return AdcsLoader(AdcsOptions(path=path), issuer_of(ca_file), (), ManualClock(NOW))


def read(raw: bytes, ca_file: Path) -> Read:
    path = ca_file.with_name("copy.edb")
    path.write_bytes(raw)
    return Read(loader_of(path, ca_file))


def of(certificates: dict[int, x509.Certificate], request_id: int) -> str:
    """The serial of a request's certificate, as the store spells it."""
    number = certificates[request_id].serial_number
    return number.to_bytes(number.bit_length() // 8 + 1, "big").hex()


def test_a_real_database_is_read_as_its_certificates_say(
    ca_file: Path, certificates: dict[int, x509.Certificate]
) -> None:
    """Issued requests are good, with the certificates' own serials and expiries; denied ones and the CA's own are not listed."""
    got = Read(loader_of(SAMPLE, ca_file))
    assert got.statuses == {
        of(certificates, one): f"good exp={certificates[one].not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}" for one in ISSUED
    }
    assert not got.rejected
    assert got.whole


def test_a_copy_is_as_old_as_its_header_says(ca_file: Path, raw: bytes, tmp_path: Path) -> None:
    """The mtime of a file that was copied without it lies; it counts where it is the older."""
    path = tmp_path / "copy.edb"
    path.write_bytes(raw)
    assert Read(loader_of(path, ca_file)).as_of == CONSISTENT_AT
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert Read(loader_of(path, ca_file)).as_of == 1_700_000_000


@pytest.mark.parametrize(
    ("reason", "said"), [(0, ""), (1, " keyCompromise"), (6, " certificateHold"), (None, ""), (10, " aACompromise")]
)
def test_revoked_rows_take_the_effective_date(
    reason: int | None, said: str, ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate]
) -> None:
    """RevokedEffectiveWhen is the date that counts; RevokedWhen only where it is empty."""
    changed = with_request(raw, 3, disposition=21, revoked_when=WHEN, effective_when=EFFECTIVE, reason=reason)
    changed = with_request(changed, 9, disposition=21, revoked_when=WHEN, reason=reason)
    got = read(changed, ca_file)
    assert got.statuses[of(certificates, 3)].startswith(f"revoked 2025-10-09T08:53:20Z{said} exp=2026-")
    assert got.statuses[of(certificates, 9)].startswith(f"revoked 2025-10-20T22:40:00Z{said} exp=2026-")
    assert len(got.rows) == len(ISSUED)


def test_a_revocation_dated_ahead_keeps_its_date(
    ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate]
) -> None:
    """AD CS allows it; it takes effect at its time, which is not this reader's business."""
    changed = with_request(raw, 3, disposition=21, revoked_when=WHEN, effective_when=2_000_000_000, reason=4)
    assert read(changed, ca_file).statuses[of(certificates, 3)].startswith("revoked 2033-05-18T03:33:20Z superseded")


def test_the_disposition_alone_decides(ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate]) -> None:
    """After a release from hold dates and reason may stay; the row is issued all the same."""
    changed = with_request(raw, 3, disposition=20, revoked_when=WHEN, effective_when=WHEN, reason=6)
    assert read(changed, ca_file).statuses[of(certificates, 3)].startswith("good exp=")


@pytest.mark.parametrize(
    ("disposition", "listed"), [(8, False), (9, False), (12, True), (15, False), (16, False), (17, True), (30, False)]
)
def test_other_dispositions(
    disposition: int, listed: bool, ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate]
) -> None:
    """A recovery agent's certificate is one of the CA's; a foreign one only where the CA signed it; the rest are none."""
    got = read(with_request(raw, 3, disposition=disposition), ca_file)
    assert (of(certificates, 3) in got.statuses) is listed
    assert not got.rejected


@pytest.mark.parametrize(
    ("values", "problem", "presumed"),
    [
        ({"disposition": 21}, "no date", "revoked 2025-10-30T11:16:11Z exp="),
        ({"disposition": 21, "effective_when": WHEN, "reason": 4000}, "'4000'", "revoked 2025-10-20T22:40:00Z exp="),
        ({"disposition": 21, "effective_when": WHEN, "reason": -1}, "'-1'", "revoked 2025-10-20T22:40:00Z exp="),
        (
            {"disposition": 21, "effective_when": WHEN, "reason": 8},
            "removeFromCRL",
            "revoked 2025-10-20T22:40:00Z exp=",
        ),
        (
            {"disposition": 21, "effective_when": 253_402_300_800, "reason": 1},
            "after 9999",
            "revoked 2025-10-30T11:16:11Z keyCompromise exp=",
        ),
        ({"disposition": 22}, "unknown disposition 22", None),
    ],
)
def test_what_cannot_be_understood_costs_one_row(
    values: dict[str, int],
    problem: str,
    presumed: str | None,
    ca_file: Path,
    raw: bytes,
    certificates: dict[int, x509.Certificate],
) -> None:
    """It is named by its RequestID, keeps its serial, and is presumed revoked where it surely is; the others are read."""
    got = read(with_request(raw, 3, **values), ca_file)  # type: ignore[arg-type]
    (row,) = got.rejected
    assert row.row == "RequestID 3"
    assert problem in row.reason
    assert row.serial_octets is not None
    assert row.serial_octets.hex() == of(certificates, 3)
    assert (row.presumed or "").startswith(presumed or "")
    assert (row.presumed is None) is (presumed is None)
    assert len(got.rows) == len(ISSUED) - 1


@pytest.mark.parametrize("octets", [b"", b"0\x82\x05\xaa" + bytes(64), b"MZ" * 40, bytes(2 << 20)])
def test_a_certificate_that_is_none_costs_one_row(octets: bytes, ca_file: Path) -> None:
    """Its serial stands in the row too, so that nothing is taken for vanished."""
    judge = AdcsJudge("x.edb", CertificateOwner(issuer_of(ca_file)), NOW, looks_always=False)
    item = judge.item(AdcsRow("RequestID 4", 20, "6500aa", 0, 2_000_000_000, certificate=lambda: octets))
    assert isinstance(item, RowRejected)
    assert "RawCertificate: " in item.reason
    assert item.serial_octets == bytes.fromhex("6500aa")


def test_a_row_with_another_rows_serial_is_rejected(
    ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate]
) -> None:
    """The first certificates of a CA are compared with their rows: a serial that differs is not guessed at."""
    wrong = raw.replace(of(certificates, 2).encode(), of(certificates, 2)[:-2].encode() + b"ff")
    if wrong == raw:
        wrong = raw.replace(
            of(certificates, 2).encode("utf-16-le"), (of(certificates, 2)[:-2] + "ff").encode("utf-16-le")
        )
    assert wrong != raw
    (row,) = read(wrong, ca_file).rejected
    assert f"its certificate has {of(certificates, 2)}" in row.reason


def test_another_cas_database_is_refused(tmp_path: Path) -> None:
    """None of its certificates was signed with the configured key."""
    other = make_ca(tmp_path / "other")
    with pytest.raises(SourceUnavailable, match="belongs to another CA: none of its 1 certificates was signed"):
        Read(loader_of(SAMPLE, other.certificate_path))


def test_a_dirty_database_is_refused_with_what_to_do(ca_file: Path, raw: bytes) -> None:
    """Its newest transactions are in log files, which nobody here replays."""
    dirty = raw[:STATE_AT] + struct.pack("<I", 2) + raw[STATE_AT + 4 :]
    with pytest.raises(SourceUnavailable, match=r"not shut down cleanly \(state 2\).*esentutl /r edb"):
        read(dirty, ca_file)


@pytest.mark.parametrize("cut", [0, 8, 667, 4096, 40_000, 500_000])
def test_a_file_that_breaks_off_is_refused(cut: int, ca_file: Path, raw: bytes) -> None:
    """One line says so; nothing of it is believed to be all."""
    with pytest.raises(SourceUnavailable, match=r"copy\.edb: "):
        read(raw[:cut], ca_file)


def test_a_directory_must_hold_one_database(ca_file: Path, raw: bytes, tmp_path: Path) -> None:
    """DataBase of a backup holds it beside its logs."""
    folder = tmp_path / "DataBase"
    folder.mkdir()
    loader = loader_of(folder, ca_file)
    with pytest.raises(SourceUnavailable, match="there are: none"):
        loader.peek()
    (folder / "Corp CA.edb").write_bytes(raw)
    (folder / "tmp.edb").write_bytes(b"")
    (folder / "edb00001.log").write_bytes(b"")
    assert loader.peek().startswith("Corp CA.edb:")
    assert len(Read(loader).rows) == len(ISSUED)


# --- the contract: a real database, of which the rows are changed ---


def serials_of_the_sample() -> dict[bytes, tuple[int, str]]:
    """Of each granted request its certificate's serial → RequestID and expiry, as the store spells it."""
    if not SAMPLE.exists():
        return {}
    found = {}
    with SAMPLE.open("rb") as file:
        for row in AdcsDatabase(SAMPLE, file).rows():
            der, number = row.certificate(), int(row.where.split()[1])
            if der is not None and number in ISSUED:
                one = x509.load_der_x509_certificate(der)
                octets = one.serial_number.to_bytes(one.serial_number.bit_length() // 8 + 1, "big")
                found[octets] = number, f" exp={one.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return found


GRANTED = serials_of_the_sample()
SAID = (
    "revoked 2026-01-02T03:04:05Z certificateHold",  # of a request that was resolved long before the last
    "good",
    "good",
    "revoked 2026-01-02T03:04:05Z keyCompromise",
    "revoked 2026-01-02T03:04:05Z",
    "revoked 2026-01-02T03:04:05Z privilegeWithdrawn",
    "revoked 2027-08-09T10:11:12Z superseded",  # dated ahead
)
ROWS = tuple((serial, text + expiry) for (serial, (_, expiry)), text in zip(GRANTED.items(), SAID, strict=False))


class EdbSource(ContractSource):
    """The sample with other dispositions; a certificate that is not to be there belongs to a request that failed."""

    def __init__(self, folder: Path, raw: bytes, ca: x509.Certificate) -> None:
        self.path, self.ca_file, self.raw = folder / "copy.edb", folder / "ca.pem", raw
        self.ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
        self.ca_certificate_der = ca.public_bytes(Encoding.DER)
        self.copies = 0

    def open(self) -> Loader:
        return loader_of(self.path, self.ca_file)

    def write(self, rows: Sequence[Row]) -> None:
        self.put({GRANTED[serial][0]: Status.from_text(text) for serial, text in rows}, {})

    def put(self, statuses: dict[int, Status], odd: dict[int, Values]) -> None:
        values: dict[int, Values] = {number: (30, None, None, None) for number, _ in GRANTED.values()}
        for number, status in statuses.items():
            is_good = status.revoked_at is None
            values[number] = (20, None, None, None) if is_good else (21, WHEN, status.revoked_at, status.reason)
        values |= odd
        raw = with_requests(self.raw, values)
        raw = with_index_of_dispositions(raw, {number: one[0] for number, one in values.items()})
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(raw)
        self.copies += 1
        os.utime(fresh, (NOW - 1000 + self.copies, NOW - 1000 + self.copies))
        fresh.rename(self.path)

    def write_hostile(self, rows: Sequence[Row]) -> int:
        # Certificates that nobody was granted, and a disposition and a reason that nobody knows.
        (held,) = (number for serial, (number, _) in GRANTED.items() if serial not in dict(rows))
        odd = {
            5: (20, None, None, None),
            7: (63, None, None, None),
            8: (21, None, WHEN, 1),
            held: (21, None, WHEN, 4000),
        }
        self.put({GRANTED[serial][0]: Status.from_text(text) for serial, text in rows}, odd)
        return len(odd)

    def take_away(self) -> None:
        self.path.unlink()


class TestAdcs(LoaderContract):
    rows = ROWS[1:]
    hold = ROWS[0] if ROWS else None

    @pytest.fixture
    def source(self, tmp_path: Path, raw: bytes, certificates: dict[int, x509.Certificate]) -> EdbSource:
        return EdbSource(tmp_path, raw, certificates[1])


# --- what changed, by the database's own indexes ---


def changed(loader: AdcsLoader, cursor: str) -> tuple[dict[str, str], str]:
    changes = loader.changes(cursor)
    rows = {octets.hex(): text for batch in changes.batches() for octets, text in batch.rows}
    return rows, changes.cursor


def test_a_new_copy_is_read_by_its_indexes(
    ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate], tmp_path: Path
) -> None:
    """New requests, those resolved lately, all that are revoked, and what was: a release from hold is among it."""
    path = tmp_path / "copy.edb"
    path.write_bytes(raw)
    loader = loader_of(path, ca_file)
    assert isinstance(loader, Incremental)
    snapshot = loader.snapshot()
    list(snapshot.batches())
    cursor = snapshot.cursor
    assert changed(loader, cursor) == ({}, cursor)  # the same copy
    held = with_request(raw, 11, disposition=21, revoked_when=WHEN, effective_when=EFFECTIVE, reason=6)
    path.write_bytes(with_index_of_dispositions(held, {11: 21}))
    rows, cursor = changed(loader, cursor)
    assert rows[of(certificates, 11)].startswith("revoked 2025-10-09T08:53:20Z certificateHold exp=")
    assert set(rows) <= {of(certificates, one) for one in (6, 9, 10, 11)}  # what was resolved in the last ten minutes
    # A request that was resolved long ago, and revoked with a date of long ago, is found by its disposition.
    old = cursor.split("|", 4)
    path.write_bytes(raw + bytes(4096))
    rows, _ = changed(loader, "|".join([*old[:2], str(2_000_000_000), *old[3:]]))
    assert rows == {of(certificates, 11): rows[of(certificates, 11)]}  # released: it was revoked before
    assert rows[of(certificates, 11)].startswith("good exp=")
    rows, _ = changed(loader_of(path, ca_file), "|".join([old[0], "9", str(2_000_000_000), *old[3:]]))
    assert set(rows) == {of(certificates, one) for one in (10, 11)}  # later requests


def test_what_was_revoked_in_the_copy_before_is_looked_at_again(
    ca_file: Path, certificates: dict[int, x509.Certificate]
) -> None:
    """Nothing else would tell of a release from hold: neither its RequestID nor its dates change."""
    loader = loader_of(SAMPLE, ca_file)
    loader._revoked = frozenset({2})
    rows, _ = changed(loader, "1|11|2000000000|0|another copy")
    assert of(certificates, 2) in rows
    assert len(rows) <= 2  # an index's last entry is looked at too


def test_an_older_copy_is_not_read_as_news(ca_file: Path) -> None:
    """It has the same requests, and knows nothing of what was revoked since."""
    with pytest.raises(CursorLost):
        loader_of(SAMPLE, ca_file).changes("1|1|0|1900000000|a newer copy")


def test_a_copy_that_is_written_while_it_is_read_is_refused(ca_file: Path, raw: bytes, tmp_path: Path) -> None:
    """Parts of two copies are neither; the next look reads the whole one."""
    path = tmp_path / "copy.edb"
    path.write_bytes(raw)
    loader = loader_of(path, ca_file)
    for reading in (loader.snapshot(), loader.changes("1|1|0|0|another copy")):
        with path.open("ab") as file:
            file.write(bytes(4096))
        with pytest.raises(SourceUnavailable, match="was written while it was read"):
            list(reading.batches())


@pytest.mark.parametrize("cursor", ["", "1|2", "0|1|2|3|x", "1|a|2|3|x", "1|900|2|3|x"])
def test_a_cursor_that_says_nothing_asks_for_all(cursor: str, ca_file: Path) -> None:
    """Another version's, damaged, or of a newer copy than this one."""
    with pytest.raises(CursorLost):
        loader_of(SAMPLE, ca_file).changes(cursor)


@pytest.fixture(scope="module")
def fuzz_dir(tmp_path_factory: pytest.TempPathFactory, certificates: dict[int, x509.Certificate]) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "ca.pem").write_bytes(certificates[1].public_bytes(Encoding.PEM))
    return folder


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 254), st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=12))
def test_damage_ends_in_one_line_or_in_rows(fuzz_dir: Path, raw: bytes, changes: list[tuple[int, int, int]]) -> None:
    """Whatever octets are changed: rows, rejected rows, or a SourceUnavailable of one line; nothing else, and it ends."""
    damaged = bytearray(raw)
    used = [at for at in range(0, len(raw), 4096) if any(raw[at : at + 64])]
    for page, offset, value in changes:
        damaged[used[page % len(used)] + offset] = value
    path = fuzz_dir / "damaged.edb"
    path.write_bytes(damaged)
    try:
        loader = loader_of(path, fuzz_dir / "ca.pem")
        got = Read(loader)
        list(loader.changes("1|0|0|0|x").batches())
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
        assert len(got.rows) + len(got.rejected) <= 11
    assert "\n" not in said


def test_copies_come_into_the_store(
    ca_file: Path, raw: bytes, certificates: dict[int, x509.Certificate], redis_server: Callable[..., RedisServer]
) -> None:
    """A whole pass, then a newer copy by its changes alone: a hold, and its release."""
    room = LoaderRoom(ca_file.parent, redis_server(), ManualClock(CONSISTENT_AT + 100_000))
    text = room.config_file.read_text().replace('certificate = "ca.pem"', f'certificate = "{ca_file.name}"')
    room.config_file.write_text(
        text.replace('type = "openssl", path = "index.txt"', 'type = "adcs", path = "copy.edb"')
    )
    path, serial = ca_file.with_name("copy.edb"), of(certificates, 11)
    path.write_bytes(raw)
    runner = room.runner()
    report = runner.run()
    assert report.settled
    assert report.as_of == CONSISTENT_AT
    assert len(room.statuses()) == len(ISSUED)
    held = with_request(raw, 11, disposition=21, revoked_when=WHEN, effective_when=EFFECTIVE, reason=6)
    path.write_bytes(with_index_of_dispositions(held, {11: 21}))
    assert runner.changes().done.changes == {"revoked": 1}
    assert room.statuses()[serial].startswith("revoked 2025-10-09T08:53:20Z certificateHold")
    path.write_bytes(raw + bytes(4096))
    assert runner.changes().done.changes == {"released": 1}
    assert room.statuses()[serial].startswith("good")
