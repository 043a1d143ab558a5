-- What every script needs: the clock, a line's arguments, reading and writing.
local kinds = {}
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local OPEN, SETTLED = 1, 2
local LEAST = -4503599627370496 -- debt stops at -2^52, far from where numbers lose exactness

-- Redis' own time in ms. Only tests pass a time.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local t = redis.call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

-- One argument per line, eight doubles: kind, amount, capacity, span, rate, shadow, and use known
-- from elsewhere with the time when it was seen (0 when none is). A span is in ms, or the number of
-- a calendar period.
local function line(argument)
  local kind, amount, cap, span, rate, shadow, used, seen = struct.unpack('<dddddddd', argument)
  return {
    kind = kinds[kind],
    amount = amount,
    cap = cap,
    span = span,
    rate = rate,
    shadow = shadow == 1,
    used = used,
    seen = seen,
  }
end

-- Under a test's clock a value carries its expiry itself: nothing may expire by the real one.
local tested = ARGV[1] ~= ''

local function fetch(raw)
  if raw and tested then
    return struct.unpack('<d', raw) > tonumber(ARGV[1]) and raw:sub(9) or nil
  end
  return raw or nil
end

-- Store for `ttl` ms (at least 1; a number, or cheaper the text of one), or for ever when it is nil.
local function put(key, value, ttl)
  if tested then
    local expiry = ttl and tonumber(ARGV[1]) + ttl or math.huge
    redis.call('SET', key, struct.pack('<d', expiry) .. value)
  elseif ttl then
    redis.call('SET', key, value, 'PX', ttl)
  else
    redis.call('SET', key, value)
  end
end

local function record_of(raw)
  raw = fetch(raw)
  return raw and cmsgpack.unpack(raw)
end

--@ reserve extend
-- Numbers as one string of doubles, which costs less than a list of them.
local function doubles(numbers)
  return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

-- Four numbers of a line's standing: fits, remaining, ms until whole, ms until `amount` fits.
local function report(reply, l, s, fits, now, wait)
  local n = #reply
  reply[n + 1] = fits and 1 or 0
  reply[n + 2] = max(0, l.kind.room(s, l))
  reply[n + 3] = l.kind.reset(s, l, now)
  reply[n + 4] = wait
end
--@ all
