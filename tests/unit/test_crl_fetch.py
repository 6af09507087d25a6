"""Fetching CRLs: from files, a real HTTP server and a real directory; what is asked again, and what every failure says."""

from __future__ import annotations

import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from responder.clock import ManualClock
from responder.crl.fetch import Fetched, FetchTerms, Place, open_place
from responder.crl.http_place import MAX_AGE_HEEDED_S
from responder.errors import SourceUnavailable
from tests.crl_made import NOW, make_crl
from tests.pki import PKI
from tests.slapd_fixture import READER, READER_PASSWORD, Slapd
from tests.web_folder import WebFolder, answering, drip, endless

CRL = b"\x30\x03\x02\x01\x07" * 1000  # what is in it is not looked at here
TERMS = FetchTerms(max_bytes=100_000, timeout_s=10, idle_s=5)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def place(where: str | Path, directory: Path, terms: FetchTerms = TERMS) -> Place:
    return open_place(where, terms, directory, ManualClock(NOW))


def fetch_new(one: Place) -> bytes:
    fetched = one.fetch()
    assert isinstance(fetched, Fetched)
    data = fetched.path.read_bytes()
    assert len(data) == fetched.size
    fetched.path.unlink()
    return data


def refusal(one: Place, directory: Path) -> str:
    """Return the one line of a failure, which leaves no file behind."""
    with pytest.raises(SourceUnavailable) as caught:
        one.fetch()
    assert "\n" not in str(caught.value)
    assert not list(directory.glob(".fresh*"))
    return str(caught.value).removeprefix(f"{one.name}: ")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "corp.crl"
    path.write_bytes(CRL)
    os.utime(path, (NOW - 100, NOW - 100))
    one = place(path, tmp_path)
    assert fetch_new(one) == CRL
    assert one.fetch() is None
    path.write_bytes(CRL + b"1")
    os.utime(path, (NOW - 1, NOW - 1))
    assert fetch_new(one) == CRL + b"1"
    path.write_bytes(CRL + b"2")  # within the same tick of the clock, and as long
    os.utime(path, (NOW - 1, NOW - 1))
    assert fetch_new(one) == CRL + b"2"


def test_files_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(TERMS.max_bytes + 1))
    assert refusal(place(tmp_path / "absent", tmp_path), tmp_path) == "cannot be read: No such file or directory"
    assert refusal(place(tmp_path / "empty", tmp_path), tmp_path) == "empty: no CRL"
    assert refusal(place((tmp_path / "large").as_uri(), tmp_path), tmp_path) == (
        "100001 octets; at most 100000 are taken (max_bytes)"
    )
    with pytest.raises(SourceUnavailable, match="gone: No such file"):
        place(tmp_path / "empty", tmp_path / "gone").fetch()


# --- http ------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9110", "13.1.2", "MAY")
def test_an_unchanged_crl_is_not_sent_again(tmp_path: Path, web_folder: WebFolder) -> None:
    """Its ETag and Last-Modified come back in the next question, and the server sends 304 without a body."""
    web_folder.files["/corp.crl"] = CRL
    web_folder.headers["/corp.crl"] = {"Last-Modified": "Wed, 18 Nov 2026 11:00:00 GMT"}
    one = place(f"{web_folder.url}/corp.crl", tmp_path)
    assert fetch_new(one) == CRL
    assert one.fetch() is None
    assert one.fetch() is None
    assert web_folder.said == {("/corp.crl", 200): 1, ("/corp.crl", 304): 2}
    assert "if-none-match" not in web_folder.asked[0]
    assert web_folder.asked[1]["if-modified-since"] == "Wed, 18 Nov 2026 11:00:00 GMT"
    web_folder.files["/corp.crl"] = CRL + b"new"
    assert fetch_new(one) == CRL + b"new"


def test_a_server_without_validators_is_asked_for_all(tmp_path: Path, web_folder: WebFolder) -> None:
    """The same octets once more are no news all the same."""
    web_folder.behaviours["/"] = answering(b"HTTP/1.1 200 OK\r\n\r\n" + CRL)
    one = place(f"{web_folder.url}/", tmp_path)
    assert fetch_new(one) == CRL
    assert one.fetch() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.clause("RFC 9111", "5.2.2.1", "SHOULD")
def test_max_age_is_heeded_within_bounds(tmp_path: Path, web_folder: WebFolder) -> None:
    """What the server says may be kept so long is not asked for sooner, but for an hour at the most."""
    web_folder.files["/a"] = CRL
    one = place(f"{web_folder.url}/a", tmp_path)
    for headers, expected in (
        ({}, 0),
        ({"Cache-Control": "public, max-age=600"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "590"}, 10),
        ({"Cache-Control": "max-age=600", "Age": "700"}, 0),
        ({"Cache-Control": "max-age=600, no-cache"}, 0),
        ({"Cache-Control": "max-age=soon"}, 0),
        ({"Cache-Control": f"max-age={10**30}"}, MAX_AGE_HEEDED_S),
    ):
        web_folder.headers["/a"] = headers
        if (fetched := one.fetch()) is not None:
            fetched.path.unlink()
        assert one.fresh_for_s == expected, headers


def test_redirects_are_followed_within_bounds(tmp_path: Path, web_folder: WebFolder) -> None:
    web_folder.files["/new"] = CRL
    web_folder.behaviours["/old"] = answering(b"HTTP/1.1 301 Moved\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n")
    web_folder.behaviours["/loop"] = answering(b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")
    web_folder.behaviours["/file"] = answering(
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    )
    assert fetch_new(place(f"{web_folder.url}/old", tmp_path)) == CRL
    assert refusal(place(f"{web_folder.url}/loop", tmp_path), tmp_path) == "more than 5 redirects"
    assert len(web_folder.asked) == 2 + 6
    assert "file://" in refusal(place(f"{web_folder.url}/file", tmp_path), tmp_path)


def test_a_server_that_will_not_do_is_told_in_one_line(tmp_path: Path, web_folder: WebFolder) -> None:
    web_folder.behaviours |= {
        "/endless": endless,
        "/large": answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"),
        "/cut": answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + CRL[:4999]),
        "/zip": answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10**7))),
        "/junk": answering(b"220 ftp.example.com ready\r\n"),
        "/empty": answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        "/stale": answering(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    }
    for path, expected in (
        ("/absent", "HTTP status 404 Not Found"),
        ("/endless", "more than the 100000 octets that are taken (max_bytes)"),
        ("/large", "100001 octets; at most 100000 are taken (max_bytes)"),
        ("/cut", "peer closed connection without sending complete message body"),
        ("/zip", "Content-Encoding 'gzip': not asked for, and not taken"),
        ("/junk", "without sending a response"),
        ("/empty", "empty: no CRL"),
        ("/stale", "HTTP status 304 Not Modified"),
    ):
        assert expected in refusal(place(f"{web_folder.url}{path}", tmp_path), tmp_path)


def test_a_server_that_drips_is_left(tmp_path: Path, web_folder: WebFolder) -> None:
    """An octet now and then keeps no connection open: there is a time limit over all."""
    web_folder.behaviours["/drip"] = drip
    one = place(f"{web_folder.url}/drip", tmp_path, replace(TERMS, timeout_s=0.3))
    assert refusal(one, tmp_path) == "not there within 0 s"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = place(f"http://127.0.0.1:{silent.getsockname()[1]}/", tmp_path, replace(TERMS, idle_s=0.2))
        assert refusal(one, tmp_path) == "no answer within 0 s"
    assert "connection attempts failed" in refusal(one, tmp_path)


def test_urls_that_are_none() -> None:
    for url, expected in (
        ("ftp://a/b", "is no http://"),
        ("http://", "names no host"),
        ("http://a:99999/", "is no URL"),
        ("ldap://a:99999/o=b", "is no URL"),
        ("ldap:///CN=a,DC=b?certificateRevocationList", "put a domain controller in"),
        ("ldap://a/o=b?a,b", "one attribute and no critical extension"),
        ("ldap://a/o=b?a??x=y?!z", "one attribute and no critical extension"),
        ("ldap://a/o=b?a?deep", "the scope must be base, one or sub"),
        ("file://elsewhere/x", "is no http://"),
    ):
        with pytest.raises(ValueError, match="://") as caught:
            place(url, Path())
        assert expected in str(caught.value)


def test_a_password_in_a_url_is_not_told(tmp_path: Path, web_folder: WebFolder) -> None:
    one = place(web_folder.url.replace("//", "//reader:secret@") + "/absent", tmp_path)
    assert "secret" not in one.name + refusal(one, tmp_path)
    assert web_folder.asked[0]["authorization"].startswith("Basic ")


# --- ldap ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def crl(pki: Callable[..., PKI]) -> bytes:
    """slapd takes nothing else into these attributes."""
    return make_crl(pki(), [(7, NOW)])


@pytest.fixture
def reader_terms() -> FetchTerms:
    return replace(TERMS, bind_dn=READER, password=lambda: READER_PASSWORD)


@pytest.mark.clause("RFC 5280", "4.2.1.13", "SHOULD")
def test_a_directory_gives_full_and_delta(
    tmp_path: Path, slapd: Slapd, reader_terms: FetchTerms, crl: bytes, pki: Callable[..., PKI]
) -> None:
    """``;binary`` or not, as RFC 4523 and Active Directory have it, any scope, and by an account where it takes one."""
    delta = make_crl(pki(), number=2, base=1)
    public = slapd.put_crl("Corp CA", crl, delta=delta)
    private = slapd.put_crl("Secret CA", crl, public=False)
    for query, expected in (
        ("", crl),
        ("?certificateRevocationList;binary", crl),
        ("?certificateRevocationList?base?objectClass=cRLDistributionPoint", crl),
        ("?deltaRevocationList;binary", delta),
        ("?CERTIFICATEREVOCATIONLIST;binary?sub?(cn=Corp*)", crl),
    ):
        assert fetch_new(place(public + query, tmp_path)) == expected, query
    one = place(private, tmp_path, reader_terms)
    assert fetch_new(one) == crl
    assert one.fetch() is None


def test_a_directory_that_will_not_do(tmp_path: Path, slapd: Slapd, reader_terms: FetchTerms, crl: bytes) -> None:
    public = slapd.put_crl("Corp CA", crl)
    private = slapd.put_crl("Secret CA", crl, public=False)
    wrong = replace(reader_terms, password=lambda: "guess")
    small = replace(TERMS, max_bytes=100)
    dn = "/cn=nobody,ou=public,o=Example"
    for url, terms, expected in (
        (private, TERMS, "noSuchObject"),
        (private, wrong, "invalidCredentials"),
        (f"{slapd.url}{dn}", TERMS, "noSuchObject"),
        (f"{public}?deltaRevocationList;binary", TERMS, "no values of deltaRevocationList;binary"),
        (f"{slapd.url}/ou=public,o=Example?certificateRevocationList?sub", small, "octets that are taken (max_bytes)"),
        (public.replace("ldap:", "ldaps:"), TERMS, "SSL"),
    ):
        assert expected in refusal(place(url, tmp_path, terms), tmp_path)


@pytest.fixture
def silent_directory() -> Iterator[str]:
    """A server that announces a reply of 4 GB and sends some of it, for ever."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x30\x84\xff\xff\xff\xff\x02\x01\x01")
                while True:
                    connection.sendall(bytes(65_536))
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"ldap://127.0.0.1:{server.getsockname()[1]}/o=x"
    server.close()
    thread.join()


def test_a_directory_cannot_fill_the_memory(tmp_path: Path, silent_directory: str) -> None:
    assert "octets (max_bytes)" in refusal(place(silent_directory, tmp_path), tmp_path)
