"""CRL numbers: one more than all that is known, and only for what was read after the last one was given away."""

from __future__ import annotations

from pathlib import Path

import pytest

from responder.crl.numbering import LAST_NUMBER, next_number, reserve
from responder.crl.snapshot import take_snapshot
from responder.errors import CommitConflict, PublicationRefused
from tests.redis_fixture import RedisServer
from tests.store_room import CA, REVOKED, open_ca, put, serials


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_the_next_number_is_above_all_that_are_known() -> None:
    """BR §7.2.2: less than 2^159, which is what fits into 20 octets."""
    assert (next_number(), next_number(0, None), next_number(4, 17, None, 9)) == (1, 1, 18)
    assert next_number(LAST_NUMBER - 1) == LAST_NUMBER == 2**159 - 1
    with pytest.raises(PublicationRefused, match=r"^number: .*RFC 5280 §5\.2\.3"):
        next_number(LAST_NUMBER)


def test_what_was_read_before_another_got_its_number_is_read_again(each_redis: RedisServer, tmp_path: Path) -> None:
    """Else the greater number would say less: a revocation would be gone again, with nobody going back in numbers."""
    store, other = open_ca(each_redis), each_redis.store()
    store.set_as_of(CA, 1_795_700_000)
    with take_snapshot(store, CA, tmp_path / "slow") as slow:
        put(store, {serials(1)[0]: REVOKED}, "revoked")
        with take_snapshot(other, CA, tmp_path / "quick") as quick:
            assert (slow.count, quick.count) == (0, 1)
            assert reserve(other, quick.instant, None, 41) == 42
        with pytest.raises(CommitConflict):
            reserve(store, slow.instant, 41)
    with take_snapshot(store, CA, tmp_path / "again") as again:
        assert (again.count, reserve(store, again.instant, 7)) == (1, 43)
