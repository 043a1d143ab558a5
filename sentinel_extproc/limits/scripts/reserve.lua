-- reserve: take from every limit or from none, once per request id.
-- KEYS: the request's record, its revocation epochs, one state per line.
-- ARGV: time or '', the record's life in ms, number of epochs, the epochs as the caller saw them,
--       then the lines (see line).
-- Returns, as doubles: decision, time, then four numbers per line (see report).
local ADMITTED, DENIED, REVOKED, OVER = 0, 1, 2, 3
local epochs = tonumber(ARGV[3])
local base, first = 3 + epochs, 1 + epochs
local count = #ARGV - base
local raw = call('MGET', unpack(KEYS))

for i = 1, epochs do
  local epoch = raw[1 + i]
  if epoch and (tonumber(epoch) or 0) > tonumber(ARGV[3 + i]) then
    return doubles({ REVOKED, now })
  end
end

local record = fetch(raw[1])
local lines, states, admitted = {}, {}, true
for i = 1, count do
  local l = line(ARGV[base + i])
  lines[i], states[i] = l, l.kind.open(raw[first + i], l)
  if not record and l.amount > 0 and l.amount > l.room then
    l.fits = false
    admitted = admitted and l.shadow
  end
end

local reply = { ADMITTED, now }
if record then
  if decode('<d', record) == SETTLED then
    reply[1] = OVER
  end
elseif admitted then
  local taken = { OPEN, now }
  for i = 1, count do
    local l, s = lines[i], states[i]
    append(taken, l.kind.take(s, l, nil, l.amount))
    l.kind.save(KEYS[first + i], s, l)
  end
  put(KEYS[1], doubles(taken), ARGV[2])
else
  reply[1] = DENIED
end

for i = 1, count do
  report(reply, lines[i], states[i], lines[i].amount)
end
return doubles(reply)
