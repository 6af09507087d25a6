"""The GET target decoder once more, in several obvious passes: what ``fastpath.http_target`` is compared with.

It says only whether a target is right and what it holds; which of several defects is named first is the fast one's.
"""

from __future__ import annotations

import base64
import binascii
import re

MAX_TARGET_OCTETS = 65_536


def decode(target: bytes) -> bytes | None:
    """Return the DER that a target holds, or None where it is refused."""
    if len(target) > MAX_TARGET_OCTETS or not target.startswith(b"/"):
        return None
    if b"?" in target or b"#" in target:
        return None
    if re.search(rb"%(?![0-9A-Fa-f]{2})", target):
        return None
    # RFC 3986 §2.4: decoded once and only once.
    text = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), target[1:])
    # One slash more: a client added its own to an AIA URL that ends in one. Base64 of a SEQUENCE begins with M.
    text = text.removeprefix(b"/")
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    # One text for each request: this refuses trailing bits and surplus padding, which b64decode lets pass.
    if not decoded or base64.b64encode(decoded) != text:
        return None
    return decoded
