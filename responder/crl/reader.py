"""Reads CRLs of any size and of anybody: strict DER, head and extensions at once, entries as a stream.

RFC 5280 §5.1 to §5.3. PEM and bare base64 are turned into DER first. Values of extensions are read by cryptography's parser, from
a CRL of the same head without entries. What is not as RFC 5280 wants it, but can be understood, is kept in ``faults``; the
caller decides. Knows no policy and no store.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import ExtensionOID

from fastpath.crl_decode import Entry, EntryError, EntryReader
from responder.crl.armor import open_der
from responder.crl.der import (
    BIT_STRING,
    BOOLEAN,
    EXPLICIT_0,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    UTC_TIME,
    Element,
    Window,
    element,
    read_oid,
)
from responder.crl.extensions import EXPIRED_CERTS_ON_CRL, MAX_CRL_NUMBER, NEXT_CRL_PUBLISH
from responder.errors import CRLError

BLOCK_OCTETS = 1 << 18
MAX_HEAD_OCTETS = 1 << 17  # all before the entries: version, algorithm, issuer, two times
MAX_TAIL_OCTETS = 1 << 20  # all behind them: extensions, signature
MAX_EXTENSIONS = 64
_HASHES = (
    hashes.SHA224,
    hashes.SHA256,
    hashes.SHA384,
    hashes.SHA512,
)  # SHA-1 and MD5: anybody can make two of one kind
_KNOWN = {
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string: False,  # whether RFC 5280 §5.2 wants it critical
    ExtensionOID.ISSUER_ALTERNATIVE_NAME.dotted_string: False,
    ExtensionOID.CRL_NUMBER.dotted_string: False,
    ExtensionOID.DELTA_CRL_INDICATOR.dotted_string: True,
    ExtensionOID.ISSUING_DISTRIBUTION_POINT.dotted_string: True,
    ExtensionOID.FRESHEST_CRL.dotted_string: False,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS.dotted_string: False,
    EXPIRED_CERTS_ON_CRL: False,
    NEXT_CRL_PUBLISH: False,
}


@dataclass(frozen=True, slots=True)
class RawExtension:
    """An extension as it stands: ``value`` is the octets within its OCTET STRING."""

    critical: bool
    value: bytes


class CRLFile:
    """One CRL, open for reading. Times are POSIX seconds UTC. Used as a context manager, or closed."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Read head and tail of DER in ``file``, which is closed with this; ``name`` is for errors. Raises CRLError."""
        self._file = file
        self.name = name
        self.faults: list[str] = []
        self.size = os.fstat(file.fileno()).st_size
        self.version = 1
        self.issuer = b""  # Name DER
        self.this_update = 0
        self.next_update: int | None = None
        self.signature_algorithm = b""  # AlgorithmIdentifier DER
        self.signature = b""
        self.extensions: dict[str, RawExtension] = {}  # by dotted OID
        self.number: int | None = None
        self.base_number: int | None = None
        self.authority_key_identifier: bytes | None = None  # keyIdentifier octets
        self.issuing_distribution_point: x509.IssuingDistributionPoint | None = None
        self.freshest: tuple[str, ...] = ()  # URIs
        self.unknown_critical: tuple[str, ...] = ()  # OIDs
        self._head_octets = self._extension_octets = b""
        self._tbs = (0, 0)  # offset and size of the whole element
        self._revoked = (0, 0)  # offset and size of the contents
        try:
            self._read()
        except CRLError:
            raise
        except ValueError as error:
            raise self.error(" ".join(str(error).split())) from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a CRL in DER, PEM or bare base64; raises CRLError, one line, also where the file cannot be read."""
        try:
            file = open_der(path)
        except OSError as error:
            raise CRLError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            return cls(file, str(path))
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def close_when_unheld(self) -> None:
        """Have the file closed once nobody holds this CRL any more."""
        weakref.finalize(self, self._file.close)

    def error(self, problem: str) -> CRLError:
        """Return an error that names the file."""
        return CRLError(f"{self.name}: {problem}")

    @property
    def is_indirect(self) -> bool:
        """Say whether it may speak of other issuers' certificates."""
        point = self.issuing_distribution_point
        return point is not None and point.indirect_crl

    # --- entries ------------------------------------------------------------------------------------------------------

    def entry_reader(self) -> EntryReader:
        """Return a reader of the entries, from the first; it raises EntryError, whose offset is that in the DER."""
        offset, size = self._revoked
        return EntryReader(self.blocks(offset, size), size, offset, version_2=self.version == 2)

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the entries, from the first, some hundreds at a time; raises CRLError. Adds to ``faults`` at the end."""
        reader = self.entry_reader()
        try:
            yield from reader
        except EntryError as error:
            raise self.error(f"entry {reader.count + 1}: {error}") from error
        self.faults += sorted(reader.faults - {*self.faults})

    def revoked_octets(self) -> tuple[int, int]:
        """Return offset and size of the contents of revokedCertificates in the DER; size 0: there are no entries."""
        return self._revoked

    def blocks(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield that part of the DER in blocks; ends early where the file has become shorter."""
        end = offset + size
        while offset < end and (block := os.pread(self._file.fileno(), min(BLOCK_OCTETS, end - offset), offset)):
            yield block
            offset += len(block)

    # --- signature ----------------------------------------------------------------------------------------------------

    def is_signed_by(self, public_key: PublicKeyTypes) -> bool:
        """Check the signature, in flat memory; raises CRLError for an algorithm that is not taken, such as SHA-1."""
        if any(self.signature_algorithm == one for _, one in _WITHOUT_HASH):
            return self._is_signed_whole(public_key)
        try:
            bare = self._bare()
            algorithm, parameters = bare.signature_hash_algorithm, bare.signature_algorithm_parameters
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self.error(f"its signature algorithm is not supported: {' '.join(str(error).split())}") from error
        if not isinstance(algorithm, _HASHES):
            name = "an unknown hash" if algorithm is None else algorithm.name
            raise self.error(f"it is signed with {name}, which proves nothing; allowed: SHA-2")
        digest = hashlib.new(algorithm.name)
        for block in self.blocks(*self._tbs):
            digest.update(block)
        prehashed = Prehashed(algorithm)
        try:
            if isinstance(public_key, rsa.RSAPublicKey) and isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                public_key.verify(self.signature, digest.digest(), parameters, prehashed)
            elif isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
                public_key.verify(self.signature, digest.digest(), ec.ECDSA(prehashed))
            else:
                return False
        except InvalidSignature:
            return False
        return True

    def _is_signed_whole(self, public_key: PublicKeyTypes) -> bool:
        """Check a signature of a scheme that takes the message itself: it is mapped, not read into memory."""
        offset, size = self._tbs
        for kind, algorithm in _WITHOUT_HASH:
            if isinstance(public_key, kind) and self.signature_algorithm == algorithm:
                break
        else:
            return False
        with (
            mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as file,
            memoryview(file) as whole,
            whole[offset : offset + size] as message,
        ):
            try:
                public_key.verify(self.signature, message)  # type: ignore[union-attr, call-arg, arg-type]
            except InvalidSignature:
                return False
        return True

    # --- head ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read everything but the entries; raises ValueError."""
        # CertificateList ::= SEQUENCE { tbsCertList TBSCertList, signatureAlgorithm AlgorithmIdentifier,
        #     signatureValue BIT STRING }
        head = Window(os.pread(self._file.fileno(), MAX_HEAD_OCTETS, 0), 0, "all before its entries")
        if not self.size:
            raise ValueError("the file is empty")
        whole = head.next(0, self.size, SEQUENCE)
        # RFC 5280 §5: the file is one CRL and nothing else.
        if whole.end != self.size:
            raise ValueError(f"octet {whole.end}: {self.size - whole.end} octets behind the CRL")
        tbs = head.next(whole.contents, whole.end, SEQUENCE)
        self._tbs = (tbs.start, tbs.end - tbs.start)
        at = self._read_head(head, tbs)
        self._head_octets = head.octets(tbs.contents, at)
        if at < tbs.end and (found := head.next(at, tbs.end, SEQUENCE, EXPLICIT_0)).tag == SEQUENCE:
            self._revoked = (found.contents, found.end - found.contents)
            if found.contents == found.end:
                self.faults.append("revokedCertificates is there and empty (RFC 5280 §5.1.2.6)")
            at = found.end
        if self.size - at > MAX_TAIL_OCTETS:
            raise ValueError(f"{self.size - at} octets behind its entries; at most {MAX_TAIL_OCTETS}")
        tail = Window(os.pread(self._file.fileno(), self.size - at, at), at, "all behind its entries")
        if at < tbs.end:
            explicit = tail.next(at, tbs.end, EXPLICIT_0)
            self._read_extensions(tail, explicit)
            self._extension_octets = tail.raw(explicit)
            at = explicit.end
        if at != tbs.end:
            raise ValueError(f"octet {at}: more in tbsCertList than its type has (RFC 5280 §5.1.2)")
        self._read_signature(tail, tbs.end, whole.end)
        self._understand()

    def _read_head(self, head: Window, tbs: Element) -> int:
        """Read from version to nextUpdate; returns where what follows begins."""
        # version Version OPTIONAL, signature AlgorithmIdentifier, issuer Name, thisUpdate Time, nextUpdate Time OPTIONAL
        first = head.next(tbs.contents, tbs.end, INTEGER, SEQUENCE)
        if first.tag == INTEGER:
            if head.contents(first) != b"\x01":
                raise ValueError(f"octet {first.start}: its version is neither absent nor v2 (RFC 5280 §5.1.2.1)")
            self.version = 2
            first = head.next(first.end, tbs.end, SEQUENCE)
        else:
            self.faults.append("it is of version 1 (RFC 5280 §5.1.2.1)")
        self.signature_algorithm = head.raw(first)
        issuer = head.next(first.end, tbs.end, SEQUENCE)
        self.issuer = head.raw(issuer)
        if issuer.contents == issuer.end:
            self.faults.append("its issuer is empty (RFC 5280 §5.1.2.3)")
        this_update = head.next(issuer.end, tbs.end, UTC_TIME, GENERALIZED_TIME)
        self.this_update = self._time(head, this_update, "thisUpdate")
        at = this_update.end
        if at < tbs.end and (found := head.next(at, tbs.end)).tag in (UTC_TIME, GENERALIZED_TIME):
            self.next_update = self._time(head, found, "nextUpdate")
            at = found.end
        else:
            self.faults.append("it has no nextUpdate (RFC 5280 §5.1.2.5)")
        return at

    def _time(self, head: Window, found: Element, name: str) -> int:
        text = head.contents(found)
        digits = 12 if found.tag == UTC_TIME else 14
        if len(text) != digits + 1 or text[-1:] != b"Z" or not text[:-1].isdigit():
            raise ValueError(f"octet {found.start}: {name} is no time in the form of RFC 5280 §5.1.2.4: {text[:30]!r}")
        if found.tag == UTC_TIME:
            text = (b"19" if text[:2] >= b"50" else b"20") + text  # RFC 5280 §4.1.2.5.1
        elif text[:4] < b"2050":
            self.faults.append(f"{name} through 2049 is a GeneralizedTime (RFC 5280 §5.1.2.4)")
        try:
            when = datetime.strptime(text.decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise ValueError(f"octet {found.start}: {name} is no moment that there is: {text!r}") from error
        return int(when.timestamp())

    def _read_extensions(self, tail: Window, explicit: Element) -> None:
        # crlExtensions [0] EXPLICIT Extensions OPTIONAL: SEQUENCE SIZE (1..MAX) OF SEQUENCE { extnID OBJECT IDENTIFIER,
        #     critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
        if self.version != 2:
            raise ValueError(f"octet {explicit.start}: extensions in a CRL of version 1 (RFC 5280 §5.1.2.1)")
        extensions = tail.next(explicit.contents, explicit.end, SEQUENCE)
        if extensions.end != explicit.end or extensions.contents == extensions.end:
            raise ValueError(f"octet {explicit.start}: crlExtensions are empty, or there is more (RFC 5280 §5.1.2.7)")
        at = extensions.contents
        while at < extensions.end:
            extension = tail.next(at, extensions.end, SEQUENCE)
            oid = tail.next(extension.contents, extension.end, OID)
            name = read_oid(tail.contents(oid))
            value = tail.next(oid.end, extension.end, BOOLEAN, OCTET_STRING)
            critical = False
            if value.tag == BOOLEAN:
                flag = tail.contents(value)
                if flag not in (b"\x00", b"\xff"):
                    raise ValueError(f"octet {value.start}: a BOOLEAN is neither 00 nor ff (X.690 §11.1)")
                critical = flag == b"\xff"
                if not critical:
                    self.faults.append(
                        f"extension {name} says that it is not critical, which is left out (X.690 §11.5)"
                    )
                value = tail.next(value.end, extension.end, OCTET_STRING)
            if value.end != extension.end:
                raise ValueError(f"octet {value.end}: more in an extension than its type has (RFC 5280 §4.1)")
            if name in self.extensions:
                raise ValueError(f"octet {at}: extension {name} is there twice (RFC 5280 §4.2)")
            if len(self.extensions) == MAX_EXTENSIONS:
                raise ValueError(f"more than {MAX_EXTENSIONS} extensions")
            self.extensions[name] = RawExtension(critical, tail.contents(value))
            at = extension.end

    def _read_signature(self, tail: Window, at: int, end: int) -> None:
        algorithm = tail.next(at, end, SEQUENCE)
        # RFC 5280 §5.1.1.2: MUST be the same as in tbsCertList.
        if tail.raw(algorithm) != self.signature_algorithm:
            raise ValueError(f"octet {at}: signatureAlgorithm is not the one in tbsCertList (RFC 5280 §5.1.1.2)")
        signature = tail.next(algorithm.end, end, BIT_STRING)
        octets = tail.contents(signature)
        if signature.end != end or octets[:1] != b"\x00":
            raise ValueError(
                f"octet {signature.start}: its signature is no BIT STRING of whole octets, or there is more"
            )
        self.signature = octets[1:]

    def _bare(self) -> x509.CertificateRevocationList:
        """Return a CRL of the same head and extensions, without entries, with a signature that fits other octets."""
        tbs = element(SEQUENCE, self._head_octets + self._extension_octets)
        signature = element(BIT_STRING, b"\x00" + self.signature)
        return x509.load_der_x509_crl(element(SEQUENCE, tbs + self.signature_algorithm + signature))

    def _understand(self) -> None:
        """Take values out of the extensions, and note what RFC 5280 §5.2 wants otherwise; raises ValueError."""
        try:
            extensions = self._bare().extensions
        except (
            ValueError,
            TypeError,
            UnsupportedAlgorithm,
            x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType,
        ) as error:
            raise ValueError(f"its head or extensions: {error}") from error
        for extension in extensions:
            value = extension.value
            if isinstance(value, x509.CRLNumber):
                self.number = value.crl_number
            elif isinstance(value, x509.DeltaCRLIndicator):
                self.base_number = value.crl_number
            elif isinstance(value, x509.AuthorityKeyIdentifier):
                self.authority_key_identifier = value.key_identifier
            elif isinstance(value, x509.IssuingDistributionPoint):
                self.issuing_distribution_point = value
            elif isinstance(value, x509.FreshestCRL):
                self.freshest = tuple(
                    name.value
                    for point in value
                    for name in point.full_name or ()
                    if isinstance(name, x509.UniformResourceIdentifier)
                )
        for oid, raw in self.extensions.items():
            if oid not in _KNOWN:
                if raw.critical:
                    self.unknown_critical += (oid,)
                    self.faults.append(f"critical extension {oid} is not known here (RFC 5280 §5.2)")
            elif raw.critical is not _KNOWN[oid]:
                self.faults.append(f"extension {oid} is {'' if raw.critical else 'not '}critical (RFC 5280 §5.2)")
        for number, name in ((self.number, "cRLNumber"), (self.base_number, "BaseCRLNumber")):
            if number is not None and not 0 <= number <= MAX_CRL_NUMBER:
                self.faults.append(f"{name} is not in 0 to 2**159 - 1 (RFC 5280 §5.2.3)")
        if self.number is None:
            self.faults.append("it has no cRLNumber (RFC 5280 §5.2.3)")
        if self.authority_key_identifier is None:
            self.faults.append("it has no authorityKeyIdentifier with a keyIdentifier (RFC 5280 §5.2.1)")
        if self.base_number is not None and self.freshest:
            self.faults.append("it is a delta CRL with freshestCRL (RFC 5280 §5.2.6)")


# RFC 8410 §3, RFC 9881 §2: the schemes that take the message itself.
_WITHOUT_HASH: tuple[tuple[type, bytes], ...] = (
    (ed25519.Ed25519PublicKey, bytes.fromhex("300506032b6570")),
    (ed448.Ed448PublicKey, bytes.fromhex("300506032b6571")),
    (mldsa.MLDSA44PublicKey, bytes.fromhex("300b0609608648016503040311")),
    (mldsa.MLDSA65PublicKey, bytes.fromhex("300b0609608648016503040312")),
    (mldsa.MLDSA87PublicKey, bytes.fromhex("300b0609608648016503040313")),
)
