"""The Lua scripts behind CRLs. As mechanical as those of scripts.py: they compare what was read, and write what was decided.

CUT reads keys of all partitions in one go, and so needs a single Redis (or Sentinel), not a Cluster.
"""

from __future__ import annotations

from typing import Final

from responder.store.layout import BASE_MEMBER, CHUNK_BITS, CUT_MEMBER, MIN_BITS, PARTITIONS, REVOKED_BITS
from responder.store.scripts import COMMON, Script

# Chunks that have changed since the numbers that were seen, each whole, and the overrides: all of one instant, as nothing runs
# beside a script. Where that would be too much at once, as many as are allowed, in the journals' order; the caller comes again.
# An entry names a bucket and not how deep it lay, so the chunks are those that it could have held (layout.could_hold).
# Where that was all, the changed sets note it: what is revoked now may be listed on the CRL that comes of it.
# KEYS changed of each partition
# ARGV ca, most fields, then of each partition: journal, start of its revoked keys, override, number seen
# Returns 0 and a journal that does not follow upon what was seen; or 1, whether that was all, numbers, overrides, chunks.
CUT: Final = Script(
    COMMON
    + f"""
local ca, most = ARGV[1], tonumber(ARGV[2])
local numbers, overrides, chunks, done, size, all = {{}}, {{}}, {{}}, {{}}, 0, 1
local function take(start, bucket, partition)
  local number, bits = tonumber(bucket, 16), {MIN_BITS}
  if number == nil or number % {PARTITIONS} ~= partition then return end
  while bits < {CHUNK_BITS} and 2 ^ bits <= number do bits = bits + 1 end
  for chunk = number % 2 ^ bits, 2 ^ {CHUNK_BITS} - 1, 2 ^ bits do
    if not done[chunk] then
      done[chunk] = true
      local parts = {{}}
      for hash = chunk, 2 ^ {REVOKED_BITS} - 1, 2 ^ {CHUNK_BITS} do
        local flat = redis.call('HGETALL', start .. string.format('%x', hash))
        size = size + #flat / 2 + 1
        parts[#parts + 1] = flat
      end
      chunks[#chunks + 1] = chunk
      chunks[#chunks + 1] = parts
    end
  end
end
for partition = 0, {PARTITIONS - 1} do
  local at = 3 + 4 * partition
  local journal, seen = ARGV[at], tonumber(ARGV[at + 3])
  overrides[#overrides + 1] = redis.call('GET', ARGV[at + 2]) or ''
  local last = last_number(journal)
  if last < seen then return {{0, journal}} end
  while seen < last and size < most do
    local entries = redis.call('XRANGE', journal, string.format('%.0f', seen + 1), '+', 'COUNT', 100)
    if #entries == 0 then return {{0, journal}} end
    for _, entry in ipairs(entries) do
      local number = tonumber(string.match(entry[1], '^%d+'))
      if number > seen + 1 then return {{0, journal}} end
      local fields = {{}}
      for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
      if fields.ca == ca and fields.kind ~= 'signed' and fields.kind ~= 'split' then
        take(ARGV[at + 1], fields.bucket, partition)
      end
      seen = number
      if size >= most then break end
    end
  end
  if seen < last then all = 0 end
  numbers[#numbers + 1] = seen
end
if all == 1 then
  for i = 1, #KEYS do
    if redis.call('TYPE', KEYS[i]).ok == 'zset' and redis.call('ZSCORE', KEYS[i], '{BASE_MEMBER}') then
      redis.call('ZADD', KEYS[i], numbers[i], '{CUT_MEMBER}')
    end
  end
end
return {{1, all, numbers, overrides, chunks}}
"""
)

# KEYS a hash   ARGV of each field: name, text that must stand there or '', text that takes its place or ''.
# Returns 1; or 0 and the first field that holds something else, when nothing was changed.
SWAP: Final = Script(
    COMMON
    + """
typed(KEYS[1], 'hash')
for at = 1, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[at]) or '') ~= ARGV[at + 1] then return {0, ARGV[at]} end
end
for at = 1, #ARGV, 3 do
  if ARGV[at + 2] == '' then redis.call('HDEL', KEYS[1], ARGV[at])
  else redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2]) end
end
return {1, ''}
"""
)

# KEYS lease   ARGV holder, milliseconds; 0 gives it back. Returns whose it is, '' nobody's.
LEASE: Final = Script(
    COMMON
    + """
typed(KEYS[1], 'string')
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return ''
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
)

# From now on the partition's changes are kept; they are already, where the set has its base.
# KEYS changed   ARGV journal
KEEP: Final = Script(
    COMMON
    + f"""
typed(KEYS[1], 'zset')
if redis.call('ZSCORE', KEYS[1], '{BASE_MEMBER}') then return 0 end
redis.call('ZADD', KEYS[1], last_number(ARGV[1]), '{BASE_MEMBER}')
return 1
"""
)

# Forget the changes that every base has seen. Never goes back: where another base stands, all since then is there.
# KEYS changed   ARGV number of the journal up to which
FORGET: Final = Script(
    COMMON
    + f"""
typed(KEYS[1], 'zset')
local base = redis.call('ZSCORE', KEYS[1], '{BASE_MEMBER}')
if not base or tonumber(base) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[1], '{BASE_MEMBER}')
return 1
"""
)
