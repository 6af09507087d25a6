"""Random histories of a CA: whatever happens in whatever order, its CRLs say what is true, and nothing that is not.

Revocations, holds, releases, reasons that change, certificates that expire, time that passes, publishers that are started again. After
each step every published CRL is read by cryptography and compared with a plain model; at the end OpenSSL, which combines
base and delta by code of its own, says of real certificates what the model says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from responder.clock import format_utc
from tests import crl_oracles as oracles
from tests.crl_office import DAY_S, HOUR_S, CRLOffice, Listed
from tests.crl_oracles import pem_of
from tests.pki import Leaf, make_leaf

MakeOffice = Callable[..., CRLOffice]
HOST = "http://crl.example-trust.com"
REASONS = ("keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn", "")
END = "2049-12-31T23:59:59Z"
STEPS = 20
LEAVES = 6  # real certificates; all else is a number


@dataclass
class History:
    """A CA, what is true of its certificates, and every CRL that was published."""

    office: CRLOffice
    shards: int
    rng: random.Random
    leaves: dict[int, Leaf]
    held: set[int] = field(default_factory=set)
    revoked: dict[int, str] = field(default_factory=dict)  # serial → reason, holds too
    expires: dict[int, int] = field(default_factory=dict)
    fulls: dict[str, dict[int, Listed]] = field(default_factory=dict)  # slot → number → CRL
    deltas: dict[str, dict[int, str | None]] = field(default_factory=dict)  # slot → what its last delta listed
    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)  # slot → number and thisUpdate seen last

    @property
    def slots(self) -> list[str]:
        return ["full"] if self.shards == 1 else [str(shard) for shard in range(self.shards)]

    @property
    def now(self) -> int:
        return int(self.office.clock.now())

    def end_of(self, serial: int) -> str:
        return format_utc(self.expires[serial]) if serial in self.expires else END

    def revoke(self, serial: int, reason: str) -> None:
        """Revoke one, or give another reason to one that is on hold."""
        text = f"revoked {format_utc(self.now)} {reason} exp={self.end_of(serial)}".replace("  ", " ")
        self.office.room.change(serial, text)
        self.revoked[serial] = reason
        (self.held.add if reason == "certificateHold" else self.held.discard)(serial)

    def release(self, serial: int) -> None:
        self.office.room.change(serial, f"good exp={self.end_of(serial)}", "released")
        self.held.discard(serial)
        del self.revoked[serial]

    def step(self, serials: list[int]) -> None:
        """Let something happen."""
        rng, good = self.rng, [serial for serial in serials if serial not in self.revoked]
        for _ in range(rng.choice([1, 1, 2, 5])):
            match rng.randrange(6):
                case 0 | 1 if good:
                    self.revoke(good.pop(rng.randrange(len(good))), rng.choice(REASONS))
                case 2 | 3 if good:
                    self.revoke(good.pop(rng.randrange(len(good))), "certificateHold")
                case 4 if self.held:
                    self.release(rng.choice(sorted(self.held)))
                case 5 if self.held:
                    self.revoke(rng.choice(sorted(self.held)), rng.choice(REASONS[:-1]))
        match rng.randrange(5):
            case 0:
                self.office.pass_time(HOUR_S)
            case 1:
                self.office.pass_time(12 * HOUR_S)
            case 2:
                self.office.new_publisher()
        for _ in range(2):  # once more for what came due within the first
            self.keep()
            self.office.settle()

    def keep(self) -> None:
        """Keep the complete CRLs: one may be replaced within a step."""
        for slot in self.slots:
            full = self.office.read(slot)
            self.check_gone(slot, full)
            self.fulls.setdefault(slot, {})[full.number] = full

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See that what is published is true."""
        self.keep()
        said: dict[int, str | None] = {}
        for slot in self.slots:
            full = self.office.read(slot)
            self.check_number(slot, full)
            delta_slot = "delta" if slot == "full" else f"{slot}-delta"
            mine = dict(full.serials)
            assert "removeFromCRL" not in mine.values()
            if self.office.depot.get(self.office.name, delta_slot) is not None:
                delta = self.office.read(delta_slot)
                self.check_number(delta_slot, delta)
                self.check_delta(slot, delta)
                self.check_kept(slot, delta)
                if delta.number > full.number:
                    mine = combined(full, delta)
            assert all(serial % self.shards == int(slot) for serial in mine) if self.shards > 1 else True
            said.update(mine)
        expected = {serial: reason or None for serial, reason in self.revoked.items()}
        extra = said.keys() - expected.keys()
        assert extra == set(), "on a CRL and not revoked"
        missing = {serial for serial in expected.keys() - said.keys() if self.expires.get(serial, self.now) >= self.now}
        assert missing == set(), "revoked and on no CRL"
        assert {serial: expected[serial] for serial in said} == said

    def check_number(self, slot: str, crl: Listed) -> None:
        """CRL-07: a later CRL has a larger number, and its thisUpdate is not before."""
        number, this_update = self.numbers.get(slot, (0, 0))
        assert (crl.number, crl.this_update) == (number, this_update) or crl.number > number
        assert crl.this_update >= this_update
        self.numbers[slot] = (crl.number, crl.this_update)

    def check_gone(self, slot: str, full: Listed) -> None:
        """CRL-09: what is on a complete CRL no more was released, or was on one that is of after its end."""
        before = {number: one for number, one in self.fulls.get(slot, {}).items() if number < full.number}
        if not before:
            return
        for serial in before[max(before)].serials.keys() - full.serials.keys():
            if serial not in self.revoked:
                continue
            end = self.expires[serial]
            assert any(serial in one.serials and one.this_update > end for one in before.values()), serial

    def check_delta(self, slot: str, delta: Listed) -> None:
        """DLT-01, DLT-03, DLT-04: its base was published, and any it may be combined with gives the same."""
        base_number = delta.crl.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number
        fulls = self.fulls[slot]
        assert base_number in fulls
        combinable = [number for number in fulls if base_number <= number < delta.number]
        together = [combined(fulls[number], delta) for number in combinable]
        # Those that have expired may have left a later base already, and stay on an earlier one.
        alive = [{s: r for s, r in one.items() if self.expires.get(s, self.now) >= self.now} for one in together]
        assert all(one == alive[0] for one in alive)
        if delta.number in fulls:
            same = {s: r for s, r in fulls[delta.number].serials.items() if self.expires.get(s, self.now) >= self.now}
            assert alive[0] == same, "one number, one content"

    def check_kept(self, slot: str, delta: Listed) -> None:
        """DLT-06: what a delta has listed as revoked stays on all later ones until a complete CRL has it, expired or not."""
        for serial, reason in self.deltas.get(slot, {}).items():
            if reason != "removeFromCRL" and serial in self.revoked and serial not in delta.serials:
                assert any(serial in one.serials for one in self.fulls[slot].values()), serial
        self.deltas[slot] = delta.serials


def combined(base: Listed, delta: Listed) -> dict[int, str | None]:
    """Combine a base with a delta as RFC 5280 §5.2.4 says."""
    together = {**base.serials, **delta.serials}
    return {serial: reason for serial, reason in together.items() if reason != "removeFromCRL"}


@pytest.mark.parametrize(
    ("seed", "shards", "options"), [(1, 1, 'delta_every = "1h"'), (2, 4, 'delta_every = "1h"'), (3, 4, "")]
)
@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
@pytest.mark.clause("BR", "7.2", "MUST")
def test_random_histories(make_office: MakeOffice, tmp_path: Path, seed: int, shards: int, options: str) -> None:
    """CRL-07, CRL-09, DLT-01, DLT-03, DLT-04, DLT-05, DLT-06, IDP-07: at every moment the CRLs say what is revoked, and by no number twice."""
    rng = random.Random(seed)
    url = f"{HOST}/corp/{{shard}}.crl" if shards > 1 else f"{HOST}/corp.crl"
    words = f'shards = {shards}, url = "{url}"' + (f", {options}" if options else "")
    serials = list(range(1, 61))
    office = make_office(words, statuses={})
    history = History(office, shards, rng, {})
    history.expires = {serial: history.now + rng.randrange(HOUR_S, 4 * DAY_S) for serial in rng.sample(serials, 12)}
    for serial in serials[-LEAVES:]:
        history.expires.pop(serial, None)
        history.leaves[serial] = make_leaf(
            office.room.ca,
            serial_number=serial,
            crl_url=url.replace("{shard}", str(serial % shards)),
            file_name=f"leaf{serial}",
        )
    office.room.load({serial: f"good exp={history.end_of(serial)}" for serial in serials})
    office.turn()
    history.check()
    for _ in range(STEPS):
        history.step([serial for serial in serials if history.expires.get(serial, history.now + DAY_S) > history.now])
        history.check()
    assert len(history.revoked) > LEAVES
    assert any(serial in history.revoked for serial in history.leaves), "or OpenSSL has nothing to say"
    for slot in office.depot.slots(office.name):
        assert oracles.pkilint(office.read(slot).crl.public_bytes(Encoding.DER), "CRL", "PKIX") == [], slot
    for serial, leaf in history.leaves.items():
        slot = "full" if shards == 1 else str(serial % shards)
        crls = []
        for name in (slot, "delta" if slot == "full" else f"{slot}-delta"):
            if office.depot.get(office.name, name) is not None:
                crls.append(tmp_path / f"{name}.pem")
                crls[-1].write_text(pem_of(office.read(name).crl.public_bytes(Encoding.DER)))
        found = oracles.openssl_verify(office.room.ca.certificate_path, leaf.certificate_path, crls, history.now)
        assert (found == oracles.REVOKED) == (serial in history.revoked), (serial, found)
        assert found in (0, oracles.REVOKED)
