"""A CA with its statuses in a real Redis, a real key, and a clock that the test sets: what the signing tests work in.

Fixtures: make_room(server=None, **options) and room.

Statuses are committed as responder.revocation does, through the store. Every answer that a test looks at is put together as
a worker does it, and verified by cryptography first.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp

from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, assemble, is_dual, unpack_answer
from responder.clock import ManualClock
from responder.config import load_config
from responder.issuers import Issuers
from responder.model import serial_to_octets
from responder.signing.clock_guard import ClockGuard
from responder.signing.delegation import ResponseSigner, open_response_signer
from responder.signing.live import LiveSigner
from responder.signing.presigner import Presigner
from responder.signing.signer import AsyncSigner, Signer
from responder.store.layout import DUE_REVOKED, NEVER_DUE, JournalKind, bucket_number, serial_hash
from responder.store.redis_store import Store
from responder.store.values import Change, NewBucket
from tests.pki import PKI, make_ca, make_signer, verify
from tests.redis_fixture import RedisServer

DAY_S = 86_400
GOOD = "good exp=2049-12-31T23:59:59Z"


class CountingSigner:
    """Signs with another Signer and counts; ``on_sign`` is called before each batch."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.count = 0
        self.batches: list[int] = []
        self.on_sign: Any = lambda: None
        self.spoil: Any = lambda signature: signature

    @property
    def public_key_der(self) -> bytes:
        return self.signer.public_key_der

    @property
    def signature_algorithm_der(self) -> bytes:
        return self.signer.signature_algorithm_der

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        self.on_sign()
        self.count += len(messages)
        self.batches.append(len(messages))
        return [self.spoil(signature) for signature in self.signer.sign(messages)]

    def close(self) -> None:
        self.signer.close()


class Room:
    """One CA, one store, one clock."""

    def __init__(
        self,
        server: RedisServer,
        directory: Path,
        *,
        validity: str = "4d",
        ocsp_options: str = "",
        ca_options: str = "",
        key_type: str = "p256",
        key: str = "ocsp.key",
        ca_key_type: str = "p256",
        signer_not_after: int | None = None,
        now: int | None = None,
    ) -> None:
        """``key``: the configuration's ``ocsp.key``; a token's holds key_of(key_type, "ocsp"), and is not counted."""
        self.server = server
        self.directory = directory
        self.key_type = key_type
        if key_type.endswith("pss"):
            ocsp_options += '\nrsa_padding = "pss"\n'
        self.clock = ManualClock(now if now is not None else int(time.time()))
        self.ca: PKI = make_ca(directory, ca_key_type)
        make_signer(self.ca, key_type, not_after=signer_not_after)
        (directory / "index.txt").touch()
        self.config_file = directory / "revocast.toml"
        self.config_file.write_text(
            server.config_section()
            + f"""
[[ca]]
name = "corp"
certificate = "ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
{ca_options}
[ca.ocsp]
certificate = "ocsp.pem"
key = "{key}"
validity = "{validity}"
{ocsp_options}
"""
        )
        self.config = load_config(self.config_file)
        self.issuers = Issuers.from_config(self.config, str(self.config_file))
        (self.issuer,) = self.issuers
        self.signer: ResponseSigner
        self.key: CountingSigner
        self.take_up_signer()
        self._stores: list[Store] = []
        self.store = self.new_store()

    def new_store(self) -> Store:
        """Return a Store with a connection of its own; ``close`` closes it."""
        self._stores.append(self.server.store())
        return self._stores[-1]

    def close(self) -> None:
        """Close every connection, and the key."""
        for store in self._stores:
            store.close()
        self.signer.close()

    def reconfigure(self, old: str, new: str) -> None:
        """Replace text in the configuration, and read it again as started roles do."""
        text = self.config_file.read_text()
        assert old in text
        self.config_file.write_text(text.replace(old, new))
        self.config = load_config(self.config_file)
        self.issuers = Issuers.from_config(self.config, str(self.config_file))
        (self.issuer,) = self.issuers

    def take_up_signer(self) -> None:
        """Open the signer that the configuration names now."""
        opened = open_response_signer(
            self.issuer.config, self.issuer, self.config.data_dir, self.clock.now(), str(self.config_file)
        )
        if isinstance(opened.signer, AsyncSigner):
            self.signer = opened
            return
        self.key = CountingSigner(opened.signer)
        self.signer = dataclasses.replace(opened, signer=self.key)

    def guard(self) -> ClockGuard:
        """Return a guard whose other clock is the test's own: it always agrees, but for steps back."""
        return ClockGuard(self.clock, self.clock.now)

    def presigner(self, **options: Any) -> Presigner:
        """Return a presigner with the room's signer."""
        options.setdefault("guard", self.guard())
        options.setdefault("store", self.new_store())
        signers = options.pop("signers", {self.issuer.id: self.signer})
        return Presigner(options.pop("store"), self.issuers, signers, self.clock, **options)

    def live(self, presigner: Presigner | None = None, **options: Any) -> LiveSigner:
        """Return a live signer; its guard takes the test's clock for Redis's."""
        options.setdefault("guard", self.guard())
        desks = (presigner or self.presigner()).desks
        return LiveSigner(self.new_store(), desks, self.clock, options["guard"])

    # --- statuses -------------------------------------------------------------------------------------------------

    def load(self, statuses: Mapping[int, str], *, bits: int = 4, as_of: float | None = None) -> None:
        """Load a whole CA: its statuses by serial, then as_of (now, unless given)."""
        self.store.ensure_ca(self.issuer.id, name="corp", subject="CN=corp", certificate=self.issuer.certificate_der)
        buckets: dict[int, dict[bytes, str]] = {number: {} for number in range(1 << bits)}
        for serial, text in statuses.items():
            octets = serial_to_octets(serial)
            buckets[bucket_number(serial_hash(octets), bits)][octets] = text
        due_at = self.clock.now()
        for _ in self.store.create_many(
            NewBucket(self.issuer.id, number, bits, entries, due_at if entries else NEVER_DUE)
            for number, entries in buckets.items()
        ):
            pass
        self.store.grow(self.issuer.id, bits)
        self.set_as_of(self.clock.now() if as_of is None else as_of)

    def set_as_of(self, as_of: float | None = None) -> None:
        """Say that the source was read (now, unless given)."""
        self.store.set_as_of(self.issuer.id, self.clock.now() if as_of is None else as_of)

    def change(self, serial: int, text: str | None, kind: JournalKind = "revoked", due_at: float = DUE_REVOKED) -> None:
        """Commit one certificate's change."""
        octets = serial_to_octets(serial)
        (place,) = self.store.locate(self.issuer.id, [octets])
        self.store.commit(self.issuer.id, place.bucket, place.bits, [Change(octets, place.text, text, kind)], due_at)

    def bucket_of(self, serial: int) -> int:
        """Return the bucket that holds a serial."""
        return self.store.locate(self.issuer.id, [serial_to_octets(serial)])[0].bucket

    # --- answers ----------------------------------------------------------------------------------------------------

    def stored(self, serial: int, hash_name: str = "sha1") -> ocsp.OCSPResponse | None:
        """Return the answer stored in that hash, put together as a worker does, its signature verified; None: none is."""
        octets = serial_to_octets(serial)
        found = self.store.read_answer_bucket(self.issuer.id, self.bucket_of(serial), hash_name)
        packed = found.answers.get(octets)
        if packed is None:
            return None
        header = AnswerHeader.from_bytes(found.headers[unpack_answer(packed).slot])
        record = self.store.get_signer(header.signer_id)
        assert record is not None
        issuer = self.issuer
        cert_ids = issuer.both_cert_ids(octets) if is_dual(packed) else (issuer.cert_id(hash_name, octets),)
        der = assemble(ResponseTemplate.from_bytes(record.template), header, cert_ids[0], packed, *cert_ids[1:])
        return self.read(der)

    def read(self, der: bytes) -> ocsp.OCSPResponse:
        """Parse a response; its signature must verify with the certificate that it carries, which the CA issued."""
        response = ocsp.load_der_ocsp_response(der)
        assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        (certificate,) = response.certificates
        certificate.verify_directly_issued_by(self.ca.certificate)
        verify(certificate.public_key(), self.key_type, response.signature, response.tbs_response_bytes)
        return response

    def all_stored(self, serials: Sequence[int], hash_name: str = "sha1") -> dict[int, ocsp.OCSPResponse]:
        """Return the stored answers of serials, each verified."""
        found = {serial: self.stored(serial, hash_name) for serial in serials}
        return {serial: response for serial, response in found.items() if response is not None}


@pytest.fixture
def make_room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """Return a function that makes a Room on a server of its own, or on ``server``."""
    rooms: list[Room] = []

    def make(server: RedisServer | None = None, **options: Any) -> Room:
        rooms.append(Room(server or redis_server(), tmp_path, **options))
        return rooms[-1]

    yield make
    for made in rooms:
        made.close()


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    return make_room()
