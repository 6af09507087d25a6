"""What is known of a CRL that was published: the text beside its file, and in Redis for other machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

# EN 319 411-1 CSS-6.3.9-06: nextUpdate of a CRL after which there comes no other, 99991231235959Z (RFC 5280 §4.1.2.5).
NO_NEXT_UPDATE = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Published:
    """One CRL in the depot. Times are POSIX seconds UTC.

    ``ca`` is the config's name and ``ca_id`` the store's, so that another key under the same name is another series of
    numbers. ``slot``: config_crl.FULL, ``delta``, a shard's number, or that with ``-delta``. ``number``: cRLNumber, None
    where a mirrored CRL has none; ``base_number``: BaseCRLNumber of a delta CRL. ``next_publication``: when the next one
    is planned, for HTTP caches. ``sha256``: of the whole DER, hex. ``shares_date``: thisUpdate is the one of the CRL
    before, so that Last-Modified cannot tell them apart. ``file``: its name within the CA's directory; "": nothing is served.
    ``soonest_ahead``: when the first revocation takes effect that is not in it, since it is dated ahead. ``lost``: the CRL of
    that number followed, and was found damaged: another is due at once (0: it had no number).
    """

    ca: str
    ca_id: str
    slot: str
    number: int | None
    base_number: int | None
    this_update: int
    next_update: int | None
    next_publication: int
    size: int
    sha256: str
    entries: int
    shares_date: bool
    file: str
    soonest_ahead: int | None = None
    lost: int | None = None

    @property
    def is_last(self) -> bool:
        """Say whether it is the CA's last CRL, after which none is issued."""
        return self.next_update == NO_NEXT_UPDATE

    def to_text(self) -> str:
        """Spell it as JSON; ``from_text`` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_text(cls, text: str) -> Published:
        """Read what ``to_text`` wrote; fields that a later version added are let be. Raises ValueError."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("not a published CRL's text: no JSON object")
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in raw and field.default is None:
                continue
            if field.name not in raw:
                raise ValueError(f"not a published CRL's text: {field.name} is missing")
            value = raw[field.name]
            if type(value).__name__ not in str(field.type).replace("None", "NoneType").split(" | "):
                raise ValueError(f"not a published CRL's text: {field.name} is {value!r}, and must be {field.type}")
            values[field.name] = value
        return cls(**values)
