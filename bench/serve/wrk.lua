-- Hands prepared requests to wrk: nothing is formatted while it measures.
--
-- Arguments after "--": PREFIX START LENGTH ONCE MARK. PREFIX.requests holds whole requests one after another,
-- PREFIX.offsets (uint32) where each begins and the last ends, PREFIX.order (uint32) which is sent when. START and LENGTH
-- choose a stretch of the order. ONCE "once": stop at the stretch's end; "one": send its first request again and again, for
-- which wrk runs no script; else begin it anew. MARK, if not empty: the hex of
-- octets that an answer must hold to be counted as marked (only then are answers looked at: that costs the generator).
local ffi = require("ffi")
ffi.cdef([[
  int open(const char *path, int flags);
  void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
  struct moment { long s, ns; };
  int clock_gettime(int clock, struct moment *now);
]])

local function mapped(path, kind)
  local file = assert(io.open(path, "rb"))
  local size = file:seek("end")
  file:close()
  local address = ffi.C.mmap(nil, size, 1, 2, ffi.C.open(path, 0), 0) -- PROT_READ, MAP_PRIVATE
  assert(ffi.cast("intptr_t", address) ~= -1, path)
  return ffi.cast(kind, address)
end

local function now()
  local moment = ffi.new("struct moment")
  ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
  return tonumber(moment.s) + tonumber(moment.ns) / 1e9
end

local requests, offsets, order, first, past, position, once, began
local ready = {} -- a request that was sent before is a Lua string already
-- Global, since done() reads them out of the thread. ran_for: until the stretch's end; wrk sleeps its time out all the same.
marked, ran_for = 0, 0

local function text_of(number)
  return ffi.string(requests + offsets[number], offsets[number + 1] - offsets[number])
end

function setup(thread)
  the_thread = thread
end

function init(args)
  requests = mapped(args[1] .. ".requests", "const char *")
  offsets = mapped(args[1] .. ".offsets", "const uint32_t *")
  order = mapped(args[1] .. ".order", "const uint32_t *")
  first = tonumber(args[2])
  past = first + tonumber(args[3])
  position = first
  once = args[4] == "once"
  if args[4] == "one" then
    request = nil -- without it wrk formats one request at its start: this one
    wrk.format = function() return text_of(order[first]) end
  end
  local mark = (args[5] or ""):gsub("..", function(hex) return string.char(tonumber(hex, 16)) end)
  if mark ~= "" then
    response = function(_, _, body)
      if body:find(mark, 1, true) then marked = marked + 1 end
    end
  end
end

function request()
  if position == past then
    if once then
      if ran_for == 0 then ran_for = now() - began end
      wrk.thread:stop()
    end
    position = first
  end
  began = began or now()
  local number = order[position]
  position = position + 1
  local text = ready[number]
  if not text then
    text = text_of(number)
    ready[number] = text
  end
  return text
end

function done(summary, latency, _)
  local errors, ran_for = summary.errors, the_thread:get("ran_for")
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "marked": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, ran_for > 0 and ran_for or summary.duration / 1e6, summary.bytes, the_thread:get("marked"), latency:percentile(50),
    latency:percentile(99), errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
