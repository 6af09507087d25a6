"""CRL files as people have them: DER, PEM, or bare base64. All become an open file of DER, in flat memory.

RFC 7468 §6 (``-----BEGIN X509 CRL-----``), which OpenSSL's own ``-text`` output may precede.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from pathlib import Path
from typing import IO

from responder.errors import CRLError

LINE_OCTETS = 1 << 16  # of base64 without line ends this much is taken at a time
MAX_PREAMBLE_LINES = 1_000_000  # openssl crl -text writes four lines for each entry
_BEGIN = re.compile(rb"-----BEGIN (?:X509 )?CRL-----\s*")
_BOM = b"\xef\xbb\xbf"
_END = re.compile(rb"-----END (?:X509 )?CRL-----\s*")


def open_der(path: Path) -> IO[bytes]:
    """Open a CRL; what is armored is decoded into a nameless file. Raises OSError, and CRLError for what is neither."""
    file: IO[bytes] = path.open("rb")
    try:
        first = file.read(64)
        file.seek(len(_BOM) if first.startswith(_BOM) else 0)
        first = first.removeprefix(_BOM).lstrip()
        # DER begins with 30, the digit 0, with which neither PEM nor the base64 of any SEQUENCE begins.
        if not first or first[:1] == b"\x30":
            file.seek(0)
            return file
        armored, file = file, tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with armored:
            _decode(armored, file, path, is_bare=first[:1] != b"-" and _is_base64(first))
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def _is_base64(octets: bytes) -> bool:
    return re.fullmatch(rb"[A-Za-z0-9+/=\s]*", octets) is not None and octets[:1] == b"M"


def _decode(armored: IO[bytes], to: IO[bytes], path: Path, *, is_bare: bool) -> None:
    inside = is_bare
    ended = False
    rest = b""
    lines = 0
    while line := armored.readline(LINE_OCTETS):
        if not inside:
            inside = _BEGIN.fullmatch(line) is not None
            lines += 1
            if lines > MAX_PREAMBLE_LINES:
                break
            continue
        if line.startswith(b"-----"):
            ended = _END.fullmatch(line) is not None
            break
        rest += b"".join(line.split())
        whole = len(rest) - len(rest) % 4
        to.write(_decoded(rest[:whole], path))
        rest = rest[whole:]
    if not inside:
        raise CRLError(f"{path}: is no CRL: neither DER nor PEM (-----BEGIN X509 CRL-----)")
    if rest or ended == is_bare:
        raise CRLError(f"{path}: its base64 is cut off")


def _decoded(text: bytes, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CRLError(f"{path}: its base64 is broken: {error}") from error
