-- extend: grow a hold to new totals, all or nothing, and renew its leases.
-- KEYS: the request's record, one state per line.
-- ARGV: time or '', the record's life in ms, then the lines (see LINE); a line's amount is the
--       total to hold, so that a repeated call changes nothing.
-- Returns: as reserve. DENIED means that leases are renewed and nothing has grown.
local ADMITTED, DENIED, OVER = 0, 1, 3
local base = 2
local count = #ARGV - base
local raws = call('MGET', unpack(KEYS))

local record = fetch(raws[1])
if record and decode('<d', record) == SETTLED then
  return doubles({ OVER, now })
end

local holds, since = {}, now
if record then
  holds, since = holds_of(record)
end
local states, rooms, ttls, grow, misfits, admitted = {}, {}, {}, {}, {}, true
for i = 1, count do
  local raw, argument, s, room = fetch(raws[1 + i]), ARGV[base + i], nil, nil
  local kind, amount, cap, span, rate, shadow, used, seen = decode(LINE, argument)
  local ttl, hold, more = argument:sub(65), holds[i], amount
  --@ open
  if hold then
    --@ lacking
  end
  more = max(0, more)
  states[i], rooms[i], ttls[i], grow[i] = s, room, ttl, more
  if more > 0 and more > room then
    misfits[i] = true
    admitted = admitted and shadow == 1
  end
end

local reply, taken = { admitted and ADMITTED or DENIED, now }, { OPEN, since }
for i = 1, count do
  local s, room, ttl, key = states[i], rooms[i], ttls[i], KEYS[1 + i]
  local kind, amount, cap, span, rate = decode(LINE, ARGV[base + i])
  if admitted or record then
    local more, hold, n = admitted and grow[i] or 0, holds[i], #taken
    --@ take
    --@ save
  end
  local wanted, reset, wait = misfits[i] and grow[i], nil, 0
  --@ standing
  local n = #reply
  reply[n + 1], reply[n + 2] = wanted and 0 or 1, max(0, room)
  reply[n + 3], reply[n + 4] = reset, wait
end
if admitted or record then
  put(KEYS[1], doubles(taken), ARGV[2])
end
return doubles(reply)
