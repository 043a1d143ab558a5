-- What every script needs: the clock, a line's arguments, states as MessagePack.
local kinds = {}
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local OPEN, SETTLED = 1, 2
local LEAST = -4503599627370496 -- debt stops at -2^52, far from where numbers lose exactness
local STRIDE = 8

-- Redis' own time in ms. Only tests pass a time.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local t = redis.call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

-- Line i of the arguments that start after `base`.
local function line(base, i)
  local o = base + (i - 1) * STRIDE
  local span = ARGV[o + 4]
  return {
    kind = kinds[ARGV[o + 1]],
    amount = tonumber(ARGV[o + 2]),
    cap = tonumber(ARGV[o + 3]),
    span = tonumber(span) or span, -- ms, or the name of a calendar period
    rate = tonumber(ARGV[o + 5]),
    shadow = ARGV[o + 6] == '1',
    used = tonumber(ARGV[o + 7]), -- use known from elsewhere, or nil
    seen = tonumber(ARGV[o + 8]), -- and when that was seen, ms
  }
end

-- Under a test's clock a value carries its expiry itself: nothing may expire by the real one.
local tested = ARGV[1] ~= ''

local function decode(raw)
  if not raw then
    return nil
  end
  local value = cmsgpack.unpack(raw)
  if tested then
    return value[1] > tonumber(ARGV[1]) and value[2] or nil
  end
  return value
end

-- Store for `ttl` ms, or for ever when it is nil.
local function put(key, value, ttl)
  if tested then
    local expiry = ttl and tonumber(ARGV[1]) + max(1, ttl) or math.huge
    redis.call('SET', key, cmsgpack.pack({ expiry, value }))
  elseif ttl then
    redis.call('SET', key, cmsgpack.pack(value), 'PX', string.format('%.0f', max(1, ttl)))
  else
    redis.call('SET', key, cmsgpack.pack(value))
  end
end

-- Four numbers of a line's standing: fits, remaining, ms until whole, ms until `amount` fits.
local function report(reply, l, s, fits, now, wait)
  local n = #reply
  reply[n + 1] = fits and 1 or 0
  reply[n + 2] = max(0, l.kind.room(s, l))
  reply[n + 3] = l.kind.reset(s, l, now)
  reply[n + 4] = wait
end
