"""`revocast plan`: what is needed, what the key gives, what it takes, and whether that fits. It changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from responder.cli import plan
from responder.cli.app import build_app
from responder.clock import ManualClock
from responder.errors import RevocastError, SignerUnavailable
from responder.memory import FIXED_BYTES, Certificates, in_redis
from responder.signing.delegation import TRIAL_TEXT
from responder.signing.trial import try_pace, usual_signature_bytes
from tests.pki import PKI, key_of, make_ca, make_signer, sign
from tests.redis_fixture import RedisServer
from tests.server import ca_section, write_index
from tests.signing_room import GOOD, CountingSigner, Room
from tests.softhsm import SoftHSMToken


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "TRIAL_S", 0.02)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a configuration with CAs of these names."""

    def write(*names: str, head: str = "", extra_ocsp: str = "", validity: str = "4d") -> Path:
        sections = []
        for name in names or ("corp",):
            ca = make_ca(tmp_path / name, delegated=True, name=f"CA {name}", label=name)
            index = tmp_path / name / "index.txt"
            write_index(index, [])
            sections.append(ca_section(name, ca, index, extra_ocsp=extra_ocsp, validity=validity))
        path = tmp_path / "revocast.toml"
        path.write_text(f'data_dir = "state"\n{head}' + "".join(sections))
        return path

    return write


def run(file: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(build_app(["plan"]), ["plan", "-c", str(file), *arguments])


def planned(file: Path, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    done = run(file, "--json", *arguments)
    assert done.exit_code == exit_code, (done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["fits"] is (exit_code == 0)
    return found


def test_a_rate_to_reckon_with(config: Callable[..., Path], tmp_path: Path) -> None:
    """A million at 4 d and 100/s, by hand: 6.61/s, 6.6 % of the time, 10 000 s for a whole signing, at most 10.6 million."""
    found = planned(config(), "--certificates", "1000000", "--sign-rate", "100")
    (one,) = found["ca"]
    assert one["needed_per_s"] == pytest.approx(6.614, abs=0.001)
    assert one["presigned_per_s"] == pytest.approx(99.9, abs=0.01)
    assert found["utilisation"] == pytest.approx(0.0662, abs=0.0001)
    assert found["first_signing_s"] == pytest.approx(10_010, abs=1)
    assert found["catch_up_s"] == found["first_signing_s"]
    assert found["most_certificates"] == pytest.approx(1_000_000 * 0.7 / 0.0662, rel=0.001)
    assert one["most_certificates"] == pytest.approx(found["most_certificates"], abs=2)
    assert one["refreshed_after_s"] == pytest.approx([151_200, 151_200], abs=1)
    assert found["rate"] == "assumed"
    assert found["suggestions"] == []
    assert not (tmp_path / "state").exists(), "nothing is started"


def test_too_many(config: Callable[..., Path]) -> None:
    """Fifteen million need 99.2/s: exit code 1, and what would help."""
    found = planned(config(), "--certificates", "15000000", "--sign-rate", "100", exit_code=1)
    assert found["utilisation"] == pytest.approx(0.993, abs=0.001)
    assert "routine signing takes 99% of the time" in found["problems"][0]
    # 4 d * 0.993 / 0.7 = 5.674 d = 136.2 h
    assert 'ca corp: validity = "137h" or longer' in found["suggestions"]
    assert any("a key 1.4 times as fast" in text for text in found["suggestions"])
    again = planned(config(validity="137h"), "--certificates", "15000000", "--sign-rate", "100")
    assert again["utilisation"] <= 0.7


def test_several_cas_share_the_time(config: Callable[..., Path]) -> None:
    """A total is shared; CA=N is one CA's alone; the parts add up."""
    file = config("corp", "web")
    found = planned(file, "--certificates", "1000001", "--sign-rate", "100")
    assert sorted(one["certificates"] for one in found["ca"]) == [500_000, 500_001]
    found = planned(file, "--certificates", "corp=10", "--certificates", "web=2000000", "--sign-rate", "100")
    assert [one["certificates"] for one in found["ca"]] == [10, 2_000_000]
    assert found["utilisation"] == pytest.approx(sum(one["utilisation"] for one in found["ca"]))


def test_a_software_key_is_tried(config: Callable[..., Path], tmp_path: Path) -> None:
    """The table for people: the rate was measured, and it fits."""
    done = run(config(), "--certificates", "100000")
    assert done.exit_code == 0, done.output
    for words in ("corp", "100,000", "needed, signatures/s", "the key, signatures/s (measured)", "utilisation", "fits"):
        assert words in done.output
    found = planned(config(), "--certificates", "100000")
    assert found["ca"][0]["key_per_s"] > 100
    assert 150 < found["ca"][0]["redis_bytes_each"] < 250
    # Every use of a key is in the audit log.
    lines = [
        json.loads(line)
        for path in (tmp_path / "state" / "audit").iterdir()
        for line in path.read_text().splitlines()
        if path.suffix == ".log"
    ]
    assert [(line["why"], line["ca"]) for line in lines if line["event"] == "sign"] == [
        ("proof", "corp"),
        ("trial", "corp"),
    ] * 2


def test_a_key_in_a_token_is_tried(softhsm: Callable[..., SoftHSMToken], tmp_path: Path) -> None:
    """Signatures of RSA-2048 are seen to have 256 octets."""
    token = softhsm()
    ca = make_ca(tmp_path / "ca")
    signer = make_signer(ca, "rsa2048")
    token.import_key(signer.key, "ocsp", b"\x01")
    index = tmp_path / "index.txt"
    write_index(index, [])
    file = tmp_path / "revocast.toml"
    section = ca_section(
        "corp", PKI(**{**vars(ca), "signer": signer}), index, extra_ocsp=f', pin_file = "{token.pin_file}"'
    )
    file.write_text('data_dir = "state"\n' + section.replace(str(signer.key_path), token.uri("ocsp")))
    found = planned(file, "--certificates", "100000")
    assert found["rate"] == "measured"
    assert found["ca"][0]["key_per_s"] > 10
    # (status, 10 % revoked) 92 B, and serial, head and signature: as bench/redis_memory's fill with 256 octets
    assert found["ca"][0]["redis_bytes_each"] == pytest.approx(92 + 305, rel=0.05)


def test_without_a_rate(config: Callable[..., Path]) -> None:
    """--no-measure leaves the key alone: what is needed is known, and the rest is not."""
    found = planned(config(), "--certificates", "100000", "--no-measure")
    assert found["rate"] == "unknown"
    assert found["utilisation"] is None
    assert found["ca"][0]["most_certificates"] is None
    assert found["ca"][0]["needed_per_s"] > 0
    assert "the key was not tried" in run(config(), "--certificates", "100000", "--no-measure").output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "say how many certificates of corp with --certificates: no embedded Redis runs"),
        (("--certificates", "many"), "--certificates many: must be N or CA=N with a whole number N"),
        (("--certificates", "web=5"), "--certificates web=5: no such CA; there are corp"),
        (("--certificates", "5", "--sign-rate", "0"), "--sign-rate 0: must be more than 0"),
        (("--certificates", "0"), "no certificates are loaded: say how many with --certificates"),
    ],
)
def test_one_line_for_the_operator(config: Callable[..., Path], arguments: tuple[str, ...], text: str) -> None:
    done = run(config(), *arguments)
    assert isinstance(done.exception, RevocastError)
    assert text in str(done.exception)
    assert "\n" not in str(done.exception)


# --- with Redis -------------------------------------------------------------------------------------------------------


def test_certificates_are_counted_in_redis(make_room: Callable[..., Room]) -> None:
    """Absent --certificates, Redis is asked: how many, how many of them revoked, and SHA-256."""
    room = make_room(ca_options="", ocsp_options="")
    revoked = "revoked 2026-01-01T00:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
    room.load({(1 << 126) + number: revoked if number % 2 else GOOD for number in range(1000)})
    before = room.server.client().info("commandstats")
    found = planned(room.config_file, "--sign-rate", "10")
    assert found["ca"][0]["certificates"] == 1000
    assert found["ca"][0]["signatures_each"] == 1
    assert found["redis_maxmemory"] == 0
    after = room.server.client().info("commandstats")
    used = {name.removeprefix("cmdstat_") for name, stats in after.items() if stats != before.get(name)}
    assert used <= {"info", "hlen", "zrange", "hgetall", "time", "hello", "client|setinfo", "auth", "ping"}, used
    room.store.set_sha256_asked(room.issuer.id, room.clock.now())
    found = planned(room.config_file, "--sign-rate", "10", "--certificates", "corp=5000")
    assert (found["ca"][0]["certificates"], found["ca"][0]["signatures_each"]) == (5000, 2)


def test_a_redis_too_small(redis_server: Callable[..., RedisServer], config: Callable[..., Path]) -> None:
    """A million certificates do not fit into 150 MB."""
    redis = redis_server(maxmemory="150000000")
    file = config(head=redis.config_section())
    found = planned(file, "--certificates", "1000000", "--sign-rate", "1000", exit_code=1)
    assert "maxmemory is 150,000,000" in found["problems"][0]
    assert planned(file, "--certificates", "100000", "--sign-rate", "1000")["redis_maxmemory"] == 150_000_000


def test_memory_is_as_predicted(room: Room) -> None:
    """20 000 certificates, presigned: what Redis says that it uses is within a tenth of the prediction."""
    count = 20_000
    chance = random.Random(1)
    revoked = "revoked 2026-01-01T00:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
    statuses = {chance.getrandbits(119) | 1 << 119: revoked if n % 10 == 0 else GOOD for n in range(count)}
    client = room.server.client()
    empty = int(client.info("memory")["used_memory"])
    room.load(statuses, bits=8)
    assert room.presigner().run_until_idle() == count
    used = int(client.info("memory")["used_memory"]) - empty
    journals = sum(client.memory_usage(f"rc:{{{p:x}}}:journal") or 0 for p in range(16))
    # The server, scripts and connections come once, however many certificates there are; the journals are not full yet.
    predicted = in_redis(Certificates(count, 1, 71, 15, 0.1)).total + journals + FIXED_BYTES - empty
    assert used == pytest.approx(predicted, rel=0.1)


# --- the trial --------------------------------------------------------------------------------------------------------


def test_a_trial_is_short_and_signs_nothing_that_means_anything(room: Room) -> None:
    """At 50 ms a signature a second is 18 to 22 of them; every message begins with the trial's words."""
    clock = ManualClock(0)
    key = CountingSigner(room.key.signer)
    key.spoil = lambda signature: (clock.advance(0.05), signature)[1]
    seen: list[bytes] = []
    real = key.sign
    key.sign = lambda messages: (seen.extend(messages), real(messages))[1]  # type: ignore[method-assign]
    found = try_pace(key, clock, 1.0)
    assert found.per_second == pytest.approx(20)
    assert found.count == key.count <= 22
    assert all(message.startswith(TRIAL_TEXT) for message in seen)
    assert len(set(seen)) == len(seen)


def test_a_trial_finds_out_a_key_that_signs_nonsense(room: Room) -> None:
    clock = ManualClock(0)
    room.key.spoil = lambda signature: (clock.advance(0.01), signature[:-1] + bytes([signature[-1] ^ 1]))[1]
    with pytest.raises(SignerUnavailable, match="does not verify"):
        try_pace(room.key, clock, 0.1)


@pytest.mark.parametrize("key_type", ["rsa2048", "p256", "p384", "p521", "ed25519", "mldsa44", "mldsa65", "mldsa87"])
def test_usual_lengths(key_type: str) -> None:
    """What is reckoned with for a key that is not tried is what it makes, to an octet or two."""

    key = key_of(key_type, "usual")
    lengths = [len(sign(key, key_type, bytes([n]))) for n in range(20)]
    assert usual_signature_bytes(key.public_key()) == pytest.approx(sum(lengths) / 20, abs=2)
