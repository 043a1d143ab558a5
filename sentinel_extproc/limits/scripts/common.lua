-- What every script needs: the time, a line's arguments, reading and writing.
-- A script defines its functions anew at every call, so that they are few, and rare ones are inside
-- those that need them.
local kinds = {}
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local call, pack, decode, repeated, unpack = redis.call, struct.pack, struct.unpack, string.rep, unpack
local OPEN, SETTLED = 1, 2
local LEAST = -4503599627370496 -- debt stops at -2^52, far from where numbers lose exactness

-- Redis' own time in ms. Only tests pass a time. Under a test's clock a value carries its expiry
-- itself, as one double in front: nothing may expire by the real one.
local tested = ARGV[1] ~= ''
local now
if tested then
  now = tonumber(ARGV[1])
else
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end

--@ reserve extend settle
-- One argument per line, eight doubles: kind, amount, capacity, span, rate, shadow, and use known
-- from elsewhere with the time when it was seen (0 when none is). A span is in ms, or the number of
-- a calendar period. Behind them, as text, the ms for which a state without debt is of use: `ttl`.
-- `room` is what can be taken; its kind keeps it right.
local function line(argument)
  local kind, amount, cap, span, rate, shadow, used, seen = decode('<dddddddd', argument)
  return {
    kind = kinds[kind],
    amount = amount,
    cap = cap,
    span = span,
    rate = rate,
    shadow = shadow == 1,
    used = used,
    seen = seen,
    ttl = argument:sub(65),
    room = 0,
    fits = true,
  }
end

local function fetch(raw)
  if raw and tested then
    return decode('<d', raw) > now and raw:sub(9) or nil
  end
  return raw or nil
end

-- Store for `ttl` ms: text, which is cheaper, or a number; for ever when it is nil; for as long as
-- the key still has when it is false.
local function put(key, value, ttl)
  if tested then
    local expiry = pack('<d', ttl and now + tonumber(ttl) or math.huge)
    if ttl == false then
      expiry = call('GETRANGE', key, '0', '7')
    end
    call('SET', key, expiry .. value)
  elseif ttl then
    call('SET', key, value, 'PX', ttl)
  elseif ttl == false then
    call('SET', key, value, 'KEEPTTL')
  else
    call('SET', key, value)
  end
end

local function doubles(numbers)
  return pack('<' .. repeated('d', #numbers), unpack(numbers))
end

-- A record is all doubles: OPEN or SETTLED, when it was taken, and for each line the number of its
-- hold's numbers and these.
--@ extend settle
local function holds_of(record)
  local numbers, holds = { decode('<' .. repeated('d', #record / 8), record) }, {}
  local at = 3
  while at < #numbers do -- the last one is where decoding stopped
    local hold = {}
    for i = 1, numbers[at] do
      hold[i] = numbers[at + i]
    end
    holds[#holds + 1] = hold
    at = at + #hold + 1
  end
  return holds, numbers[2]
end

--@ reserve extend
local function append(record, hold)
  local n, size = #record, #hold
  record[n + 1] = size
  for i = 1, size do
    record[n + 1 + i] = hold[i]
  end
end

-- Four numbers of a line's standing: fits, remaining, ms until whole, ms until `amount` fits.
local function report(reply, l, s, amount)
  local n = #reply
  reply[n + 1] = l.fits and 1 or 0
  reply[n + 2] = max(0, l.room)
  reply[n + 3], reply[n + 4] = l.kind.standing(s, l, not l.fits and amount)
end
--@ all
