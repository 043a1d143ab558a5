-- reserve: take from every limit or from none, once per request id.
-- KEYS: the request's record, its revocation epochs, one state per line.
-- ARGV: time or '', the record's life in ms, number of epochs, the epochs as the caller saw them,
--       then the lines (see LINE).
-- Returns, as doubles: decision, time, then four numbers per line: whether it fits, what remains,
-- ms until it is whole, ms until the amount fits.
local ADMITTED, DENIED, REVOKED, OVER = 0, 1, 2, 3
local epochs = tonumber(ARGV[3])
local base, first = 3 + epochs, 1 + epochs
local count = #ARGV - base
local raws = call('MGET', unpack(KEYS))

for i = 1, epochs do
  local epoch = raws[1 + i]
  if epoch and (tonumber(epoch) or 0) > tonumber(ARGV[3 + i]) then
    return doubles({ REVOKED, now })
  end
end

local record = fetch(raws[1])
local states, rooms, ttls, misfits, admitted = {}, {}, {}, {}, true
for i = 1, count do
  local raw, argument, s, room = fetch(raws[first + i]), ARGV[base + i], nil, nil
  local kind, amount, cap, span, rate, shadow, used, seen = decode(LINE, argument)
  local ttl = argument:sub(65)
  --@ open
  states[i], rooms[i], ttls[i] = s, room, ttl
  if not record and amount > 0 and amount > room then
    misfits[i] = true
    admitted = admitted and shadow == 1
  end
end

local decision = admitted and ADMITTED or DENIED
if record and decode('<d', record) == SETTLED then
  decision = OVER
end
local reply, taken = { decision, now }, { OPEN, now }
for i = 1, count do
  local s, room, ttl, key = states[i], rooms[i], ttls[i], KEYS[first + i]
  local kind, amount, cap, span, rate = decode(LINE, ARGV[base + i])
  if admitted and not record then
    local more, hold, n = amount, nil, #taken
    --@ take
    --@ save
  end
  local wanted, reset, wait = misfits[i] and amount, nil, 0
  --@ standing
  local n = #reply
  reply[n + 1], reply[n + 2] = wanted and 0 or 1, max(0, room)
  reply[n + 3], reply[n + 4] = reset, wait
end
if admitted and not record then
  put(KEYS[1], doubles(taken), ARGV[2])
end
return doubles(reply)
