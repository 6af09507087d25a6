"""From a CA's configuration to its Signer: whether the key is in a file or in a token."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.config import CAConfig, SignerConfig
from responder.errors import ConfigError
from responder.signing.algorithms import RSAPadding
from responder.signing.pins import PinSource
from responder.signing.pkcs11_uri import parse_pkcs11_uri
from responder.signing.signer import Signer
from responder.signing.softkey import load_soft_key


def open_signer(
    ca: CAConfig,
    data_dir: Path,
    config_file: str,
    known_public_keys: Sequence[PublicKeyTypes] = (),
    rsa_padding: RSAPadding | None = None,
    using: SignerConfig | None = None,
    *,
    patience_s: float | None = None,
) -> Signer:
    """Open the key of ``using``, by default that of ``ca.ocsp``; close it when done.

    ``known_public_keys``: the certificate's, for a token that does not hold the public key. ``rsa_padding``: what
    configuration and certificate say together (delegation.rsa_padding_of). Raises ConfigError where the operator must
    mend something, SignerUnavailable where the token is not there now or refused the PIN; SignerOpening where it takes
    longer than ``patience_s``, by default as long as any token may.
    """
    ocsp = using or ca.ocsp
    table = f"ca[{ca.name}].{ocsp.table}"
    if not ocsp.key.startswith("pkcs11:"):
        passphrase = PinSource(
            config_file, table, f"passphrase of {ocsp.key}", pin_file=ocsp.pin_file, pin_env=ocsp.pin_env
        )
        return load_soft_key(Path(ocsp.key), passphrase, config_file, f"{table}.key", rsa_padding)
    try:
        uri = parse_pkcs11_uri(ocsp.key)
    except ValueError as error:
        raise ConfigError(config_file, f"{table}.key", str(error)) from error
    pin = PinSource(
        config_file,
        table,
        f"user PIN of {uri.describe_token()}",
        pin_file=ocsp.pin_file,
        pin_env=ocsp.pin_env,
        extra=uri.pin_source,
    )
    # Imported late: a shop without an HSM needs no PKCS#11 library in its processes.
    from responder.signing.hsm import OPEN_WITHIN_S, open_hsm_key

    return open_hsm_key(
        uri,
        pin,
        data_dir,
        config_file,
        f"{table}.key",
        known_public_keys,
        rsa_padding,
        sessions=ocsp.sessions,
        patience_s=OPEN_WITHIN_S if patience_s is None else patience_s,
    )


def secret_file_warnings(ocsp: SignerConfig) -> list[str]:
    """Say which key and PIN files others than their owner may read; no reason to refuse, since groups may be meant."""
    files = [ocsp.pin_file] if ocsp.pin_file else []
    if not ocsp.key.startswith("pkcs11:"):
        files.append(Path(ocsp.key))
    return [
        f"{path} can be read by every user of this machine (mode {stat.S_IMODE(mode):04o})"
        for path in files
        if (mode := path.stat().st_mode) & stat.S_IROTH
    ]
