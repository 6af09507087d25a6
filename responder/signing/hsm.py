"""Keys in a PKCS#11 token, through python-pkcs11: the only module that imports it.

python-pkcs11 calls ``C_Initialize(NULL)``, which promises the module that one thread at a time calls it; SoftHSM crashes
otherwise. So each module has one lock here, each token one session and one login a process, whatever number of keys
use it. A process that has initialised a module must not fork; a child of a fork is refused.

RFC 7512 names the key; PKCS#11 v2.40 and v3.0 the calls.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PKCS11Error, TokenFlag

from responder import audit
from responder.errors import ConfigError, InvariantBroken, SignerUnavailable
from responder.signing.algorithms import RSAPadding, Scheme, public_key_to_der, scheme_of
from responder.signing.pins import PinSource, RefusedPins
from responder.signing.pkcs11_uri import PKCS11URI
from responder.signing.token_keys import (
    TokenMechanism,
    ec_public_key,
    ecdsa_der,
    ed25519_public_key,
    mechanisms_for,
    rsa_public_key,
)

INITIALISE_TRIES = 3  # SoftHSM processes that start in the same instant sometimes fail their first call
INITIALISE_PAUSE_S = 0.1
MAX_NAMED = 20  # tokens or keys that an error lists

_PIN_REFUSED = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)


class _Module:
    """One loaded shared library and what is open through it. Everything under ``lock``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = RLock()
        self.tokens: dict[str, _Token] = {}
        self._pid = os.getpid()
        self._lib: Any = None

    def lib(self) -> Any:
        """Return the library, loaded and initialised; raises SignerUnavailable."""
        if self._pid != os.getpid():
            raise InvariantBroken(f"the process forked after it had initialised {self.path}")
        if self._lib is None or not self._lib.initialized:
            for attempt in range(1, INITIALISE_TRIES + 1):
                try:
                    self._lib = pkcs11.lib(str(self.path))
                    break
                except PKCS11Error as error:
                    if attempt == INITIALISE_TRIES:
                        raise SignerUnavailable(f"{self.path} cannot be initialised: {_why(error)}") from error
                    time.sleep(INITIALISE_PAUSE_S)
        return self._lib

    def finalize_if_idle(self) -> None:
        """Finalise the library where no session is open: the next use starts afresh and sees new tokens."""
        if self._lib is None or not self._lib.initialized or any(token.session for token in self.tokens.values()):
            return
        try:
            self._lib.finalize()
        except PKCS11Error:
            return  # a device that is gone may say so here too; python-pkcs11 counts it as finalised

    def find_token(self, uri: PKCS11URI) -> Any:
        """Return the one token that the URI names.

        Raises SignerUnavailable where it is not there now, ValueError where several are.
        """
        try:
            there = self._tokens()
        except PKCS11Error as error:
            raise SignerUnavailable(f"{self.path} cannot list its tokens: {_why(error)}") from error
        found = [token for token in there if _matches(token, uri)]
        listed = ", ".join(_name_token(token) for token in there[:MAX_NAMED]) or "none"
        if not found:
            raise SignerUnavailable(f"no {uri.describe_token()} behind {self.path}; there: {listed}")
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} tokens match {uri.describe_token()}; add serial or slot-id; there: {listed}"
            )
        return found[0]

    def _tokens(self) -> list[Any]:
        tokens = []
        for slot in self.lib().get_slots():
            try:
                token = slot.get_token()
            except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised, pkcs11.DeviceRemoved):
                continue
            if token.flags & TokenFlag.TOKEN_INITIALIZED:
                tokens.append(token)
        return tokens


class _Token:
    """One token: one session, logged in once, shared by ``users`` keys of this process."""

    def __init__(self, module: _Module, uri: PKCS11URI, pin: PinSource, refused: RefusedPins) -> None:
        self.module = module
        self.uri = uri
        self.users = 0
        self.session: Any = None
        self.generation = 0  # one more with each new session: object handles of an older one are void
        self._pin = pin
        self._refused = refused

    def open(self) -> Any:
        """Return the session; where there is none, log in. Raises SignerUnavailable, ConfigError, ValueError."""
        if self.session is None:
            if self.generation:
                # After a loss the library starts afresh, where nobody else uses it: many see a token again only so.
                self.module.finalize_if_idle()
            try:
                token = self.module.find_token(self.uri)
                self.session = self._log_in(token)
                audit.record("login", token=_name_token(token), session=self.generation + 1)
            except PKCS11Error as error:
                raise SignerUnavailable(f"{self.uri.describe_token()} cannot be opened: {_why(error)}") from error
            finally:
                if self.session is None:
                    self.module.finalize_if_idle()  # a session whose login failed cannot be closed otherwise
            self.generation += 1
        return self.session

    def drop(self) -> None:
        """Forget a session that failed; ``open`` makes another."""
        session, self.session = self.session, None
        if session is not None:
            try:
                session.close()
            except PKCS11Error:
                return  # it is gone already, which is why we drop it

    def release(self) -> None:
        """One key fewer; the last one logs out."""
        self.users -= 1
        if self.users == 0:
            self.drop()
            self.module.tokens = {name: token for name, token in self.module.tokens.items() if token is not self}
            self.module.finalize_if_idle()

    def _log_in(self, token: Any) -> Any:
        name = _name_token(token)
        if not token.flags & TokenFlag.LOGIN_REQUIRED:
            return token.open()
        if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
            raise SignerUnavailable(f"{name} has no user PIN yet; set one with the vendor's tool")
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise SignerUnavailable(f"the user PIN of {name} is locked; its security officer must unlock it")
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise SignerUnavailable(
                f"{name} would be locked by one more wrong PIN, so none is tried; log in once with the vendor's tool"
            )
        pin = self._pin.read()
        try:
            with self._refused.guard(_identity(token)) as pins:
                if when := pins.refused_at(pin):
                    raise SignerUnavailable(
                        f"{name} refused this PIN at {when}, and it is not tried again; change the PIN's source, or delete {pins.path} to try the same one"
                    )
                try:
                    session = token.open(user_pin=pin)
                except pkcs11.UserAlreadyLoggedIn:
                    return token.open()  # logged in through a session that we lost
                except _PIN_REFUSED as error:
                    audit.record("login_refused", token=name)
                    pins.record(pin)
                    self._pin.forget_typed()
                    raise SignerUnavailable(
                        f"{name} refused the PIN; it is not tried again until its source changes"
                    ) from error
                except pkcs11.PinLocked as error:
                    raise SignerUnavailable(
                        f"the user PIN of {name} is locked; its security officer must unlock it"
                    ) from error
                pins.clear()
                return session
        except (OSError, ValueError) as error:
            raise SignerUnavailable(f"refused PINs cannot be remembered, so none is tried: {error}") from error


class HSMSigner:
    """A private key in a token. See Signer. After a failure the next ``sign`` opens the session anew."""

    def __init__(
        self,
        token: _Token,
        uri: PKCS11URI,
        known_public_keys: Sequence[PublicKeyTypes],
        rsa_padding: RSAPadding | None = None,
    ) -> None:
        """Find the key; raises ValueError for what the operator must mend, SignerUnavailable for the rest."""
        self._token: _Token | None = token
        self._uri = uri
        self._known = known_public_keys
        self._rsa_padding = rsa_padding
        self._scheme: Scheme
        self._mechanism: TokenMechanism
        self._public_key_der = b""
        self._generation = -1
        self._key = self._find_key(token)

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo DER, read from the token."""
        return self._public_key_der

    @property
    def signature_algorithm_der(self) -> bytes:
        """AlgorithmIdentifier DER of its signatures."""
        return self._scheme.algorithm_der

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message; raises SignerUnavailable, and nothing else, where any fails."""
        token = self._token
        if token is None:
            raise SignerUnavailable("the key is closed")
        with token.module.lock:
            try:
                token.module.lib()
                token.open()
                if self._generation != token.generation:
                    self._key = self._find_key(token)
                key, prepare = self._key, self._mechanism.prepare
                mechanism, parameter = _spelled(self._mechanism)
                signatures = [
                    key.sign(prepare(message), mechanism=mechanism, mechanism_param=parameter) for message in messages
                ]
                if self._scheme.family == "ecdsa":
                    size = self._scheme.coordinate_bytes
                    signatures = [ecdsa_der(raw, size) for raw in signatures]
            except PKCS11Error as error:
                token.drop()
                raise SignerUnavailable(f"{self._uri.describe_token()} failed to sign: {_why(error)}") from error
            except (ConfigError, ValueError) as error:
                token.drop()
                raise SignerUnavailable(str(error)) from error
        return signatures

    def close(self) -> None:
        """Let go of the key; the last key of a token logs out."""
        token, self._token = self._token, None
        if token is not None:
            with token.module.lock:
                token.release()

    def _find_key(self, token: _Token) -> Any:
        session = token.open()
        attributes: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if self._uri.object is not None:
            attributes[Attribute.LABEL] = self._uri.object
        if self._uri.id is not None:
            attributes[Attribute.ID] = self._uri.id
        found = list(session.get_objects(attributes))
        if len(found) != 1:
            there = found or list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
            listed = ", ".join(_name_key(key) for key in there[:MAX_NAMED]) or "none"
            wanted = f"{self._uri.describe_key()} in {self._uri.describe_token()}"
            if not found:
                raise ValueError(f"no {wanted}; private keys there: {listed}")
            raise ValueError(f"{len(found)} objects match {wanted}; say both object and id: {listed}")
        key = found[0]
        if _attribute(key, Attribute.SIGN) is False:
            raise ValueError(f"{_name_key(key)} may not sign (CKA_SIGN is false)")
        if _attribute(key, Attribute.ALWAYS_AUTHENTICATE):
            raise ValueError(f"{_name_key(key)} asks for the PIN at each signature (CKA_ALWAYS_AUTHENTICATE)")
        public_key = self._public_key_of(session, key)
        scheme = scheme_of(public_key, self._rsa_padding)
        public_key_der = public_key_to_der(public_key)
        if self._public_key_der not in (b"", public_key_der):
            raise ValueError(f"{self._uri.describe_token()} now holds another key as {self._uri.describe_key()}")
        self._mechanism = _choose_mechanism(scheme, session.token)
        self._scheme, self._public_key_der, self._generation = scheme, public_key_der, token.generation
        return key

    def _public_key_of(self, session: Any, key: Any) -> PublicKeyTypes:
        """Read the public key: of the private object where it shows it, else of the public one or a certificate."""
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
        if len(self._known) == 1:
            return self._known[0]
        raise ValueError(
            f"the public key of {_name_key(key)} is not in the token; import it, or its certificate, under the same id"
        )


_modules: dict[Path, _Module] = {}
_modules_lock = RLock()


def open_hsm_key(
    uri: PKCS11URI,
    pin: PinSource,
    data_dir: Path,
    config_file: str,
    config_key: str,
    known_public_keys: Sequence[PublicKeyTypes] = (),
    rsa_padding: RSAPadding | None = None,
) -> HSMSigner:
    """Open a key in a token. Keys of one token share one session and one login of this process.

    ``known_public_keys``: the configured certificate's key, for tokens that hold nothing but the private key. Raises
    ConfigError where the operator must mend something, SignerUnavailable where the token may come back or refuses the
    PIN; either is one line that says what was looked for and what is there.
    """
    try:
        path = uri.module_file().resolve()
        with _modules_lock:
            module = _modules.setdefault(path, _Module(path))
        with module.lock:
            try:
                identity = _identity(module.find_token(uri))
            except (SignerUnavailable, ValueError):
                module.finalize_if_idle()
                raise
            token = module.tokens.setdefault(identity, _Token(module, uri, pin, RefusedPins(data_dir)))
            token.users += 1
            try:
                return HSMSigner(token, uri, known_public_keys, rsa_padding)
            except BaseException:
                token.release()
                raise
    except (ValueError, PKCS11Error) as error:
        text = _why(error) if isinstance(error, PKCS11Error) else str(error)
        raise ConfigError(config_file, config_key, text) from error
    except SignerUnavailable as error:
        raise SignerUnavailable(f"{config_file}: {config_key}: {error}") from error


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


def _name_token(token: Any) -> str:
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


def _choose_mechanism(scheme: Scheme, token: Any) -> TokenMechanism:
    """Pick how to sign: one where the token's work is least, as far as it offers it; raises ValueError for none."""
    choices = mechanisms_for(scheme)
    offered = {int(one): one for one in token.slot.get_mechanisms()}
    for choice in choices:
        if choice.number in offered:
            return choice
    wanted = " or ".join(choice.name for choice in choices) or "anything"
    names = sorted(
        f"CKM_{one.name}" for one in offered.values() if isinstance(one, Mechanism) and not one.name.startswith("_")
    )
    raise ValueError(
        f"{_name_token(token)} does not offer {wanted} for a {scheme.name} key; it offers {', '.join(names)}"
    )


def _spelled(choice: TokenMechanism) -> tuple[Mechanism, tuple[Mechanism, pkcs11.MGF, int] | None]:
    """Return mechanism and parameter as python-pkcs11 takes them."""
    if not choice.parameter:
        return Mechanism(choice.number), None
    hash_mechanism, mask, salt_octets = struct.unpack("@3L", choice.parameter)
    return Mechanism(choice.number), (Mechanism(hash_mechanism), pkcs11.MGF(mask), salt_octets)


def _why(error: PKCS11Error) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}"
