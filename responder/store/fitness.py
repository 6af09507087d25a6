"""Whether a Redis is fit to hold statuses, for ``revocast check``. Looks only, and raises for nothing it may not see."""

from __future__ import annotations

from redis.exceptions import ResponseError

from responder.store import values
from responder.store.link import Link, refusal
from responder.store.values import Finding

LEAST_PACKED_VALUE = 1024  # octets: an RSA-4096 answer still fits; ML-DSA's do not, and lose nothing by it
LEAST_PACKED_ENTRIES = 1024  # as many has a hash of the revoked index at 16 million revoked
MEMORY_ALARM = 0.85  # of maxmemory: here the presigner stops, so that revocations always fit


def check(link: Link) -> list[Finding]:
    """Return what was found, the good news too; raises StoreUnavailable where Redis does not answer."""
    info = values.info_fields(link.call("INFO"))
    return [
        _server(info),
        _memory(info),
        _persistence(info, _setting(link, "appendfsync")),
        _packing(link),
        _replication(info),
    ]


def _setting(link: Link, name: str) -> str | None:
    reply = link.pipeline([("CONFIG", "GET", name)])[0]
    if isinstance(reply, ResponseError) or not reply:
        return None  # NOPERM, or a managed Redis without CONFIG
    return str(reply[1].decode())


def _server(info: dict[str, str]) -> Finding:
    reason = refusal(info)
    if reason is not None:
        return Finding("error", "redis", reason)
    policy = info.get("maxmemory_policy", "noeviction")
    return Finding("ok", "redis", f"version {info.get('redis_version')}, maxmemory-policy {policy}")


def _memory(info: dict[str, str]) -> Finding:
    used, most = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    if not most:
        return Finding("ok", "redis memory", f"{used >> 20} MiB used, no maxmemory")
    text = f"{used >> 20} of {most >> 20} MiB used"
    if used >= MEMORY_ALARM * most:
        return Finding("error", "redis memory", f"{text}: above 85 % nothing is signed, so that revocations still fit")
    return Finding("ok", "redis memory", text)


def _persistence(info: dict[str, str], appendfsync: str | None) -> Finding:
    if info.get("aof_enabled") != "1":
        return Finding(
            "warning",
            "redis persistence",
            "appendonly is no: a restart forgets statuses; set appendonly yes, appendfsync always",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("error", "redis persistence", "the append-only file cannot be written")
    if appendfsync is None:
        return Finding(
            "info", "redis persistence", "appendonly yes; this user may not see appendfsync: it should be always"
        )
    if appendfsync != "always":
        return Finding(
            "warning",
            "redis persistence",
            f"appendfsync is {appendfsync}: a crash of the machine may lose acknowledged revocations; set always",
        )
    return Finding("ok", "redis persistence", "appendonly yes, appendfsync always")


def _packing(link: Link) -> Finding:
    # Redis 7 calls them hash-max-listpack-*, and still knows these names.
    value, entries = _setting(link, "hash-max-ziplist-value"), _setting(link, "hash-max-ziplist-entries")
    wanted = f"hash-max-ziplist-value {LEAST_PACKED_VALUE} and hash-max-ziplist-entries {LEAST_PACKED_ENTRIES}"
    if value is None or entries is None:
        return Finding("info", "redis packing", f"this user may not see the limits of packed hashes: set {wanted}")
    if int(value) < LEAST_PACKED_VALUE or int(entries) < LEAST_PACKED_ENTRIES:
        return Finding(
            "warning",
            "redis packing",
            f"hash-max-ziplist-value is {value}, hash-max-ziplist-entries {entries}: a certificate may take half as "
            f"much memory again; set {wanted}",
        )
    return Finding("ok", "redis packing", f"hash-max-ziplist-value {value}, hash-max-ziplist-entries {entries}")


def _replication(info: dict[str, str]) -> Finding:
    if info.get("role") != "master":
        return Finding("error", "redis replication", f"this server is a {info.get('role')}: it takes no statuses")
    replicas = [value for name, value in info.items() if name.startswith("slave") and "ip=" in value]
    online = sum("state=online" in value for value in replicas)
    if not replicas:
        return Finding("ok", "redis replication", "no replicas")
    text = f"{online} of {len(replicas)} replicas online; each that is must report a change before it counts"
    return Finding("ok" if online == len(replicas) else "warning", "redis replication", text)
