"""The least rights of each role, as Redis's ACL rules (DESIGN §2: no key, and no way to a false status, at the edge).

Redis 7 tells reading from writing key by key; Redis 6.2 does not, so that there a captured worker or presigner may add
to any stream under the prefix, and a presigner or publisher may write any hash (docs/security.md). The scripts are bound by these
rules like any command.
"""

from __future__ import annotations

from collections.abc import Sequence

# @connection without @dangerous: logging in and PING, but not the commands that end or watch other connections.
_EVERY_ROLE = ("resetchannels", "-@all", "+@read", "+@connection", "-@dangerous", "+info", "+time")
_COMMANDS: dict[str, Sequence[str]] = {
    "serve": ("+xadd", "+evalsha"),  # of what others have loaded, and bound by these rules within
    "follow": (
        *(
            "+evalsha",
            "+script|load",
            "+wait",
            "+hset",
            "+hsetnx",
            "+hdel",
            "+del",
            "+unlink",
            "+set",
            "+zadd",
            "+xadd",
        ),
    ),
    "presign": (
        *("+evalsha", "+script|load", "+hset", "+hdel", "+del", "+zadd", "+xadd", "+expire"),
        "+xdel",
    ),
    "publish": (
        *("+evalsha", "+script|load", "+wait", "+hset", "+hdel", "+set", "+del", "+unlink", "+zadd"),
        "+zremrangebyscore",
    ),
    "look": (),  # an operator with redis-cli, in the embedded server
}
_KEYS: dict[str, Sequence[str]] = {
    "serve": ("live:ask",),
    "follow": ("ca:*", "{*}:*", "audit:*"),
    "presign": ("ca:*", "signer:*", "{*}:answers:*", "{*}:due", "{*}:expiry:*", "{*}:journal", "live:*", "audit:*"),
    "publish": ("crl:*", "{*}:changed:*", "audit:*"),
    "look": (),
}
ROLES = ("serve", "follow", "presign", "publish")


def acl_rules(role: str, prefix: str, version: tuple[int, ...]) -> list[str]:
    """Return the rules of a role after name and password; ``version`` of the server, such as (6, 2)."""
    if version >= (7, 0):
        keys = [f"%R~{prefix}*", *(f"~{prefix}{pattern}" for pattern in _KEYS[role])]
    else:
        keys = [f"~{prefix}*"]
    return ["resetkeys", *keys, *_EVERY_ROLE, *_COMMANDS[role]]


def acl_lines(prefix: str, version: tuple[int, ...]) -> list[str]:
    """Return a line for each role, to paste into redis-cli once its PASSWORD was replaced."""
    return [f"ACL SETUSER revocast-{role} on >PASSWORD {' '.join(acl_rules(role, prefix, version))}" for role in ROLES]
