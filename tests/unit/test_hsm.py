"""Keys in a token: SoftHSM, and a module before it that counts and fails as it is told."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.errors import ConfigError, InvariantBroken, SignerUnavailable
from responder.signing import hsm
from responder.signing.algorithms import RSAPadding, public_key_to_der, verify_signature
from responder.signing.hsm import HSMSigner, _hosts, open_hsm_key
from responder.signing.pins import PinSource
from responder.signing.pkcs11_uri import parse_pkcs11_uri
from tests.pki import SIGNATURE_ALGORITHM_DER, key_of, make_ca, verify, write_key
from tests.softhsm import SoftHSMToken, Spy, make_token

MakeToken = Callable[..., SoftHSMToken]
MESSAGES = [b"one", b"", b"three" * 1000]


@pytest.fixture(autouse=True)
def _no_key_stays_open() -> Iterator[None]:
    yield
    assert not _hosts, "a test left a key open"


@pytest.fixture
def open_key(tmp_path: Path) -> Iterator[Callable[..., HSMSigner]]:
    """Give ``open_key(uri, pin_file, known)``: opens a key with data under tmp_path, closes it when the test ends."""
    opened: list[HSMSigner] = []

    def open_it(
        uri: str, pin_file: Path, known: Sequence[PublicKeyTypes] = (), rsa_padding: RSAPadding | None = None
    ) -> HSMSigner:
        pin = PinSource("revocast.toml", "ca[corp].ocsp", "PIN", pin_file=pin_file)
        key = open_hsm_key(
            parse_pkcs11_uri(uri), pin, tmp_path / "data", "revocast.toml", "ca[corp].ocsp.key", known, rsa_padding
        )
        opened.append(key)
        return key

    yield open_it
    for key in opened:
        key.close()


OpenKey = Callable[..., HSMSigner]


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    """Return an error's text, which must be one line that names the file and the key."""
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("revocast.toml: ca[corp].ocsp.key: ")
    return text


@pytest.mark.clause("RFC 5758", "3.2", "MUST")
@pytest.mark.parametrize("key_type", ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521"])
def test_imported_keys_sign(softhsm: MakeToken, open_key: OpenKey, key_type: str) -> None:
    """ALG-02, ALG-03, BR-11: signatures verify, and the AlgorithmIdentifier has the exact bytes."""
    token = softhsm()
    private_key = key_of(key_type, "hsm")
    token.import_key(private_key, "signer", b"\x01\xff")
    key = open_key(token.uri("signer"), token.pin_file)
    assert key.public_key_der == public_key_to_der(private_key.public_key())
    assert key.signature_algorithm_der == SIGNATURE_ALGORITHM_DER[key_type]
    signatures = key.sign(MESSAGES)
    assert len(signatures) == len(MESSAGES)
    for message, signature in zip(MESSAGES, signatures, strict=True):
        assert verify_signature(key.public_key_der, key.signature_algorithm_der, signature, message)
    assert not verify_signature(key.public_key_der, key.signature_algorithm_der, signatures[0], MESSAGES[1])
    assert key.sign([]) == []


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
@pytest.mark.parametrize(
    ("hidden", "key_type"), [("", "rsa2048"), ("", "rsa4096"), ("43\n", "rsa2048")], ids=["2048", "4096", "by digest"]
)
def test_pss(softhsm: MakeToken, spy: Spy, open_key: OpenKey, hidden: str, key_type: str) -> None:
    """BR-11: PSS by CKM_SHA256_RSA_PKCS_PSS, or by CKM_RSA_PKCS_PSS over the digest, has the parameters it names."""
    token = softhsm()
    private_key = key_of(key_type, "hsm")
    token.import_key(private_key, "signer", b"\x01")
    if hidden:
        spy.order("mechanisms", hidden)
    key = open_key(token.uri("signer", module=spy.module), token.pin_file, rsa_padding="pss")
    assert key.signature_algorithm_der == SIGNATURE_ALGORITHM_DER["rsa2048pss"]
    for message, signature in zip(MESSAGES, key.sign(MESSAGES), strict=True):
        verify(private_key.public_key(), "rsa2048pss", signature, message)


def test_padding_is_for_rsa(softhsm: MakeToken, open_key: OpenKey) -> None:
    """A padding that means nothing to the token's key is one line."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    with pytest.raises(ConfigError, match="rsa_padding is for RSA keys, and this is a P-256 key") as caught:
        open_key(token.uri("signer"), token.pin_file, rsa_padding="pss")
    one_line(caught)


def test_every_kind_of_key_in_one_token(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """RSA (both paddings), the three curves and Ed25519, found by label, by id and by both, share one C_Login."""
    token = softhsm()
    for number, key_type in enumerate(("rsa2048", "p256", "p384", "p521"), 1):
        token.import_key(key_of(key_type, "hsm"), key_type, bytes([number]))
    token.generate_ed25519("ed25519", b"\x05")
    keys = [
        open_key(token.uri("rsa2048", module=spy.module), token.pin_file),
        open_key(token.uri("", b"\x01", module=spy.module), token.pin_file, rsa_padding="pss"),
        open_key(token.uri("p256", b"\x02", module=spy.module), token.pin_file),
        open_key(token.uri("", b"\x03", module=spy.module), token.pin_file),
        open_key(token.uri("p521", module=spy.module), token.pin_file),
        open_key(token.uri("ed25519", module=spy.module), token.pin_file),
    ]
    kinds = ["rsa2048", "rsa2048pss", "p256", "p384", "p521", "ed25519"]
    assert [key.signature_algorithm_der for key in keys] == [SIGNATURE_ALGORITHM_DER[kind] for kind in kinds]
    for key in keys:
        for message, signature in zip(MESSAGES, key.sign(MESSAGES), strict=True):
            assert verify_signature(key.public_key_der, key.signature_algorithm_der, signature, message)
        if key.digest_name:
            signature = key.sign_digest(hashlib.new(key.digest_name, b"large").digest())
            assert verify_signature(key.public_key_der, key.signature_algorithm_der, signature, b"large")
    assert [key.digest_name for key in keys] == ["sha256", "sha256", "sha256", "sha384", "sha512", ""]
    with pytest.raises(InvariantBroken, match="whole messages"):
        keys[-1].sign_digest(bytes(32))
    assert spy.login_count == 1


@pytest.mark.clause("RFC 8410", "3", "MUST")
def test_generated_ed25519_signs(softhsm: MakeToken, open_key: OpenKey) -> None:
    """ALG-04: Ed25519 in a token signs the message itself; parameters are absent."""
    token = softhsm()
    token.generate_ed25519("signer", b"\x02")
    key = open_key(token.uri("", b"\x02"), token.pin_file)
    assert key.signature_algorithm_der == bytes.fromhex("300506032b6570")
    # The last one as long as a live answer with 256 SHA-512 CertIDs.
    messages = [*MESSAGES, b"long" * 20_000]
    for message, signature in zip(messages, key.sign(messages), strict=True):
        assert verify_signature(key.public_key_der, key.signature_algorithm_der, signature, message)


@pytest.mark.clause("RFC 5758", "3.2", "MUST")
def test_ten_thousand_ecdsa_signatures(softhsm: MakeToken, open_key: OpenKey) -> None:
    """ALG-03: r and s of every shape, also short ones and ones with the high bit, become minimal INTEGERs."""
    token = softhsm()
    private_key = key_of("p256", "hsm")
    token.import_key(private_key, "signer", b"\x01")
    messages = [str(number).encode() for number in range(10_000)]
    signatures = open_key(token.uri("signer"), token.pin_file).sign(messages)
    # Lengths below 70 octets show a short r or s: 10^4 signatures have some 80 of them.
    assert {len(signature) for signature in signatures} >= {69, 70, 71, 72}
    der = public_key_to_der(private_key.public_key())
    assert all(
        verify_signature(der, SIGNATURE_ALGORITHM_DER["p256"], signature, message)
        for message, signature in zip(messages, signatures, strict=True)
    )


def test_keys_of_one_token_share_one_login(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """Two keys of a token take one process and one login; the last to close logs out."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "one", b"\x01")
    token.import_key(key_of("p384", "hsm"), "two", b"\x02")
    one = open_key(token.uri("one", module=spy.module), token.pin_file)
    two = open_key(token.uri("", b"\x02", module=spy.module), token.pin_file)
    assert spy.login_count == 1
    one.close()
    (signature,) = two.sign([b"message"])
    assert verify_signature(two.public_key_der, two.signature_algorithm_der, signature, b"message")
    two.close()
    with pytest.raises(SignerUnavailable, match="closed"):
        two.sign([b"message"])
    by_serial = f"pkcs11:serial={token.serial};slot-id={token.slot_id};id=%02?module-path={spy.module}"
    open_key(by_serial, token.pin_file).sign([b"message"])
    assert spy.login_count == 2


def open_in_process(token: SoftHSMToken, uri: str, pin_file: Path, data_dir: Path) -> subprocess.Popen[str]:
    """Start a process that opens a key as the presigner would, and says what came of it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from responder.signing.hsm import open_hsm_key\n"
        "from responder.signing.pins import PinSource\n"
        "from responder.signing.pkcs11_uri import parse_pkcs11_uri\n"
        "uri, pin_file, data_dir = sys.argv[1:]\n"
        "pin = PinSource('f', 't', 'PIN', pin_file=Path(pin_file))\n"
        "try:\n"
        "    open_hsm_key(parse_pkcs11_uri(uri), pin, Path(data_dir), 'f', 'k').close(); print('opened')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, uri, str(pin_file), str(data_dir)],
        env={**os.environ, "SOFTHSM2_CONF": str(token.configuration)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_refused_pin_is_tried_once(softhsm: MakeToken, spy: Spy, open_key: OpenKey, tmp_path: Path) -> None:
    """A wrong PIN is offered to the token once: not again, not by another process, until its source changes."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    uri = token.uri("signer", module=spy.module)
    wrong = tmp_path / "wrong.pin"
    wrong.write_text("wrong-pin-1\n")
    with pytest.raises(SignerUnavailable, match="refused the PIN") as first:
        open_key(uri, wrong)
    assert "'revocast test'" in one_line(first)
    assert "wrong-pin-1" not in one_line(first)
    assert spy.login_count == 1
    with pytest.raises(SignerUnavailable, match="is not tried again; change the PIN's source") as second:
        open_key(uri, wrong)
    one_line(second)
    process = open_in_process(token, uri, wrong, tmp_path / "data")
    assert "SignerUnavailable" in process.communicate(timeout=30)[0]
    assert spy.login_count == 1

    wrong.write_text("wrong-pin-2\n")
    with pytest.raises(SignerUnavailable, match="refused the PIN"):
        open_key(uri, wrong)
    wrong.write_text("wrong-pin-1\n")  # back to the first: the token has seen it
    with pytest.raises(SignerUnavailable, match="not tried again"):
        open_key(uri, wrong)
    assert spy.login_count == 2

    (record,) = (tmp_path / "data" / "refused-pins").iterdir()
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    assert "wrong-pin" not in record.read_text()
    wrong.write_text(token.pin)
    assert open_key(uri, wrong).sign([b"message"])
    assert record.read_text() == ""
    assert spy.login_count == 3


def test_two_processes_with_a_wrong_pin_try_it_once(softhsm: MakeToken, spy: Spy, tmp_path: Path) -> None:
    """Processes that start together with the same wrong PIN cost the token one try, not one each."""
    token = softhsm()
    wrong = tmp_path / "wrong.pin"
    wrong.write_text("wrong-pin-1\n")
    uri = token.uri("signer", module=spy.module)
    processes = [open_in_process(token, uri, wrong, tmp_path / "data") for _ in range(4)]
    for process in processes:
        assert "SignerUnavailable" in process.communicate(timeout=30)[0]
    assert spy.login_count == 1


def test_no_login_where_a_refusal_could_not_be_remembered(
    softhsm: MakeToken, spy: Spy, open_key: OpenKey, tmp_path: Path
) -> None:
    """Where data_dir cannot be written, no PIN is tried: a loop of restarts would lock the token."""
    token = softhsm()
    (tmp_path / "data").write_text("a file where the directory should be")
    with pytest.raises(SignerUnavailable, match="cannot be remembered") as caught:
        open_key(token.uri("signer", module=spy.module), token.pin_file)
    one_line(caught)
    assert spy.login_count == 0


@pytest.mark.parametrize(
    ("flags", "problem"),
    [("40000", "is locked"), ("20000", "would be locked by one more wrong PIN")],
)
def test_locked_and_last_try(softhsm: MakeToken, spy: Spy, open_key: OpenKey, flags: str, problem: str) -> None:
    """A token that is locked, or would be by one more mistake, is not logged in to."""
    token = softhsm()
    spy.order("flags", flags)
    with pytest.raises(SignerUnavailable, match=problem) as caught:
        open_key(token.uri("signer", module=spy.module), token.pin_file)
    one_line(caught)
    assert spy.login_count == 0


def test_missing_module(open_key: OpenKey, tmp_path: Path) -> None:
    """A module that is not there is the operator's mistake."""
    uri = f"pkcs11:token=t;object=o?module-path={tmp_path}/none.so"
    with pytest.raises(ConfigError, match=r"no PKCS#11 module at .*/none\.so") as caught:
        open_key(uri, tmp_path / "pin")
    one_line(caught)


def test_file_that_is_no_module(open_key: OpenKey, tmp_path: Path) -> None:
    """A file that cannot be loaded as a module is one line too."""
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises((ConfigError, SignerUnavailable), match=r"text\.so cannot be initialised") as caught:
        open_key(f"pkcs11:token=t;object=o?module-path={tmp_path}/text.so", tmp_path / "pin")
    one_line(caught)


def test_missing_token_lists_what_is_there(softhsm: MakeToken, open_key: OpenKey) -> None:
    """A token that is not there may come back; the error says what was looked for and what is there."""
    token = softhsm("the other one")
    uri = f"pkcs11:token=wanted;object=o?module-path={token.module}"
    with pytest.raises(SignerUnavailable, match="no token token='wanted'") as caught:
        open_key(uri, token.pin_file)
    assert "'the other one'" in one_line(caught)
    assert token.serial in one_line(caught)


def test_two_tokens_of_one_label(softhsm: MakeToken, open_key: OpenKey) -> None:
    """Two tokens of one label are told apart by their serials, never taken by chance."""
    one, two = softhsm("same"), softhsm("same")
    two.run("--import", _p8(two), "--slot", str(two.slot_id), "--pin", two.pin, "--label", "signer", "--id", "01")
    with pytest.raises(ConfigError, match=r"2 tokens match .*add serial or slot-id") as caught:
        open_key(two.uri("signer"), two.pin_file)
    assert one.serial in one_line(caught)
    assert two.serial in one_line(caught)
    assert open_key(two.uri("signer", serial=two.serial), two.pin_file).sign([b"message"])


def _p8(token: SoftHSMToken) -> Path:
    return write_key(token.configuration.parent / "key.p8", key_of("p256", "hsm"))


def test_missing_key_lists_what_is_there(softhsm: MakeToken, open_key: OpenKey) -> None:
    """A key that is not there is the operator's mistake; the error lists the token's private keys."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "another", b"\x01\x02")
    with pytest.raises(ConfigError, match="no private key object='signer' in token") as caught:
        open_key(token.uri("signer"), token.pin_file)
    assert "object='another' id=%01%02" in one_line(caught)


def test_several_matching_keys(softhsm: MakeToken, open_key: OpenKey) -> None:
    """Keys of one label are told apart by id, never taken by chance."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    token.import_key(key_of("p384", "hsm"), "signer", b"\x02")
    with pytest.raises(ConfigError, match=r"2 objects match .*say both object and id") as caught:
        open_key(token.uri("signer"), token.pin_file)
    assert "id=%01" in one_line(caught)
    assert "id=%02" in one_line(caught)
    key = open_key(token.uri("signer", b"\x02"), token.pin_file)
    assert key.public_key_der == public_key_to_der(key_of("p384", "hsm").public_key())


def test_key_that_may_not_sign(softhsm: MakeToken, open_key: OpenKey) -> None:
    """A key whose CKA_SIGN is false is refused before anything is served."""
    token = softhsm()
    token.script(
        "session.generate_keypair(KeyType.RSA, 2048, store=True, label='decrypts', id=b'1',\n"
        "    capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT)\n"
    )
    with pytest.raises(ConfigError, match="may not sign") as caught:
        open_key(token.uri("decrypts"), token.pin_file)
    one_line(caught)


@pytest.mark.parametrize(
    ("private_key", "problem"),
    [
        (rsa.generate_private_key(65_537, 1024), "RSA-1024 cannot sign answers; allowed: RSA of 2048"),  # noqa: S505 - weak on purpose
        (ec.generate_private_key(ec.SECP224R1()), "its curve is 1.3.132.0.33; allowed: P-256"),
    ],
    ids=["rsa1024", "p224"],
)
def test_keys_that_are_not_allowed(softhsm: MakeToken, open_key: OpenKey, private_key: Any, problem: str) -> None:
    """A weak key, or one on another curve, is refused by a line that names what is allowed."""
    token = softhsm()
    token.import_key(private_key, "signer", b"\x01")
    with pytest.raises(ConfigError, match=problem) as caught:
        open_key(token.uri("signer"), token.pin_file)
    one_line(caught)


def test_private_key_alone(softhsm: MakeToken, open_key: OpenKey, tmp_path: Path) -> None:
    """Where the token holds the private key alone, the certificate shows the public one: in the token or the file."""
    token = softhsm()
    private_key = key_of("p256", "hsm")
    token.import_key(private_key, "signer", b"\x01", public=False)
    with pytest.raises(ConfigError, match="public key of object='signer' id=%01 is not in the token") as caught:
        open_key(token.uri("signer"), token.pin_file)
    one_line(caught)
    known = open_key(token.uri("signer"), token.pin_file, [private_key.public_key()])
    assert verify_signature(known.public_key_der, known.signature_algorithm_der, known.sign([b"m"])[0], b"m")
    known.close()
    certificate = make_ca(tmp_path, "p256", key=private_key).certificate_der
    token.script(
        "session.create_object({Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.TOKEN: True,\n"
        "    Attribute.CERTIFICATE_TYPE: CertificateType.X_509, Attribute.ID: b'\\x01', Attribute.SUBJECT: b'0\\0',\n"
        f"    Attribute.VALUE: {certificate!r}}})\n"
    )
    key = open_key(token.uri("signer"), token.pin_file)
    assert key.public_key_der == public_key_to_der(private_key.public_key())


def test_mechanisms(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """RSA goes by CKM_RSA_PKCS where CKM_SHA256_RSA_PKCS is missing; with neither, the error says what there is."""
    token = softhsm()
    token.import_key(key_of("rsa2048", "hsm"), "signer", b"\x01")
    uri = token.uri("signer", module=spy.module)
    spy.order("mechanisms", "40\n")
    key = open_key(uri, token.pin_file)
    assert verify_signature(key.public_key_der, key.signature_algorithm_der, key.sign([b"m"])[0], b"m")
    assert key.digest_name == "sha256"
    key.close()
    spy.order("mechanisms", "1\n")
    key = open_key(uri, token.pin_file)
    assert (key.digest_name, len(key.sign([b"m"]))) == ("", 1)
    key.close()
    spy.order("mechanisms", "40\n1\n")
    with pytest.raises(
        ConfigError, match="does not offer CKM_SHA256_RSA_PKCS or CKM_RSA_PKCS for a RSA-2048"
    ) as caught:
        open_key(uri, token.pin_file)
    assert "CKM_ECDSA" in one_line(caught)


@pytest.mark.parametrize("result", ["b3", "32", "30", "5", "190"])
def test_lost_session_is_opened_anew(softhsm: MakeToken, spy: Spy, open_key: OpenKey, result: str) -> None:
    """ALG-08: a failure returns no signature; the next sign opens the session anew, with one login."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    spy.order("sign", result)
    for _ in range(2):
        with pytest.raises(SignerUnavailable, match="failed to sign") as caught:
            key.sign([b"m"])
        assert "\n" not in str(caught.value)
    spy.withdraw("sign")
    assert verify_signature(key.public_key_der, key.signature_algorithm_der, key.sign([b"m"])[0], b"m")
    assert spy.login_count == 3


def test_token_that_goes_and_comes_back(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """A token that is gone is looked for at each sign, and used again when it is back."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    tokens = token.configuration.parent / "tokens"
    away = tokens.rename(tokens.with_name("away"))
    tokens.mkdir()
    with pytest.raises(SignerUnavailable, match="failed to sign"):
        key.sign([b"m"])
    with pytest.raises(SignerUnavailable, match="no token token='revocast test'"):
        key.sign([b"m"])
    tokens.rmdir()
    away.rename(tokens)
    assert verify_signature(key.public_key_der, key.signature_algorithm_der, key.sign([b"m"])[0], b"m")
    assert spy.login_count == 2


def test_token_that_hangs_while_it_is_opened(
    softhsm: MakeToken, spy: Spy, open_key: OpenKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up after a while; the next try does not stand behind the one that hangs."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    uri = token.uri("signer", module=spy.module)
    spy.order("login-hang", "")
    with monkeypatch.context() as patched:
        patched.setattr(hsm, "OPEN_WITHIN_S", 0.2)
        with pytest.raises(SignerUnavailable, match="was not opened within"):
            open_key(uri, token.pin_file)
        assert not _hosts
    spy.withdraw("login-hang")
    assert open_key(uri, token.pin_file).sign(MESSAGES)


def test_closed_key_owes_nothing(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """Whoever waits for signatures learns that there will be none."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    spy.order("hang", "")
    job = key.submit(MESSAGES, urgent=False)
    assert not job.done
    key.close()
    assert job.done
    with pytest.raises(SignerUnavailable, match="is closed"):
        job.result()


def test_pin_changed_while_running(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """After a loss the PIN is read anew; a wrong one by then is tried once, and a mended one is taken up."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    token.pin_file.write_text("no longer right\n")
    assert key.sign([b"m"])  # the session stands
    spy.order("sign", "b3")
    with pytest.raises(SignerUnavailable, match="failed to sign"):
        key.sign([b"m"])
    spy.withdraw("sign")
    with pytest.raises(SignerUnavailable, match="refused the PIN"):
        key.sign([b"m"])
    for _ in range(3):
        with pytest.raises(SignerUnavailable, match="not tried again"):
            key.sign([b"m"])
    assert spy.login_count == 2
    token.pin_file.unlink()
    with pytest.raises(SignerUnavailable, match="cannot read"):
        key.sign([b"m"])
    token.pin_file.write_text(token.pin)
    assert key.sign([b"m"])
    assert spy.login_count == 3


def test_another_key_under_the_same_name(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """A key that was replaced in the token is not signed with under the old certificate."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    spy.order("sign", "b3")
    with pytest.raises(SignerUnavailable):
        key.sign([b"m"])
    spy.withdraw("sign")
    token.script("[one.destroy() for one in list(session.get_objects({Attribute.LABEL: 'signer'}))]\n")
    token.import_key(key_of("p256", "another"), "signer", b"\x01")
    with pytest.raises(SignerUnavailable, match="now holds another key"):
        key.sign([b"m"])


def test_a_key_that_is_gone_costs_its_neighbours_nothing(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """One key is deleted from the token: the other signs on, with its login; neither tries nor closing take anything."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "stays", b"\x01")
    token.import_key(key_of("p256", "ocsp"), "goes", b"\x02")
    stays = open_key(token.uri("stays", module=spy.module), token.pin_file)
    goes = open_key(token.uri("goes", module=spy.module), token.pin_file)
    (host,) = _hosts.values()
    assert host._process is not None
    host._process.kill()
    token.script("[one.destroy() for one in list(session.get_objects({Attribute.LABEL: 'goes'}))]\n")
    assert stays.sign([b"m"])
    logins, sessions = spy.login_count, spy.open_sessions
    spy.order("delay", f"{20_000:x}")
    job = stays.submit([b"m"] * 50, urgent=False)
    for _ in range(4):
        with pytest.raises(SignerUnavailable, match="no private key"):
            goes.sign([b"m"])
    assert not job.done
    goes.close()
    spy.withdraw("delay")
    assert len(job.result()) == 50
    assert stays.sign([b"m"])
    assert spy.login_count == logins
    assert spy.open_sessions <= sessions + 1, "one is kept for the next key"


def test_a_token_that_says_nothing_is_asked_once(
    softhsm: MakeToken, spy: Spy, open_key: OpenKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for another key in a token of which nothing was heard for long."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    token.import_key(key_of("p256", "ocsp"), "other", b"\x02")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    other = open_key(token.uri("other", module=spy.module), token.pin_file)
    monkeypatch.setattr(hsm, "SILENT_AFTER_S", 0.2)
    spy.order("hang", "")
    job = key.submit([b"m"], urgent=True)
    with pytest.raises(SignerUnavailable, match="has not signed within"):
        job.result(0.3)
    for one in (key, other):
        with pytest.raises(SignerUnavailable, match="owes replies and says nothing"):
            one.sign([b"m"])
    spy.withdraw("hang")
    assert len(job.result()) == 1
    assert other.sign([b"m"])


def test_a_slow_token_is_not_taken_for_a_stuck_one(
    softhsm: MakeToken, spy: Spy, open_key: OpenKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes longer than a token may be silent is signed, since the token is heard of meanwhile."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    monkeypatch.setattr(hsm, "STUCK_AFTER_S", 1.0)
    spy.order("delay", f"{50_000:x}")
    assert len(key.submit([b"m"] * 40, urgent=False).result(60.0)) == 40


def test_signature_of_zeros_is_refused(softhsm: MakeToken, spy: Spy, open_key: OpenKey) -> None:
    """ALG-08: a token that returns an empty buffer makes no signature of it."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer", module=spy.module), token.pin_file)
    spy.order("raw", "1")
    with pytest.raises(SignerUnavailable, match="r or s of zero"):
        key.sign([b"m"])


def test_child_of_a_fork_is_refused(softhsm: MakeToken, open_key: OpenKey) -> None:
    """A process that has initialised a module must not fork; its child finds out before it calls the module."""
    token = softhsm()
    token.import_key(key_of("p256", "hsm"), "signer", b"\x01")
    key = open_key(token.uri("signer"), token.pin_file)
    child = os.fork()
    if child == 0:
        try:
            key.sign([b"m"])
        except InvariantBroken:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert key.sign([b"m"])


def test_token_without_a_user_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_key: OpenKey) -> None:
    """A slot that was never initialised is no token; the error says that nothing is there."""
    token = make_token(tmp_path / "hsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.configuration))
    for path in (token.configuration.parent / "tokens").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(SignerUnavailable, match=r"there: none$") as caught:
        open_key(token.uri("signer"), token.pin_file)
    one_line(caught)
