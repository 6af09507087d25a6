"""CRLs and CA certificates over HTTP: names, fields and freshness; and downloads while CRLs are replaced."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from responder.clock import ManualClock, format_utc
from responder.config import Config, load_config
from responder.crl import endpoint as endpoint_module
from responder.crl.depot import Depot
from responder.crl.endpoint import MOST_FRESH_S, CRLEndpoint
from responder.crl.published import Published
from responder.errors import ConfigError
from responder.http.message import Request, Response, http_date
from responder.http.routes import Routes
from responder.issuers import Issuers
from responder.roles.health import crl_problem
from tests.components import need
from tests.http_room import ask, read_all, serving, until
from tests.http_wire import NOW, EchoHandler, EmptyLane, Reply, Wire, get, parse_replies, post
from tests.pki import PKI, utc
from tests.unit.test_http_files import open_files

DAY_S = 86_400
URL = "http://crl.example.com/CertEnroll/Corp+CA.crl"


@dataclass
class Room:
    """A depot, what serves it, and CRLs of one CA: ``corp`` issues in one piece, ``parts`` in three."""

    ca: PKI
    config: Config
    directory: Path
    shm: Path

    def __post_init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.issuers = Issuers.from_config(self.config, "revocast.toml")
        self.depot = Depot(self.shm / "crl")
        self.queries = EchoHandler()
        self.endpoint = CRLEndpoint(self.issuers, self.depot, self.clock)
        self.handler = Routes(self.queries, self.endpoint)

    def crl(self, number: int, padding: int = 0) -> bytes:
        """Make a CRL; ``padding`` octets more than it needs."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ca.certificate.subject)
            .last_update(utc(NOW - DAY_S + number))
            .next_update(utc(NOW + 7 * DAY_S))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(padding)), critical=False)
        )
        return builder.sign(self.ca.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def publish(self, number: int = 1, body: bytes | None = None, **terms: Any) -> Published:
        """Put a CRL, or some octets, into the depot."""
        body = b"CRL number %d" % number if body is None else body
        ca = terms.pop("ca", "corp")
        issuer = self.issuers.by_name(ca)
        assert issuer is not None
        published = Published(
            ca=ca,
            ca_id=issuer.id,
            slot="full",
            number=number,
            base_number=None,
            this_update=NOW - 600,
            next_update=NOW + 7 * DAY_S,
            next_publication=NOW + 3_600,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            entries=0,
            shares_date=False,
            file="",
        )
        fresh = self.depot.fresh(ca)
        fresh.write_bytes(body)
        return self.depot.put(fresh, replace(published, **terms))

    def get(self, target: bytes, method: bytes = b"GET", **fields: bytes) -> Response:
        """Return the response to a request, without sending it."""
        request = Request(method, target, **fields)
        replies: list[Response] = []
        self.handler.handle(request, replies.append)
        return replies[0].for_request(request, int(self.clock.now()))

    def fields(self, target: bytes, **fields: bytes) -> dict[str, str]:
        """Return the fields of the response to a GET."""
        response = self.get(target, **fields)
        (reply,) = parse_replies(response.head(int(self.clock.now())) + b"\r\n", [b"HEAD"])
        assert reply.status == response.status
        return reply.fields

    def body(self, target: bytes) -> bytes:
        """Return the content of a GET's 200."""
        response = self.get(target)
        assert response.status == 200, target
        file = getattr(response, "file", None)
        return response.body if file is None else os.pread(file.fd, file.size, 0)


@pytest.fixture
def room(tmp_path: Path, pki: Callable[..., PKI]) -> Iterator[Room]:
    ca, other = pki("p256", None), pki("rsa2048", None)
    key = f'key = "{ca.key_path}"'
    config = tmp_path / "revocast.toml"
    config.write_text(
        f"""
        [[ca]]
        name = "corp"
        certificate = "{ca.certificate_path}"
        source = {{ type = "openssl", path = "index.txt" }}
        ocsp = {{ {key} }}
        crl = {{ issue = true, {key}, delta_every = "1h", url = "{URL}" }}
        [[ca]]
        name = "parts"
        certificate = "{other.certificate_path}"
        source = {{ type = "openssl", path = "index.txt" }}
        ocsp = {{ key = "{other.key_path}" }}
        crl = {{ issue = true, key = "{other.key_path}", shards = 3, url = "http://crl.example.com/p/{{shard}}.crl" }}
        """
    )
    # Where memory is a disk: a thousand publications, each brought to a real one, would take minutes.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as shm:
        yield Room(ca, load_config(config), tmp_path, Path(shm))


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "4.2.1.13", "MUST")
@pytest.mark.parametrize(
    ("target", "ca", "slot"),
    [
        (b"/crl/corp.crl", "corp", "full"),
        (b"/CertEnroll/Corp+CA.crl", "corp", "full"),
        (b"/crl/corp-delta.crl", "corp", "delta"),
        (b"/CertEnroll/Corp+CA-delta.crl", "corp", "delta"),
        (b"/crl/parts/0.crl", "parts", "0"),
        (b"/p/2.crl", "parts", "2"),
        (b"/crl/parts/2-delta.crl", "parts", "2-delta"),
    ],
)
def test_names(room: Room, target: bytes, ca: str, slot: str) -> None:
    """DST-01: each name is one CRL, in DER and under its own media type; so is the path that certificates name."""
    room.publish(ca=ca, slot=slot, body=b"this one")
    assert room.body(target) == b"this one"
    assert room.fields(target)["content-type"] == "application/pkix-crl"


@pytest.mark.parametrize(
    "target",
    [
        b"/crl/other.crl",
        b"/crl/corp/0.crl",
        b"/crl/parts.crl",
        b"/crl/parts/3.crl",
        b"/crl/parts/00.crl",
        b"/crl/parts/0-delta.crl",
        b"/crl/corp.crl?x",
        b"/crl/corp.crl/",
        b"/crl/corp",
        b"/crl/",
        b"/crl/../corp.crl",
        b"/crl/corp/../../revocast.toml",
        b"/crl/corp/full.json",
        b"/crl/%63orp.crl",
        b"/crl//corp.crl",
        b"/ca/corp.crl",
        b"/ca/other.cer",
        b"/ca/",
    ],
)
def test_no_such_name(room: Room, target: bytes) -> None:
    """404, which nobody may keep, for names that the configuration does not give; nothing of a path is interpreted."""
    room.publish()
    assert room.get(target).status == 404
    assert room.fields(target)["cache-control"] == "no-store"
    assert not room.queries.requests


@pytest.mark.parametrize(
    "request_octets",
    [
        post(b"q"),
        get(b"/MEIwQDA+MDwwOjAJBgUrDgMCGgUA"),
        get(b"/cr.crl"),
        get(b"/"),
    ],
)
def test_queries_stay_queries(room: Room, request_octets: bytes) -> None:
    """Whatever is no name of a file goes to the OCSP endpoint, as it was."""
    room.publish()
    Wire(room.handler).send(request_octets)
    assert len(room.queries.requests) == 1


def test_post_is_a_query(room: Room) -> None:
    """Of a POST the body alone decides, also under a CRL's name."""
    room.get(b"/crl/corp.crl", method=b"POST")
    assert len(room.queries.requests) == 1


def test_not_yet(room: Room) -> None:
    """A CRL that the configuration promises and that is not there yet gets 503, and when to ask again."""
    for target in (b"/crl/corp.crl", b"/crl/corp-delta.crl", b"/CertEnroll/Corp+CA.crl", b"/crl/parts/1.crl"):
        assert room.get(target).status == 503
        assert room.fields(target)["retry-after"] == "10"
    room.publish()
    assert room.get(b"/crl/corp.crl").status == 200


def test_of_another_key(room: Room) -> None:
    """A CRL that an earlier key of the CA's name signed is not served for the key that has the name now."""
    room.publish(ca_id="0" * 16)
    assert room.get(b"/crl/corp.crl").status == 503


def test_ambiguous_url(room: Room) -> None:
    """A path that two CRLs' URLs share is served for neither; their own names are."""
    corp, parts = room.config.ca
    same = parts.model_copy(update={"crl": corp.crl})
    issuers = Issuers.from_config(room.config.model_copy(update={"ca": [corp, same]}), "revocast.toml")
    room.publish()
    endpoint = CRLEndpoint(issuers, room.depot, room.clock)
    assert not endpoint.owns(b"/CertEnroll/Corp+CA.crl")
    assert endpoint.owns(b"/crl/corp.crl")


def test_delta_is_no_name(room: Room) -> None:
    """A CA whose name would be another's delta CRL is refused."""
    text = (room.directory / "revocast.toml").read_text().replace('"parts"', '"corp-delta"')
    (room.directory / "revocast.toml").write_text(text)
    with pytest.raises(ConfigError, match="and -delta: corp-delta"):
        load_config(room.directory / "revocast.toml")


@pytest.mark.clause("RFC 5280", "4.2.2.1", "MUST")
def test_ca_certificate(room: Room) -> None:
    """AIA caIssuers: the certificate in DER, kept for a day, with preconditions."""
    assert room.body(b"/ca/corp.cer") == room.ca.certificate_der
    fields = room.fields(b"/ca/corp.cer")
    assert fields["content-type"] == "application/pkix-cert"
    assert fields["cache-control"] == "max-age=86400, public, no-transform, must-revalidate"
    not_before = int(room.ca.certificate.not_valid_before_utc.timestamp())
    assert fields["last-modified"].encode() == http_date(min(not_before, NOW))
    assert room.get(b"/ca/corp.cer", if_none_match=fields["etag"].encode()).status == 304


# --- what is said of a CRL ------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9110", "8.8.2", "SHOULD")
@pytest.mark.clause("RFC 9110", "8.8.3", "SHOULD")
def test_fields(room: Room) -> None:
    """DST-01, DST-02, DST-04: exact type and length, a strong tag, thisUpdate; no coding of any kind."""
    published = room.publish()
    fields = room.fields(b"/crl/corp.crl")
    assert fields == {
        "date": http_date(NOW).decode(),
        "content-type": "application/pkix-crl",
        "content-length": str(published.size),
        "accept-ranges": "bytes",
        "last-modified": http_date(NOW - 600).decode(),
        "etag": f'"{published.sha256}"',
        "expires": http_date(NOW + 3_600).decode(),
        "cache-control": "max-age=3600, public, no-transform, must-revalidate",
    }
    assert room.get(b"/crl/corp.crl", b"HEAD").status == 200
    assert room.get(b"/crl/corp.crl", if_none_match=fields["etag"].encode()).status == 304
    assert room.get(b"/crl/corp.crl", if_modified_since=http_date(NOW - 600)).status == 304
    assert room.get(b"/crl/corp.crl", range_field=b"bytes=0-9").status == 206


@pytest.mark.clause("RFC 9111", "4.2.1", "MUST")
@pytest.mark.parametrize(
    ("next_publication", "next_update", "max_age"),
    [
        (NOW + 1_800, NOW + DAY_S, 1_800),
        (NOW + 12 * 3_600, NOW + DAY_S, MOST_FRESH_S),
        (NOW + 1_800, NOW + 60, 59),
        (NOW + 1_800, None, 1_800),
        (NOW - 5, NOW + DAY_S, 0),
        (NOW + 1_800, NOW - 5, 0),
    ],
)
def test_freshness(room: Room, next_publication: int, next_update: int | None, max_age: int) -> None:
    """DST-03: until the next publication, for some hours at most, and never up to nextUpdate. A CRL that is over is served."""
    room.publish(next_publication=next_publication, next_update=next_update)
    assert room.fields(b"/crl/corp.crl")["cache-control"].startswith(f"max-age={max_age}, ")
    assert room.body(b"/crl/corp.crl") == b"CRL number 1"


def test_shared_date(room: Room) -> None:
    """A CRL that has its predecessor's thisUpdate is told from it by its tag alone."""
    room.publish()
    old = room.fields(b"/crl/corp.crl")
    room.publish(2, shares_date=True)
    date, tag = old["last-modified"].encode(), old["etag"].encode()
    assert room.get(b"/crl/corp.crl", if_modified_since=date).status == 200
    assert room.get(b"/crl/corp.crl", if_none_match=tag).status == 200
    assert room.get(b"/crl/corp.crl", range_field=b"bytes=5-", if_range=date).status == 200
    assert room.fields(b"/crl/corp.crl")["last-modified"] == old["last-modified"]


# --- the depot under it ---------------------------------------------------------------------------------------------


def test_looks_cheaply(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request costs one stat once the manifest has settled; before, the manifest is read too, as times may mislead."""
    room.publish()
    opened: list[str] = []
    real = Depot.open
    monkeypatch.setattr(Depot, "open", lambda self, ca, slot: opened.append(slot) or real(self, ca, slot))
    room.body(b"/crl/corp.crl")
    room.body(b"/crl/corp.crl")
    assert len(opened) == 2
    os.utime(room.depot.manifest("corp", "full"), (NOW - DAY_S * 365, NOW - DAY_S * 365))
    for _ in range(10):
        room.body(b"/crl/corp.crl")
    assert len(opened) == 3
    room.publish(2)
    assert room.body(b"/crl/corp.crl") == b"CRL number 2"


def test_bounded_descriptors(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many CRLs the ones opened last stay open; all of them are served."""
    monkeypatch.setattr(endpoint_module, "MOST_OPEN", 2)
    for shard in range(3):
        room.publish(ca="parts", slot=str(shard), body=b"%d" % shard)
        os.utime(room.depot.manifest("parts", str(shard)), (NOW - DAY_S * 365,) * 2)
    for _ in range(2):
        assert [room.body(b"/crl/parts/%d.crl" % shard) for shard in range(3)] == [b"0", b"1", b"2"]
    assert open_files(room.shm) == 2


def test_damaged_manifest(room: Room) -> None:
    """What is open is served on while its manifest cannot be read; without any, 503. A removed one is not served."""
    room.publish()
    assert room.body(b"/crl/corp.crl") == b"CRL number 1"
    manifest = room.depot.manifest("corp", "full")
    manifest.write_text("{")
    assert room.body(b"/crl/corp.crl") == b"CRL number 1"
    assert CRLEndpoint(room.issuers, room.depot, room.clock)._crl(room.endpoint._slots[b"/crl/corp.crl"]).status == 200
    room.endpoint = CRLEndpoint(room.issuers, room.depot, room.clock)
    room.handler = Routes(room.queries, room.endpoint)
    assert room.get(b"/crl/corp.crl").status == 503
    manifest.unlink()
    assert room.get(b"/crl/corp.crl").status == 503


# --- replaced while it is served ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [None, EmptyLane()], ids=["at-once", "in-turns"])
def test_resumed_after_a_change(room: Room, lane: Any, tmp_path: Path) -> None:
    """DST-02: who resumes by If-Range after the CRL has changed gets all of the new one, and never a mix; curl too."""
    old, new = room.crl(1, 300_000), room.crl(2, 300_000)
    room.publish(1, old)
    with serving(room.handler, lane=lane) as server, server.connect() as client:
        (part,) = parse_replies(ask(client, get(b"/crl/corp.crl", b"Range: bytes=0-99999")))
        etag = part.fields["etag"].encode()
        (rest,) = parse_replies(ask(client, get(b"/crl/corp.crl", b"Range: bytes=100000-", b"If-Range: " + etag)))
        assert (rest.status, part.body + rest.body == old) == (206, True)
        room.publish(2, new)
        (rest,) = parse_replies(ask(client, get(b"/crl/corp.crl", b"Range: bytes=100000-", b"If-Range: " + etag)))
        assert (rest.status, rest.body == new) == (200, True)
        need("curl")
        command = ["curl", "-sS", "-r", "100000-", "-H", f"If-Range: {etag.decode()}", f"{server.url}/crl/corp.crl"]
        assert subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=20).stdout == new


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_hammered(room: Room) -> None:
    """DST-05: during a thousand publications every body is one CRL, whole, and no client ever sees the number go back."""
    room.publish(1, room.crl(1, 100_000))
    failures: list[BaseException] = []
    seen: list[set[int]] = [set() for _ in range(3)]
    done = threading.Event()

    def client(numbers: set[int], address: Any) -> None:
        last = 0
        try:
            while True:
                ends = done.is_set()
                with socket.create_connection(address, 20) as connection:
                    connection.sendall(get(b"/crl/corp.crl", b"Connection: close"))
                    (reply,) = parse_replies(read_all(connection))
                number = number_of(reply, room.ca)
                assert number >= last
                last = number
                numbers.add(number)
                if ends:
                    return
        except BaseException as error:
            failures.append(error)

    with serving(room.handler) as server:
        clients = [threading.Thread(target=client, args=(numbers, server.address[:2])) for numbers in seen]
        for thread in clients:
            thread.start()
        for number in range(2, 1_001):
            room.publish(number, room.crl(number, 100_000))
        done.set()
        for thread in clients:
            thread.join()
        assert not failures
        assert all(1_000 in numbers for numbers in seen)
        assert len(set.union(*seen)) > 3
        until(lambda: not server.server.state.connections, "every connection is gone")
        assert open_files(room.shm) == 1, "the last CRL"


def number_of(reply: Reply, ca: PKI) -> int:
    """Check a CRL as a client would, and return its number."""
    assert reply.status == 200
    assert reply.fields["etag"] == f'"{hashlib.sha256(reply.body).hexdigest()}"'
    crl = x509.load_der_x509_crl(reply.body)
    assert crl.is_signature_valid(ca.certificate.public_key())
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_health_tells_of_a_crl_that_is_missing_or_has_run_out(room: Room) -> None:
    """An operator hears of it before clients that refuse everything without a CRL do."""
    corp, parts = room.issuers.by_name("corp"), room.issuers.by_name("parts")
    assert corp is not None
    assert parts is not None
    assert crl_problem(room.depot, corp, NOW) == "no CRL is published (full)"
    room.publish(1, next_update=NOW + 60)
    assert crl_problem(room.depot, corp, NOW) is None
    assert crl_problem(room.depot, corp, NOW + 60) == f"the CRL is past its nextUpdate, {format_utc(NOW + 60)} (full)"
    room.publish(2, ca_id="0" * 16)
    assert crl_problem(room.depot, corp, NOW) == "no CRL is published (full)", "of another key"
    for shard in ("0", "2"):
        room.publish(1, ca="parts", slot=shard)
    assert crl_problem(room.depot, parts, NOW) == "no CRL is published (1)"
    room.depot.manifest("corp", "full").write_text("{")
    assert "remove it" in str(crl_problem(room.depot, corp, NOW))
