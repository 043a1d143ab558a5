-- reserve: take from every limit or from none, once per request id.
-- KEYS: the request's record, its revocation epochs, one state per line.
-- ARGV: time or '', the record's life in ms, number of epochs, the epochs as the caller saw them,
--       then the lines (see line).
-- Returns, as doubles: decision, time, then four numbers per line (see report).
local ADMITTED, DENIED, REVOKED, OVER = 0, 1, 2, 3
local now = clock(ARGV[1])
local epochs = tonumber(ARGV[3])
local base = 3 + epochs
local count = #ARGV - base
local raw = redis.call('MGET', unpack(KEYS))

for i = 1, epochs do
  if (tonumber(raw[1 + i] or 0) or 0) > tonumber(ARGV[3 + i]) then
    return doubles({ REVOKED, now })
  end
end

local record = record_of(raw[1])
local lines, states, fits, admitted = {}, {}, {}, true
for i = 1, count do
  local l = line(ARGV[base + i])
  local s = l.kind.open(raw[1 + epochs + i], l, now)
  lines[i], states[i] = l, s
  fits[i] = record ~= nil or l.amount == 0 or l.amount <= l.kind.room(s, l)
  admitted = admitted and (fits[i] or l.shadow)
end

local reply = { ADMITTED, now }
if record then
  if record[1] == SETTLED then
    reply[1] = OVER
  end
elseif admitted then
  record = { OPEN, now }
  for i = 1, count do
    local l, s = lines[i], states[i]
    record[2 + i] = l.kind.take(s, l, nil, l.amount, now)
    l.kind.save(KEYS[1 + epochs + i], s, l, now)
  end
  put(KEYS[1], cmsgpack.pack(record), ARGV[2])
else
  reply[1] = DENIED
end

for i = 1, count do
  local l, s = lines[i], states[i]
  report(reply, l, s, fits[i], now, fits[i] and 0 or l.kind.wait(s, l, l.amount, now))
end
return doubles(reply)
