"""What tests of a single loader need: an Issuer without a configuration, everything of one reading, the samples.

Called by the loaders' tests in tests/unit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from loaders.base import Loader, Row, RowRejected
from responder.issuers import Issuer, subject_and_key
from responder.store.layout import ca_id

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"the samples of real CAs are not in {SAMPLES}")


def issuer_of(path: Path, name: str = "corp") -> Issuer:
    """An Issuer as responder.issuers makes them, without a configuration."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    subject_der, key_octets = subject_and_key(certificate)
    return Issuer(
        name=name,
        id=ca_id(subject_der, key_octets),
        certificate_der=certificate.public_bytes(Encoding.DER),
        subject_der=subject_der,
        public_key_octets=key_octets,
        name_hashes={},
        key_hashes={},
        not_before=0,
        not_after=0,
        config=None,  # type: ignore[arg-type]  # no loader looks at it
    )


class Read:
    """Everything of one snapshot."""

    def __init__(self, loader: Loader) -> None:
        snapshot = loader.snapshot()
        self.rows: list[Row] = []
        self.released: list[Row] = []
        self.rejected: list[RowRejected] = []
        for batch in snapshot.batches():
            self.rows += batch.rows
            self.released += batch.released
            self.rejected += batch.rejected
        self.as_of, self.fingerprint, self.whole = snapshot.as_of, snapshot.fingerprint, snapshot.whole

    @property
    def statuses(self) -> dict[str, str]:
        return {octets.hex(): text for octets, text in self.rows}
