from typing import final

class CryptokiError(Exception):
    """A call returned something else than CKR_OK; ``value`` is the CK_RV."""

    value: int

@final
class Cryptoki:
    """A PKCS#11 module's functions, by the handles of sessions and keys that python-pkcs11 opened."""

    def __init__(self, path: str) -> None:
        """Load the module; raises OSError where ``path`` is none."""

    def initialize_for_threads(self) -> None:
        """Call C_Initialize with CKF_OS_LOCKING_OK; raises CryptokiError, of CANT_LOCK where the module has no locks."""

    def finalize(self) -> None:
        """Call C_Finalize, whatever it returns: a device that is gone may fail here too."""

    def close_session(self, session: int) -> None:
        """Call C_CloseSession, whatever it returns."""

    def sign(
        self,
        session: int,
        key: int,
        mechanism: int,
        parameter: bytes,
        messages: list[bytes],
        coordinate_bytes: int,
    ) -> list[bytes]:
        """Sign each message in order, without the interpreter's lock; returns BIT STRING octets.

        ``parameter``: the mechanism's, as it lies in memory; empty for none. ``coordinate_bytes`` above 0: the token's r‖s, of so many octets
        each, become DER SEQUENCE{r, s} (RFC 5758 §3.2). Raises CryptokiError where a call fails, ValueError where what
        came is no signature; then none is returned.
        """

def ecdsa_der(raw: bytes, coordinate_bytes: int) -> bytes:
    """Turn r‖s into DER SEQUENCE{r, s}, as ``Cryptoki.sign`` does; raises ValueError where it is no signature."""
