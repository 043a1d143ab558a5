-- What the commands on lines need: arguments, reading and writing.
local OPEN, SETTLED = 1, 2
local LEAST = -4503599627370496 -- debt stops at -2^52, far from where numbers lose exactness

-- One argument per line, eight doubles: kind, amount, capacity, span, rate, shadow, and use known
-- from elsewhere with the time when it was seen (0 when none is). A span is in ms, or the number of
-- a calendar period. Behind them, as text, the ms for which a state without debt is of use.
local LINE = '<dddddddd'

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
