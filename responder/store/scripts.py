"""The Lua scripts: each changes what must change together, within one partition, or nothing.

They are mechanical: they compare what the caller has read, then write what the caller has decided (revocation.py and
the presigner). A script that fails half-way is not undone by Redis, so each drops answers first and writes the status
last: whatever prefix stands, no answer says more than the status. Keys that a script only reads come as ARGV, not
KEYS: Redis 7 wants write permission for every declared key, and a presigner has none for statuses. All keys of a script
have one hash tag. Nothing newer than Redis 6.2; Lua 5.1.
"""

from __future__ import annotations

import hashlib
from typing import Final

from responder.store.layout import (
    BASE_MEMBER,
    CUT_MEMBER,
    DUE_ASKED_FOR,
    JOURNAL_MAXLEN,
    JOURNAL_SERIALS,
    LISTED_MARK,
)

URGENT_LOOK = 1_000  # urgent buckets of a partition that are looked through for those of the presigner's own CAs


class Script:
    """A script's text and the digest by which EVALSHA names it."""

    def __init__(self, text: str) -> None:
        self.text: Final = text.strip().encode()
        self.sha: Final = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# typed: whoever may XADD anywhere under the prefix (a worker on Redis 6.2) can put a stream where nothing is yet; it
# must not stop a revocation. append: journal numbers are gapless and survive trimming; a top id that cannot be
# followed (2^53 and above, or the end of all ids) starts the journal again at 1, and followers forget everything.
COMMON = f"""
local CHUNK = 1000
local function typed(key, want)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= want then redis.call('DEL', key) end
end
local function last_number(journal)
  local info = redis.pcall('XINFO', 'STREAM', journal)
  if info.err then return 0 end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
local function append(journal, ca, bucket, kind, serials)
  if serials == nil or #serials > {JOURNAL_SERIALS} then serials = '*' else serials = table.concat(serials, ' ') end
  local number = last_number(journal) + 1
  local added = redis.pcall('XADD', journal, 'MAXLEN', '~', {JOURNAL_MAXLEN}, string.format('%.0f-0', number),
    'ca', ca, 'bucket', bucket, 'kind', kind, 'serials', serials)
  if type(added) == 'table' and added.err then
    number = 1
    redis.call('DEL', journal)
    redis.call('XADD', journal, '1-0', 'ca', ca, 'bucket', bucket, 'kind', kind, 'serials', serials)
  end
  return number
end
local function each_chunk(list, call)
  for from = 1, #list, CHUNK do call(unpack(list, from, math.min(from + CHUNK - 1, #list))) end
end
"""

# KEYS status, answers:sha1, answers:sha256, changed, due, journal, revoked…
# ARGV bits, ca, bucket, due member, due score, then of each change: octets, hex, old text or '', new text or '', kind,
#      index of its revoked key from 1, or 0 where neither text is a revocation
COMMIT = Script(
    COMMON
    + f"""
local status, changed, due, journal = KEYS[1], KEYS[4], KEYS[5], KEYS[6]
local ca, bucket = ARGV[2], ARGV[3]
if redis.call('HGET', status, '.bits') ~= ARGV[1] then return {{0, '.bits'}} end
local first = 6
for from = first, #ARGV, 6 * CHUNK do
  local names = {{}}
  for at = from, math.min(from + 6 * CHUNK - 1, #ARGV), 6 do names[#names + 1] = ARGV[at + 1] end
  local found = redis.call('HMGET', status, unpack(names))
  for i = 1, #names do
    if (found[i] or '') ~= ARGV[from + 6 * (i - 1) + 2] then return {{0, names[i]}} end
  end
end
local octets, kinds, order = {{}}, {{}}, {{}}
for at = first, #ARGV, 6 do
  octets[#octets + 1] = ARGV[at]
  local kind = ARGV[at + 4]
  if kinds[kind] == nil then
    kinds[kind] = {{}}
    order[#order + 1] = kind
  end
  table.insert(kinds[kind], ARGV[at + 1])
end
for i = 2, 3 do
  typed(KEYS[i], 'hash')
  if redis.call('EXISTS', KEYS[i]) == 1 then
    each_chunk(octets, function(...) redis.call('HDEL', KEYS[i], ...) end)
  end
end
typed(due, 'zset')
redis.call('ZADD', due, 'LT', ARGV[5], ARGV[4])
local numbers, number = {{}}, nil
for _, kind in ipairs(order) do
  number = append(journal, ca, bucket, kind, kinds[kind])
  numbers[kind] = number
end
typed(changed, 'zset')
local has_base = redis.call('ZSCORE', changed, '{BASE_MEMBER}')
local cut = has_base and tonumber(redis.call('ZSCORE', changed, '{CUT_MEMBER}') or has_base)
for i = 7, #KEYS do typed(KEYS[i], 'hash') end
local set, gone = {{}}, {{}}
for at = first, #ARGV, 6 do
  local hex, new, index = ARGV[at + 1], ARGV[at + 3], tonumber(ARGV[at + 5])
  if index > 0 then
    if string.sub(new, 1, 7) == 'revoked' then redis.call('HSET', KEYS[6 + index], hex, new)
    else redis.call('HDEL', KEYS[6 + index], hex) end
    if has_base then
      local at_number = numbers[ARGV[at + 4]]
      if string.sub(ARGV[at + 2], 1, 7) == 'revoked' then
        local since = redis.call('ZSCORE', changed, hex)
        if not since or tonumber(since) <= cut then redis.call('ZADD', changed, at_number, hex .. '{LISTED_MARK}') end
      end
      redis.call('ZADD', changed, at_number, hex)
    end
  end
  if new == '' then
    gone[#gone + 1] = hex
  else
    set[#set + 1] = hex
    set[#set + 1] = new
  end
end
each_chunk(gone, function(...) redis.call('HDEL', status, ...) end)
each_chunk(set, function(...) redis.call('HSET', status, ...) end)
return {{1, number, redis.call('HLEN', status) - 1}}
"""
)

# A bucket that is not there, with all that it holds: the first load, and the repair of a loss.
# KEYS status, answers:sha1, answers:sha256, changed, due, journal, expiry, revoked…
# ARGV bits, ca, bucket, due member, due score, count of shallower buckets that would hold its serials, of each serial in two
#      octets, the low one first: the index of its revoked key from 1, or 0 where it is not revoked; then of each shallower:
#      status key, its bits; of all: hex, text
CREATE = Script(
    COMMON
    + f"""
local status, changed, due, journal = KEYS[1], KEYS[4], KEYS[5], KEYS[6]
typed(status, 'hash')
if redis.call('HGET', status, '.bits') then return {{0, '.bits'}} end
local first, serials = 8 + 2 * tonumber(ARGV[6]), {{}}
for at = 8, first - 1, 2 do
  if redis.call('HGET', ARGV[at], '.bits') == ARGV[at + 1] then return {{0, ARGV[at]}} end
end
redis.call('DEL', status, KEYS[2], KEYS[3])
typed(due, 'zset')
redis.call('ZADD', due, 'LT', ARGV[5], ARGV[4])
typed(KEYS[7], 'zset')
redis.call('ZADD', KEYS[7], 'inf', ARGV[3])
for at = first, math.min(#ARGV, first + 2 * {JOURNAL_SERIALS} + 1), 2 do serials[#serials + 1] = ARGV[at] end
local number = 0
if #serials > 0 then number = append(journal, ARGV[2], ARGV[3], 'new', serials) end
typed(changed, 'zset')
local has_base = redis.call('ZSCORE', changed, '{BASE_MEMBER}')
for i = 8, #KEYS do typed(KEYS[i], 'hash') end
local indexed = {{}}
for i = 8, #KEYS do indexed[i - 7] = {{}} end
for at = first, #ARGV, 2 do
  local low, high = string.byte(ARGV[7], at - first + 1, at - first + 2)
  local set = indexed[low + 256 * high]
  if set then
    set[#set + 1] = ARGV[at]
    set[#set + 1] = ARGV[at + 1]
    if has_base then redis.call('ZADD', changed, number, ARGV[at]) end
  end
end
for index, set in ipairs(indexed) do
  each_chunk(set, function(...) redis.call('HSET', KEYS[7 + index], ...) end)
end
redis.call('HSET', status, '.bits', ARGV[1]) -- first, since every reader asks for it: a packed hash is searched in order
for from = first, #ARGV, CHUNK do
  redis.call('HSET', status, unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
end
return {{1, number, redis.call('HLEN', status) - 1}}
"""
)

# KEYS status, child status, answers:sha1, child's, answers:sha256, child's, due, journal, expiry
# ARGV bits, ca, bucket, due member, child's due member, child bucket, count of moving, then hex and octets of each; then hex of
#      those that stay
SPLIT = Script(
    COMMON
    + """
local status, child, due, journal = KEYS[1], KEYS[2], KEYS[7], KEYS[8]
if redis.call('HGET', status, '.bits') ~= ARGV[1] then return {0, '.bits'} end
typed(child, 'hash')
if redis.call('EXISTS', child) == 1 then return {0, 'child'} end
local moving, first = tonumber(ARGV[7]), 8
local stay = first + 2 * moving
-- As many as the caller saw, and each of those: hence the very same.
if redis.call('HLEN', status) - 1 ~= moving + #ARGV - stay + 1 then return {0, 'size'} end
local texts, names, octets = {}, {}, {}
for at = first, stay - 1, 2 do
  names[#names + 1] = ARGV[at]
  octets[#octets + 1] = ARGV[at + 1]
end
for i = 1, #names do
  texts[i] = redis.call('HGET', status, names[i])
  if not texts[i] then return {0, names[i]} end
end
for at = stay, #ARGV do
  if redis.call('HEXISTS', status, ARGV[at]) == 0 then return {0, ARGV[at]} end
end
for i = 3, 5, 2 do
  typed(KEYS[i], 'hash')
  redis.call('DEL', KEYS[i + 1])
  if redis.call('EXISTS', KEYS[i]) == 1 then
    for slot = 0, 15 do
      local name = '\\0.' .. string.format('%x', slot)
      local header = redis.call('HGET', KEYS[i], name)
      if header then redis.call('HSET', KEYS[i + 1], name, header) end
    end
    for _, serial in ipairs(octets) do
      local packed = redis.call('HGET', KEYS[i], serial)
      if packed then redis.call('HSET', KEYS[i + 1], serial, packed) end
    end
    each_chunk(octets, function(...) redis.call('HDEL', KEYS[i], ...) end)
  end
end
redis.call('ZADD', due, redis.call('ZSCORE', due, ARGV[4]) or 0, ARGV[5])
typed(KEYS[9], 'zset')
redis.call('ZADD', KEYS[9], redis.call('ZSCORE', KEYS[9], ARGV[3]) or 'inf', ARGV[6])
local number = append(journal, ARGV[2], ARGV[3], 'split', nil)
local bits = string.format('%d', tonumber(ARGV[1]) + 1)
redis.call('HSET', child, '.bits', bits)
for i = 1, #names do redis.call('HSET', child, names[i], texts[i]) end
redis.call('HSET', status, '.bits', bits)
each_chunk(names, function(...) redis.call('HDEL', status, ...) end)
return {1, number}
"""
)

# The buckets that are due, as candidates for a claim: those that are due for longest, which has the urgent ones first, and
# where that is not all of them, of each CA those whose answers run out first. It looks at so many of each: where none of these is
# due (the CA's source stands still, say), the due time alone decides.
# What is urgent for other CAs is left to those who sign for them: claimed here it would come due again as routine work.
# KEYS due, expiry of each CA   ARGV now, limit, how many to look at, each CA. Returns of each: member, score, nextUpdate.
PEEK = Script(f"""
local due, now, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local keys, seen, found = {{}}, {{}}, {{}}
for i = 2, #KEYS do keys[ARGV[2 + i]] = KEYS[i] end
local function take(member, score)
  if seen[member] then return end
  seen[member] = true
  local ca, bucket = string.match(member, '^([^:]*):(.*)$')
  local next_update = keys[ca] and redis.pcall('ZSCORE', keys[ca], bucket)
  if type(next_update) ~= 'string' then next_update = 'inf' end
  for _, value in ipairs({{member, score, next_update}}) do found[#found + 1] = value end
end
local urgent = redis.call('ZRANGEBYSCORE', due, '-inf', math.min(tonumber(now), {DUE_ASKED_FOR}), 'WITHSCORES', 'LIMIT', 0, {URGENT_LOOK})
for i = 1, #urgent, 2 do
  local ca = string.match(urgent[i], '^[^:]*')
  if (keys[ca] or #KEYS == 1) and #found < 3 * limit then take(urgent[i], urgent[i + 1]) end
end
if #found >= 3 * limit then return found end
local longest = redis.call('ZRANGEBYSCORE', due, '({DUE_ASKED_FOR}', now, 'WITHSCORES', 'LIMIT', 0, limit + 1)
for i = 1, #longest, 2 do take(longest[i], longest[i + 1]) end
if #longest <= 2 * limit then return found end
for ca, key in pairs(keys) do
  local members = redis.pcall('ZRANGE', key, 0, ARGV[3] - 1)
  if #members > 0 then
    for i = 1, #members do members[i] = ca .. ':' .. members[i] end
    local scores, taken = redis.call('ZMSCORE', due, unpack(members)), 0
    for i = 1, #members do
      if scores[i] and tonumber(scores[i]) <= tonumber(now) then
        take(members[i], scores[i])
        taken = taken + 1
        if taken == limit then break end
      end
    end
  end
end
return found
""")

# KEYS due   ARGV new score, then of each: member, score that was seen. Returns 1 or 0 of each.
CLAIM = Script("""
local claimed = {}
for at = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if score and tonumber(score) == tonumber(ARGV[at + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[at])
    claimed[#claimed + 1] = 1
  else
    claimed[#claimed + 1] = 0
  end
end
return claimed
""")

# A commit meanwhile has lowered the score, and wins.
# KEYS due, expiry   ARGV member, score that the claim set, next score, bucket, soonest nextUpdate or '': as it was
FINISH = Script(
    COMMON
    + """
local due, expiry = KEYS[1], KEYS[2]
local score = redis.call('ZSCORE', due, ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', due, ARGV[3], ARGV[1])
if ARGV[5] ~= '' then
  typed(expiry, 'zset')
  redis.call('ZADD', expiry, ARGV[5], ARGV[4])
end
return 1
"""
)

# KEYS answers, journal
# ARGV status key, override key, override that was signed or '', ca, bucket, '1' replaces the whole hash, header's field,
#      header, old contents of the 16 header fields or '', then of each answer: octets, hex, status text signed, packed
PUT_ANSWERS = Script(
    COMMON
    + """
local answers, journal, status, override = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local current = redis.call('TYPE', override).ok == 'string' and redis.call('GET', override) or ''
if current ~= ARGV[3] then return {0, 'override'} end
typed(answers, 'hash')
for slot = 0, 15 do
  local name = '\\0.' .. string.format('%x', slot)
  if ARGV[6] == '1' or name == ARGV[7] then
    if (redis.call('HGET', answers, name) or '') ~= ARGV[9 + slot] then return {0, 'header'} end
  end
end
local first = 25
local set, serials = {ARGV[7], ARGV[8]}, {}
for from = first, #ARGV, 4 * CHUNK do
  local names = {}
  for at = from, math.min(from + 4 * CHUNK - 1, #ARGV), 4 do names[#names + 1] = ARGV[at + 1] end
  local found = redis.call('HMGET', status, unpack(names))
  for i = 1, #names do
    local at = from + 4 * (i - 1)
    if found[i] == ARGV[at + 2] then
      set[#set + 1] = ARGV[at]
      set[#set + 1] = ARGV[at + 3]
      serials[#serials + 1] = names[i]
    end
  end
end
if #serials == 0 then return {1, 0, 0} end
if ARGV[6] == '1' then redis.call('DEL', answers) end
each_chunk(set, function(...) redis.call('HSET', answers, ...) end)
return {1, append(journal, ARGV[4], ARGV[5], 'signed', serials), #serials}
"""
)

# KEYS override, due, journal, expiry   ARGV status text or '' to clear, ca, the answers keys' start. Every bucket is in the due set.
OVERRIDE = Script(
    COMMON
    + """
local due = KEYS[2]
typed(due, 'zset')
redis.call('DEL', KEYS[4])
local start = ARGV[2] .. ':'
for _, member in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  if string.sub(member, 1, #start) == start then
    local bucket = string.sub(member, #start + 1)
    redis.call('UNLINK', ARGV[3] .. bucket .. ':sha1', ARGV[3] .. bucket .. ':sha256')
    redis.call('ZADD', due, 0, member)
  end
end
if ARGV[1] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1]) end
return append(KEYS[3], ARGV[2], '*', 'override', nil)
"""
)

# KEYS ca   ARGV bits: readers' first guess is the deepest in use, and never goes back.
GROW = Script("""
local bits = tonumber(redis.call('HGET', KEYS[1], 'bits') or '0')
if tonumber(ARGV[1]) > bits then
  redis.call('HSET', KEYS[1], 'bits', ARGV[1])
  return tonumber(ARGV[1])
end
return bits
""")

# Questions and replies of live answers (responder/live.py). What lasts two seconds need not be written to the disk of this
# server nor of its replicas, so these scripts' changes are not propagated.

# KEYS stream of questions; ARGV entries kept, then names and values. Workers have no right to load it: the presigner does.
ASK = Script("""
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2))
""")

# KEYS stream of questions; ARGV how many entries. Returns the entries, which are in the stream no more.
TAKE = Script("""
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
for _, entry in ipairs(entries) do redis.call('XDEL', KEYS[1], entry[1]) end
return entries
""")

# KEYS a worker's stream of replies; ARGV entries kept, seconds until it vanishes when unused, then names and values.
REPLY = Script("""
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 3))
return redis.call('EXPIRE', KEYS[1], ARGV[2])
""")

# KEYS audit   ARGV log, line's number, its hash, text, '1' to write whatever stands. Returns whether the text was written,
# and what stood: an anchor only ever moves on to later lines.
ANCHOR = Script("""
local stood = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[5] ~= '1' and stood ~= '' then
  local number = tonumber(string.match(stood, '^%d+') or '0')
  if number > tonumber(ARGV[2]) or (number == tonumber(ARGV[2]) and string.sub(stood, -64) ~= ARGV[3]) then
    return {0, stood}
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
return {1, stood}
""")
