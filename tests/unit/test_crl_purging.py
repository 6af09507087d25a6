"""When a revoked status may go: past expiry and retention, and after one more CRL of a CA whose CRLs are issued here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from responder.store.crl_store import Publication
from tests.loader_room import NOW, LoaderRoom, good, revoked
from tests.redis_fixture import RedisServer

DAY = 86_400


@pytest.fixture
def room(redis_server: Callable[..., RedisServer], tmp_path: Path) -> LoaderRoom:
    """Give a room of its own."""
    return LoaderRoom(tmp_path, redis_server())


def publish(room: LoaderRoom, number: int, let_go: float) -> None:
    """Publish a complete CRL that left out what had expired before a second."""
    room.store.reserve_number(room.issuer.id, number - 1, number)
    said = f'{{"number": {number}, "this_update": {int(room.clock.now())}}}'
    one = Publication("full", said, number, int(room.clock.now()), let_go=int(let_go))
    room.store.publish_crls(room.issuer.id, [one])


CRL = 'crl = {{ issue = true, key = "ca.key"{} }}'


@pytest.mark.clause("RFC 5280", "3.3", "MUST NOT")
def test_what_expired_is_purged_after_one_more_crl(room: LoaderRoom) -> None:
    """CRL-09: a CA that issues its CRLs here keeps a revoked status past its retention until a CRL has left it out."""
    room.configure(ca='retention = "10d"\n' + CRL.format(""))
    expiry, moment = "261115000000Z", NOW - 3 * DAY
    rows = [good("03", expiry), revoked("04", expiry=expiry)]
    room.load(*rows)
    publish(room, 1, 0)  # the first CRL leaves nothing out
    room.pass_time(10 * DAY)
    room.load(*rows, good("05"))
    assert sorted(room.statuses()) == ["04", "05"]
    publish(room, 2, moment + DAY)
    room.load(*rows, good("05"), good("06"))
    assert sorted(room.statuses()) == ["05", "06"]


def test_what_expired_is_kept_for_ever_where_crls_keep_it(room: LoaderRoom) -> None:
    """EN 319 411-2 CSS-6.3.10-04; also before the first CRL."""
    room.configure(ca='retention = "10d"\n' + CRL.format(', expired = "keep"'))
    old = "251115000000Z"
    room.load(good("03", old), revoked("04", expiry=old))
    assert sorted(room.statuses()) == ["04"]
    publish(room, 1, 0)
    room.load(revoked("04", expiry=old), good("05"))
    assert sorted(room.statuses()) == ["04", "05"]
