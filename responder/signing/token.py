"""One token behind a PKCS#11 module: finding it, logging in, finding a key in it. Through python-pkcs11.

For the process that holds a token's sessions (token_host.py). python-pkcs11 calls ``C_Initialize(NULL)``, with which several
threads crash SoftHSM: the module is initialised anew with its own locks before the first thread starts (cryptoki.pyx); one
that has no locks is called by one thread at a time. RFC 7512 names the key; PKCS#11 v2.40 and v3.0 the calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PKCS11Error, TokenFlag

from responder.errors import SignerUnavailable
from responder.signing.algorithms import Scheme
from responder.signing.cryptoki import Cryptoki, CryptokiError
from responder.signing.pins import RefusedPins
from responder.signing.pkcs11_uri import PKCS11URI
from responder.signing.token_keys import (
    TokenMechanism,
    ec_public_key,
    ed25519_public_key,
    mechanisms_for,
    rsa_public_key,
)

INITIALISE_TRIES = 3  # SoftHSM processes that start in the same instant sometimes fail their first call
INITIALISE_PAUSE_S = 0.1
CANT_LOCK = 0x0A
MAX_NAMED = 20  # tokens or keys that an error lists
NO_MORE_SESSIONS = (pkcs11.SessionCount, pkcs11.DeviceMemory)

_PIN_REFUSED = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)


class PinRefused(SignerUnavailable):
    """The token said no to the PIN."""


class Token:
    """The module, initialised, and the one token in it that the URI names."""

    def __init__(self, uri: PKCS11URI, data_dir: Path) -> None:
        """Find it; raises SignerUnavailable where it is not there now, ValueError where several are."""
        self._uri = uri
        self._path = uri.module_file().resolve()
        self._refused = RefusedPins(data_dir)
        self.logged_in = False
        self.bears_threads = True
        self.turn: AbstractContextManager[Any] = nullcontext()
        self._session: Any = None  # the one that logged in, until a key takes it; later one that a key let go
        self._session_lock = threading.Lock()
        self._lib, self.module = self._initialise()
        self._token = self._find()
        self.name = name_token(self._token)

    def _initialise(self) -> tuple[Any, Cryptoki]:
        for attempt in range(1, INITIALISE_TRIES + 1):
            try:
                lib = pkcs11.lib(str(self._path))
                break
            except PKCS11Error as error:
                if attempt == INITIALISE_TRIES:
                    raise SignerUnavailable(f"{self._path} cannot be initialised: {why(error)}") from error
                time.sleep(INITIALISE_PAUSE_S)
            except RuntimeError as error:  # python-pkcs11's for a file that is no module
                raise ValueError(f"{self._path} is no PKCS#11 module: {why(error)}") from error
        module = Cryptoki(str(self._path))
        lib.finalize()
        try:
            module.initialize_for_threads()
        except CryptokiError as error:
            if error.value != CANT_LOCK:
                raise
            lib.initialize()
            self.bears_threads = False
            self.turn = threading.RLock()
        return lib, module

    def _find(self) -> Any:
        try:
            there = self._tokens()
        except PKCS11Error as error:
            raise SignerUnavailable(f"{self._path} cannot list its tokens: {why(error)}") from error
        found = [token for token in there if _matches(token, self._uri)]
        listed = ", ".join(name_token(token) for token in there[:MAX_NAMED]) or "none"
        if not found:
            raise SignerUnavailable(f"no {self._uri.describe_token()} behind {self._path}; there: {listed}")
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} tokens match {self._uri.describe_token()}; add serial or slot-id; there: {listed}"
            )
        return found[0]

    def _tokens(self) -> list[Any]:
        tokens = []
        for slot in self._lib.get_slots():
            try:
                token = slot.get_token()
            except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised, pkcs11.DeviceRemoved):
                continue
            if token.flags & TokenFlag.TOKEN_INITIALIZED:
                tokens.append(token)
        return tokens

    def new_session(self) -> Any:
        """Return a session that nobody uses; the token's one login holds for all of them."""
        with self._session_lock:
            session, self._session = self._session, None
        if session is not None:
            return session
        with self.turn:
            return self._token.open()

    def let_go(self, session: Any) -> None:
        """Take back a session; one is kept, since the login ends with the last."""
        with self._session_lock:
            if self._session is None:
                self._session = session
                return
        with self.turn:
            # python-pkcs11 would log out first, which ends the login of all.
            self.module.close_session(session.handle)

    def log_in(self, read_pin: Callable[[], str]) -> None:
        """Log in, where the token wants that. Raises SignerUnavailable, PinRefused; ValueError where there is no PIN."""
        token, name = self._token, self.name
        if not token.flags & TokenFlag.LOGIN_REQUIRED:
            return
        if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
            raise SignerUnavailable(f"{name} has no user PIN yet; set one with the vendor's tool")
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise SignerUnavailable(f"the user PIN of {name} is locked; its security officer must unlock it")
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise SignerUnavailable(
                f"{name} would be locked by one more wrong PIN, so none is tried; log in once with the vendor's tool"
            )
        pin = read_pin()
        try:
            with self._refused.guard(_identity(token)) as pins:
                if when := pins.refused_at(pin):
                    raise SignerUnavailable(
                        f"{name} refused this PIN at {when}, and it is not tried again; change the PIN's source, or delete {pins.path} to try the same one"
                    )
                try:
                    self._session = token.open(user_pin=pin)
                except _PIN_REFUSED as error:
                    pins.record(pin)
                    raise PinRefused(
                        f"{name} refused the PIN; it is not tried again until its source changes"
                    ) from error
                except pkcs11.PinLocked as error:
                    raise SignerUnavailable(
                        f"the user PIN of {name} is locked; its security officer must unlock it"
                    ) from error
                pins.clear()
                self.logged_in = True
        except SignerUnavailable:
            raise
        except (OSError, ValueError) as error:
            raise SignerUnavailable(f"refused PINs cannot be remembered, so none is tried: {error}") from error

    def take_login(self) -> bool:
        """Say whether there was a login that nobody has been told of."""
        told, self.logged_in = self.logged_in, False
        return told

    def finalize(self) -> None:
        """Let go of the module, which ends every session; what it says to that matters no more."""
        self.module.finalize()


def find_key(session: Any, uri: PKCS11URI) -> Any:
    """Return the one private key that the URI names; raises ValueError, which lists what is there."""
    attributes: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.object is not None:
        attributes[Attribute.LABEL] = uri.object
    if uri.id is not None:
        attributes[Attribute.ID] = uri.id
    found = list(session.get_objects(attributes))
    if len(found) != 1:
        there = found or list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        listed = ", ".join(_name_key(key) for key in there[:MAX_NAMED]) or "none"
        wanted = f"{uri.describe_key()} in {uri.describe_token()}"
        if not found:
            raise ValueError(f"no {wanted}; private keys there: {listed}")
        raise ValueError(f"{len(found)} objects match {wanted}; say both object and id: {listed}")
    key = found[0]
    if _attribute(key, Attribute.SIGN) is False:
        raise ValueError(f"{_name_key(key)} may not sign (CKA_SIGN is false)")
    if _attribute(key, Attribute.ALWAYS_AUTHENTICATE):
        raise ValueError(f"{_name_key(key)} asks for the PIN at each signature (CKA_ALWAYS_AUTHENTICATE)")
    return key


def public_key_of(session: Any, key: Any, known: Sequence[Any]) -> PublicKeyTypes:
    """Read the public key: of the private object where it shows it, else of the public one or a certificate.

    ``known``: the configured certificate's, for a token that holds nothing but the private key.
    """
    key_type, key_id = _attribute(key, Attribute.KEY_TYPE), _attribute(key, Attribute.ID)
    label = _attribute(key, Attribute.LABEL)
    alike = {Attribute.ID: key_id} if key_id else {Attribute.LABEL: label}
    public = list(session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, **alike}))
    for holder in (key, *(one for one in public if _attribute(one, Attribute.KEY_TYPE) == key_type)):
        if (public_key := _read_public_key(holder, key_type)) is not None:
            return public_key
    for certificate in session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE, **alike}):
        if value := _attribute(certificate, Attribute.VALUE):
            return x509.load_der_x509_certificate(value).public_key()
    # The test signature proves whether it is the right one (open_response_signer).
    if len(known) == 1:
        only: PublicKeyTypes = known[0]
        return only
    raise ValueError(
        f"the public key of {_name_key(key)} is not in the token; import it, or its certificate, under the same id"
    )


def _matches(token: Any, uri: PKCS11URI) -> bool:
    wanted_and_there = (
        (uri.token, token.label),
        (uri.serial, token.serial.decode("utf-8", "replace")),
        (uri.manufacturer, token.manufacturer_id),
        (uri.model, token.model),
        (uri.slot_id, token.slot.slot_id),
    )
    return all(wanted is None or wanted == there for wanted, there in wanted_and_there)


def _identity(token: Any) -> str:
    serial = token.serial.decode("utf-8", "replace")
    return f"{token.manufacturer_id}|{token.model}|{serial}|{token.label}"


def name_token(token: Any) -> str:
    """Spell a token for an error's text."""
    serial = token.serial.decode("utf-8", "replace")
    return f"token {token.label!r} (serial {serial}, slot-id {token.slot.slot_id})"


def _name_key(key: Any) -> str:
    label, key_id = _attribute(key, Attribute.LABEL), _attribute(key, Attribute.ID) or b""
    return f"object={label!r} id={'%' if key_id else ''}{key_id.hex('%')}"


def _attribute(key: Any, attribute: Attribute) -> Any:
    """Return an attribute's value, or None where the token does not show it."""
    try:
        return key[attribute]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.FunctionFailed, NotImplementedError):
        return None


def _read_public_key(holder: Any, key_type: KeyType) -> PublicKeyTypes | None:
    if key_type == KeyType.RSA:
        modulus, exponent = _attribute(holder, Attribute.MODULUS), _attribute(holder, Attribute.PUBLIC_EXPONENT)
        return rsa_public_key(modulus, exponent) if modulus and exponent else None
    if key_type not in (KeyType.EC, KeyType.EC_EDWARDS):
        raise ValueError(
            f"{_name_key(holder)} is of type {getattr(key_type, 'name', key_type)}; allowed: RSA, EC, Ed25519"
        )
    params, point = _attribute(holder, Attribute.EC_PARAMS), _attribute(holder, Attribute.EC_POINT)
    if not params or not point:
        return None
    return ec_public_key(params, point) if key_type == KeyType.EC else ed25519_public_key(params, point)


def usable_mechanisms(scheme: Scheme, token: Any) -> list[TokenMechanism]:
    """Return the ways to sign that the token offers, the one with the least work for it first; raises ValueError for none."""
    choices = mechanisms_for(scheme)
    offered = {int(one): one for one in token.slot.get_mechanisms()}
    usable = [choice for choice in choices if choice.number in offered]
    if usable:
        return usable
    wanted = " or ".join(choice.name for choice in choices) or "anything"
    names = sorted(
        f"CKM_{one.name}" for one in offered.values() if isinstance(one, Mechanism) and not one.name.startswith("_")
    )
    raise ValueError(
        f"{name_token(token)} does not offer {wanted} for a {scheme.name} key; it offers {', '.join(names)}"
    )


def why(error: Exception) -> str:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, CryptokiError | ValueError | OSError):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text}"
