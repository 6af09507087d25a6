"""The reader of index.txt, against an obvious slow one, the vectors, and what OpenSSL and Easy-RSA really write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.openssl import IndexLine, OpenSSLLoader, OpenSSLOptions, parse_line, parse_lines, parse_serial
from responder.clock import ManualClock, format_utc
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import REASONS_BY_NAME, CertStatus, CRLReason, Status, serial_from_octets
from tests.loader_reading import NOW, SAMPLES, Read, issuer_of, needs_samples
from tests.pki import PKI, make_ca, make_leaf
from tests.reference.index_txt import Said, read_index
from tests.vectors.catalog import Vector, load_catalog

PRESUMED_AT = "2026-11-20T10:00:00Z"


def open_loader(path: Path, issuer: Issuer, siblings: Sequence[Issuer] = (), **options: object) -> OpenSSLLoader:
    return OpenSSLLoader(OpenSSLOptions(path=path, **options), issuer, siblings, ManualClock(NOW))  # type: ignore[arg-type]


@pytest.fixture
def ca(tmp_path: Path) -> PKI:
    return make_ca(tmp_path / "ca")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index.txt with nothing beside it."""
    path = tmp_path / "index.txt"
    path.write_bytes(b"")
    return path


# --- against the slow reader ---------------------------------------------------------------------------------------


def seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def as_status(said: Said) -> Status:
    """What the slow reader says, as the store's model has it."""
    if said.status in ("good", "released"):
        return Status(CertStatus.GOOD, not_after=seconds(said.not_after))
    presumed = int(datetime.fromisoformat(PRESUMED_AT.replace("Z", "+00:00")).timestamp())
    revoked_at = seconds(said.revoked_at)
    return Status(
        CertStatus.REVOKED,
        not_after=seconds(said.not_after),
        revoked_at=presumed if revoked_at is None else revoked_at,
        reason=CRLReason(said.reason) if said.reason else None,
        invalidity_date=seconds(said.invalidity_date),
    )


def check_against_reference(data: bytes) -> None:
    lines = data.split(b"\n")[:-1]
    batch = parse_lines(lines, 1, "index.txt", PRESUMED_AT)
    expected = read_index(data)
    rows = [(serial_from_octets(octets), Status.from_text(text)) for octets, text in batch.rows]
    assert rows == [
        (said.serial_number, as_status(said))
        for said in expected
        if said.status and not said.doubtful and said.status != "released"
    ]
    released = [(serial_from_octets(octets), Status.from_text(text)) for octets, text in batch.released]
    assert released == [(said.serial_number, as_status(said)) for said in expected if said.status == "released"]
    rejected = [
        (
            int(row.row),
            None if row.serial_octets is None else serial_from_octets(row.serial_octets),
            None if row.presumed is None else Status.from_text(row.presumed),
        )
        for row in batch.rejected
    ]
    assert rejected == [
        (said.number, said.serial_number, as_status(said) if said.status else None)
        for said in expected
        if said.doubtful
    ]
    # The canonical text is what every compare-and-set of the store compares.
    for _, text in [*batch.rows, *batch.released]:
        assert Status.from_text(text).to_text() == text


dates = st.one_of(
    st.datetimes(datetime(1950, 1, 1), datetime(2049, 12, 31)).map(lambda d: d.strftime("%y%m%d%H%M%SZ").encode()),  # noqa: DTZ001
    st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)).map(lambda d: d.strftime("%Y%m%d%H%M%SZ").encode()),  # noqa: DTZ001
    st.sampled_from([b"", b"Z", b"270229000000Z", b"691231235959Z", b"20250102030405", b"2501020304Z", b"never"]),
    st.text("0123456789Z", max_size=16).map(str.encode),
)
keywords = st.sampled_from(
    b" unspecified keyCompromise CACompromise affiliationChanged superseded cessationOfOperation certificateHold "
    b"removeFromCRL holdInstruction keyTime CAkeyTime KEYCOMPROMISE key_time because".split(b" ")
)
revocations = st.one_of(
    st.just(b""),
    dates,
    st.builds(lambda date, word: date + b"," + word, dates, keywords),
    st.builds(lambda date, word, rest: date + b"," + word + b"," + rest, dates, keywords, dates),
    st.binary(max_size=12).map(lambda junk: junk.replace(b"\n", b"")),
)
serials = st.one_of(
    st.binary(min_size=1, max_size=20).map(lambda octets: octets.hex().upper().encode()),
    st.sampled_from([b"", b"00", b"-01", b"-00", b"-FF", b"ABC", b"0x10", b"0A 0B", b"000A", b"--01", b"F" * 258]),
    st.text("0123456789ABCDEFabcdef-", max_size=8).map(str.encode),
)
lines = st.one_of(
    st.builds(
        lambda *columns: b"\t".join(columns),
        st.sampled_from([b"V", b"R", b"E", b"S", b"X", b"", b"VV", b"#V"]),
        dates,
        revocations,
        serials,
        st.sampled_from([b"unknown", b"", b"a\\\tb", b"c\\"]),
        st.sampled_from([b"/CN=x", b"", b"/CN=a\\\tb", b"/CN=a\tb", b"/CN=\xc3\xbc", b"\r"]),
    ),
    st.sampled_from([b"", b"# comment", b"   ", b"V", b"\t\t\t\t\t", b"V\t\t\t\t\t\t", b"\0" * 9]),
    st.binary(max_size=40).map(lambda junk: junk.replace(b"\n", b"")),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(lines, max_size=8))
def test_it_agrees_with_the_slow_reader(lines: list[bytes]) -> None:
    check_against_reference(b"".join(line + b"\n" for line in lines))


USUAL = (
    b"V\t301231235959Z\t\t0A0B\tunknown\t/CN=x\n"
    b"R\t301231235959Z\t260102030405Z,keyTime,20250102030405Z\t80FF\tunknown\t/CN=x\n"
    b"R\t301231235959Z\t260102030405Z,certificateHold\t-7F\tunknown\t/CN=x\n"
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(USUAL) - 1), st.integers(0, 255))
def test_it_agrees_on_any_changed_octet(at: int, octet: int) -> None:
    check_against_reference(USUAL[:at] + bytes([octet]) + USUAL[at + 1 :])


@settings(max_examples=200, deadline=None)
@given(lines)
def test_the_fast_way_is_the_slow_way(line: bytes) -> None:
    """parse_lines takes the usual rows by itself: whatever it takes, parse_line says the same of."""
    batch = parse_lines([line], 7, "index.txt", PRESUMED_AT)
    said = parse_line(line, PRESUMED_AT)
    if batch.rows:
        assert said == IndexLine(*batch.rows[0])
    elif batch.released:
        assert said == IndexLine(*batch.released[0], is_release=True)
    elif batch.rejected:
        (row,) = batch.rejected
        assert said == IndexLine(row.serial_octets, row.presumed, problem=row.reason)
        assert str(row).startswith("index.txt:7: ")
    else:
        assert said is None


# --- vectors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", load_catalog("index", ".txt"), ids=lambda vector: vector.id)
def test_vector(vector: Vector, ca: PKI, index: Path) -> None:
    """Each odd file is read as its catalogue says, and as the slow reader reads it."""
    index.write_bytes(vector.data)
    read = Read(open_loader(index, issuer_of(ca.certificate_path)))
    words = [f"{octets.hex().upper()}={text.split()[0]}" for octets, text in read.rows]
    words += [f"{octets.hex().upper()}=released" for octets, _ in read.released]
    for row in read.rejected:
        serial = "?" if row.serial_octets is None else row.serial_octets.hex().upper()
        words.append(f"rejected={row.row}:{serial}" + (f":{row.presumed.split()[0]}" if row.presumed else ""))
    words.append("whole" if read.whole else "cut")
    assert " ".join(words) == vector.expect
    if read.whole:
        check_against_reference(vector.data)


# --- real files ----------------------------------------------------------------------------------------------------


@needs_samples
def test_the_sample_of_openssl(tmp_path: Path) -> None:
    """Every form of revocation that ``openssl ca`` 3.0 writes, as it wrote it."""
    demo = SAMPLES / "openssl-ca" / "demoCA"
    read = Read(open_loader(demo / "index.txt", issuer_of(demo / "ca.pem")))
    at, until = "2026-11-23T15:46:50Z", "2027-11-23T15:46:"
    assert read.statuses == {
        "0f": f"revoked {at} certificateHold exp={until}47Z",
        "10": f"revoked {at} keyCompromise exp={until}47Z invalid=2025-01-02T03:04:05Z",
        "11": f"revoked {at} cACompromise exp={until}47Z invalid=2025-02-03T04:05:06Z",
        "12": f"revoked {at} exp={until}48Z",
        "13": f"revoked {at} affiliationChanged exp={until}48Z",
        "14": f"revoked {at} superseded exp={until}48Z",
        "16": f"revoked {at} exp={until}49Z",
        "17": f"good exp={until}49Z",
        "18": f"good exp={until}49Z",
        "19": "good exp=2059-10-01T15:46:49Z",
        "1a": "good exp=2021-01-01T00:00:00Z",
    }
    assert [(octets.hex(), text) for octets, text in read.released] == [("15", f"good exp={until}49Z")]
    assert not read.rejected
    assert read.whole


@needs_samples
def test_the_sample_of_openssl_says_what_its_crl_says() -> None:
    """STS-06: serial, time and reason of every revoked row are those of the CRL that the same CA issued."""
    sample = SAMPLES / "openssl-ca"
    read = Read(open_loader(sample / "demoCA" / "index.txt", issuer_of(sample / "demoCA" / "ca.pem")))
    check_against_crl(read, sample / "crl.pem", but_removed={0x15})


@needs_samples
def test_the_sample_of_easy_rsa() -> None:
    """128-bit serials, revoked certificates moved to another folder, years beyond 2050; and the CA's CRL agrees."""
    pki = SAMPLES / "easyrsa3" / "pki"
    read = Read(open_loader(pki / "index.txt", issuer_of(pki / "ca.crt")))
    assert len(read.rows) == 10
    assert not read.rejected
    assert read.statuses["2aa2f5c52d4e6e4a55a6abf7da3748"] == "good exp=2136-05-30T15:45:58Z"
    assert read.statuses["00e94c27ba622caa5f4d5c7ee8c9870b28"].startswith(
        "revoked 2026-11-23T15:45:59Z superseded exp="
    )
    check_against_crl(read, pki / "crl.pem", but_removed=set())
    for folder in (pki / "certs_by_serial", pki / "revoked" / "certs_by_serial"):
        for path in folder.iterdir():
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            octets = parse_serial(path.stem.encode())
            assert serial_from_octets(octets) == certificate.serial_number
            expected = format_utc(certificate.not_valid_after_utc.timestamp())
            assert read.statuses[octets.hex()].endswith(f"exp={expected}")


def check_against_crl(read: Read, path: Path, but_removed: set[int]) -> None:
    crl = x509.load_pem_x509_crl(path.read_bytes())
    listed: dict[int, tuple[int, CRLReason | None]] = {}
    for entry in crl:
        reason = None
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = REASONS_BY_NAME[extension.value.reason.value]
        reason = None if reason is CRLReason.UNSPECIFIED else reason
        listed[entry.serial_number] = (int(entry.revocation_date_utc.timestamp()), reason)
    ours = {}
    for octets, text in read.rows:
        status = Status.from_text(text)
        if status.cert_status is CertStatus.REVOKED:
            ours[serial_from_octets(octets)] = (status.revoked_at, status.reason)
    assert ours == {serial: entry for serial, entry in listed.items() if serial not in but_removed}


def test_what_openssl_writes_now(tmp_path: Path, ca: PKI) -> None:
    """``openssl ca -valid`` and ``-revoke`` of the OpenSSL that is installed: written by it, read by us."""
    demo = tmp_path / "demoCA"
    (demo / "newcerts").mkdir(parents=True)
    (demo / "index.txt").write_bytes(b"")
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=C\n[C]\ndatabase=demoCA/index.txt\nnew_certs_dir=demoCA/newcerts\ndefault_md=sha256\n"
        f"certificate={ca.certificate_path}\nprivate_key={ca.key_path}\nunique_subject=no\n"
    )

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", "ca", "-config", "ca.cnf", *words], cwd=tmp_path, check=True, capture_output=True)

    leaves = [
        make_leaf(ca, serial_number=number) for number in (0x7F, 0x80, 0x1234567890ABCDEF1234567890ABCDEF12345678)
    ]
    for leaf in leaves:
        openssl("-valid", str(leaf.certificate_path))
    openssl("-revoke", str(leaves[0].certificate_path), "-crl_hold", "holdInstructionReject")
    openssl("-revoke", str(leaves[1].certificate_path), "-crl_CA_compromise", "20250102030405Z")
    read = Read(open_loader(demo / "index.txt", issuer_of(ca.certificate_path)))
    assert read.whole
    assert not read.rejected
    words = {octets: text.split() for octets, text in read.rows}
    assert {octets: word[0] for octets, word in words.items()} == {
        leaf.serial_octets: word for leaf, word in zip(leaves, ("revoked", "revoked", "good"), strict=True)
    }
    assert words[leaves[0].serial_octets][2] == "certificateHold"
    assert words[leaves[1].serial_octets][2::2] == ["cACompromise", "invalid=2025-01-02T03:04:05Z"]
    for leaf in leaves:
        not_after = format_utc(leaf.certificate.not_valid_after_utc.timestamp())
        assert f"exp={not_after}" in words[leaf.serial_octets]


def test_what_xca_exports(tmp_path: Path, ca: PKI) -> None:
    """XCA 2.4 writes no reasons, and two digits for the years from 2050 on, which UTCTime reads as 1950 on."""
    (tmp_path / "index.txt").write_text(
        "R\t271123154647Z\t261123154650Z\t0F\tunknown\t/CN=hold\n"
        "V\t271123154649Z\t\t18\tunknown\t/CN=\\xC3\\x83\\xC2\\x9Cn/O=Tab\\x09and slash\\/x\n"
        "V\t591001154649Z\t\t19\tunknown\t/CN=far\n"
        "R\t591001154649Z\t261123154650Z\t1A\tunknown\t/CN=far\n"
        "E\t210101000000Z\t\t1B\tunknown\t/CN=expired\n"
    )
    issuer = replace(issuer_of(ca.certificate_path), not_before=1_700_000_000)
    read = Read(open_loader(tmp_path / "index.txt", issuer))
    assert read.statuses == {
        "0f": "revoked 2026-11-23T15:46:50Z exp=2027-11-23T15:46:47Z",
        "18": "good exp=2027-11-23T15:46:49Z",
        "1b": "good exp=2021-01-01T00:00:00Z",
    }
    good, revoked = read.rejected
    assert "a year from 2050 on takes four digits" in good.reason
    assert (good.serial_octets, good.presumed) == (b"\x19", None)
    assert (revoked.serial_octets, revoked.presumed) == (b"\x1a", "revoked 2026-11-23T15:46:50Z")


# --- the reading itself --------------------------------------------------------------------------------------------

GOOD = b"V\t301231235959Z\t\t%s\tunknown\t/CN=x\n"
REVOKED = b"R\t301231235959Z\t260102030405Z,keyCompromise\t%s\tunknown\t/CN=x\n"


def test_cut_at_every_octet(ca: PKI, index: Path) -> None:
    """Whatever is left of a file: no row that it did not hold, and only what ends a line is taken for whole."""
    data = GOOD % b"0A0B" + REVOKED % b"0C0D" + GOOD % b"-0E" + REVOKED % b"80FF"
    index.write_bytes(data)
    complete = dict(Read(open_loader(index, issuer_of(ca.certificate_path))).rows)
    for end in range(len(data)):
        index.write_bytes(data[:end])
        read = Read(open_loader(index, issuer_of(ca.certificate_path)))
        assert dict(read.rows).items() <= complete.items()
        assert not any(row.presumed for row in read.rejected)
        assert read.whole == (data[:end].endswith(b"\n") or end == 0)


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_a_live_file_is_known_as_of_the_moment_before_its_reading(ca: PKI, index: Path) -> None:
    """TIM-01: never the file's own time, which a touch may move, and never a later one."""
    assert Read(open_loader(index, issuer_of(ca.certificate_path))).as_of == NOW


@pytest.mark.parametrize("options", [{"copy": True}, {"live": False}])
def test_a_copy_is_known_as_of_its_mtime(ca: PKI, index: Path, options: dict[str, bool]) -> None:
    """A copy says what held when it was made; one that is dated ahead of the clock, what holds now."""
    os.utime(index, (NOW - 5000, NOW - 5000))
    loader = open_loader(index, issuer_of(ca.certificate_path), **options)
    assert Read(loader).as_of == NOW - 5000
    assert not loader.follows_clock
    os.utime(index, (NOW + 5000, NOW + 5000))
    assert Read(loader).as_of == NOW


def test_the_fingerprint_is_the_content(ca: PKI, index: Path) -> None:
    loader = open_loader(index, issuer_of(ca.certificate_path))
    index.write_bytes(GOOD % b"0A")
    first, peeked = Read(loader).fingerprint, loader.peek()
    os.utime(index, (1, 1))
    assert loader.peek() != peeked
    assert Read(loader).fingerprint == first
    index.write_bytes(GOOD % b"0B")
    assert Read(loader).fingerprint != first


def test_a_file_that_grows_while_it_is_read_is_not_whole(ca: PKI, index: Path) -> None:
    index.write_bytes(GOOD % b"0A" * 40_000)
    snapshot = open_loader(index, issuer_of(ca.certificate_path)).snapshot()
    batches = snapshot.batches()
    next(batches)
    with index.open("ab") as file:
        file.write(GOOD % b"0B")
    assert sum(len(batch.rows) for batch in batches) > 0
    assert not snapshot.whole


def test_a_rename_while_it_is_read_does_not_disturb(ca: PKI, index: Path, tmp_path: Path) -> None:
    """``openssl ca`` writes a new file and renames it: the reading keeps to the old one, whole."""
    index.write_bytes(GOOD % b"0A" * 40_000)
    snapshot = open_loader(index, issuer_of(ca.certificate_path)).snapshot()
    batches = snapshot.batches()
    first = len(next(batches).rows)
    (tmp_path / "index.txt.new").write_bytes(GOOD % b"0B")
    (tmp_path / "index.txt.new").rename(index)
    assert first + sum(len(batch.rows) for batch in batches) == 40_000
    assert snapshot.whole


def test_rows_and_line_numbers_run_on_over_blocks(ca: PKI, index: Path) -> None:
    """Lines that lie across the borders of blocks are read once and counted once."""
    lines = [GOOD % b"%08X" % number for number in range(1, 60_001)]
    lines[50_000] = b"V\tnever\t\t0A\tunknown\t/CN=x\n"
    index.write_bytes(b"".join(lines))
    read = Read(open_loader(index, issuer_of(ca.certificate_path)))
    assert [serial_from_octets(octets) for octets, _ in read.rows] == [*range(1, 50_001), *range(50_002, 60_001)]
    assert [str(row).split(": ")[0] for row in read.rejected] == [f"{index}:50001"]


def test_a_source_that_is_not_there(ca: PKI, tmp_path: Path) -> None:
    loader = open_loader(tmp_path / "none.txt", issuer_of(ca.certificate_path))
    for attempt in (loader.peek, loader.snapshot):
        with pytest.raises(SourceUnavailable, match=r"none\.txt: cannot be read"):
            attempt()


def test_a_file_without_line_ends_is_no_index(ca: PKI, index: Path) -> None:
    index.write_bytes(b"x" * 3_000_000)
    with pytest.raises(SourceUnavailable, match="not an index"):
        Read(open_loader(index, issuer_of(ca.certificate_path)))


# --- whose certificates --------------------------------------------------------------------------------------------


def issue(ca: PKI, index: Path, *, folder: str = "newcerts", name: str | None = None, revoked: bool = False) -> bytes:
    """Issue a certificate, put it beside the index and into it; returns its serial's octets."""
    leaf = make_leaf(ca)
    stem = f"{leaf.serial_number:X}"
    stem = "0" * (len(stem) % 2) + stem
    target = index.parent / folder
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{name or stem}.pem").write_bytes(leaf.certificate_path.read_bytes())
    with index.open("ab") as file:
        file.write((REVOKED if revoked else GOOD) % (name or stem).encode())
    return leaf.serial_octets


@pytest.fixture
def other(tmp_path: Path) -> PKI:
    """A second generation: the same name, another key."""
    return make_ca(tmp_path / "other", label="ca-g2")


@pytest.mark.parametrize("folder", ["newcerts", "certs_by_serial", "revoked/certs_by_serial"])
def test_the_certificates_beside_it_are_looked_at(ca: PKI, other: PKI, index: Path, folder: str) -> None:
    """An index of another CA is refused as a whole, also where the two have the same name."""
    issue(other, index, folder=folder)
    assert len(Read(open_loader(index, issuer_of(other.certificate_path))).rows) == 1
    with pytest.raises(
        SourceUnavailable, match=r"index\.txt belongs to another CA: the certificate [0-9A-F]+ beside it"
    ):
        Read(open_loader(index, issuer_of(ca.certificate_path)))


def test_one_certificate_of_the_ca_is_enough(ca: PKI, other: PKI, index: Path) -> None:
    """A cross-signed or strange one among them is no harm."""
    issue(other, index)
    issue(ca, index)
    assert len(Read(open_loader(index, issuer_of(ca.certificate_path))).rows) == 2


def test_the_base_of_the_serials_is_checked(ca: PKI, index: Path) -> None:
    """Files named by decimal serials: hexadecimal would take one certificate for another."""
    leaf = make_leaf(ca, serial_number=1010)
    (index.parent / "newcerts").mkdir()
    (index.parent / "newcerts" / "1010.pem").write_bytes(leaf.certificate_path.read_bytes())
    index.write_bytes(GOOD % b"1010")
    with pytest.raises(SourceUnavailable, match="has the serial 3F2: the serials are not hexadecimal"):
        Read(open_loader(index, issuer_of(ca.certificate_path)))


def test_der_files_and_a_folder_of_ones_own(ca: PKI, other: PKI, index: Path, tmp_path: Path) -> None:
    leaf = make_leaf(other, serial_number=0x0A0B)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "0A0B.cer").write_bytes(leaf.certificate_der)
    index.write_bytes(GOOD % b"0A0B")
    issuer = issuer_of(ca.certificate_path)
    assert Read(open_loader(index, issuer)).rows, "nothing beside it: nothing is known against it"
    with pytest.raises(SourceUnavailable, match="another CA"):
        Read(open_loader(index, issuer, certificates=folder))
    with pytest.raises(SourceUnavailable, match="no such directory"):
        Read(open_loader(index, issuer, certificates=tmp_path / "none"))


def test_generations_that_share_an_index_get_their_own_rows(ca: PKI, other: PKI, index: Path) -> None:
    """Rows follow their certificate's signature; a revoked row that nobody can place is everybody's, a good one nobody's."""
    mine = [issue(ca, index), issue(ca, index, revoked=True)]
    theirs = [issue(other, index), issue(other, index, revoked=True)]
    index.write_bytes(
        index.read_bytes() + GOOD % b"0A" + REVOKED % b"0B" + b"R\tbad\t260102030405Z\t0C\tunknown\t/CN=x\n"
    )
    ours, others = issuer_of(ca.certificate_path, "g1"), issuer_of(other.certificate_path, "g2")
    for issuer, sibling, own in ((ours, others, mine), (others, ours, theirs)):
        read = Read(open_loader(index, issuer, [sibling]))
        assert [octets for octets, _ in read.rows] == [*own, b"\x0b"]
        unclear = {row.serial_octets: row for row in read.rejected}
        assert set(unclear) == {b"\x0a", b"\x0c"}
        assert "which of g1, g2 issued it" in unclear[b"\x0a"].reason
        assert unclear[b"\x0c"].presumed == "revoked 2026-01-02T03:04:05Z"


def test_a_certificate_that_comes_later_places_its_row(ca: PKI, other: PKI, index: Path) -> None:
    leaf = make_leaf(ca, serial_number=0x0A0B)
    index.write_bytes(GOOD % b"0A0B")
    loader = open_loader(index, issuer_of(ca.certificate_path), [issuer_of(other.certificate_path)])
    assert not Read(loader).rows
    (index.parent / "newcerts").mkdir()
    (index.parent / "newcerts" / "0A0B.pem").write_bytes(leaf.certificate_path.read_bytes())
    assert len(Read(loader).rows) == 1


def test_a_released_row_is_placed_too(ca: PKI, other: PKI, index: Path) -> None:
    octets = issue(other, index, revoked=True)
    index.write_bytes(index.read_bytes().replace(b"keyCompromise", b"removeFromCRL"))
    ours, others = issuer_of(ca.certificate_path), issuer_of(other.certificate_path)
    assert [serial for serial, _ in Read(open_loader(index, others, [ours])).released] == [octets]
    assert not Read(open_loader(index, ours, [others])).released


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"live": True, "copy": True}, "exclude each other"),
        ({"pathh": "x"}, "Extra inputs"),
        ({"max_shrink": 2}, "less than or equal to 1"),
    ],
)
def test_options_are_checked(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OpenSSLOptions.model_validate({"path": "index.txt", **options})
