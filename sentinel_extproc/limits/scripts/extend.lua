-- extend: grow a hold to new totals, all or nothing, and renew its leases.
-- KEYS: the request's record, one state per line.
-- ARGV: time or '', the record's life in ms, then the lines; a line's amount is the total to hold,
--       so that a repeated call changes nothing.
-- Returns: as reserve. DENIED means that leases are renewed and nothing has grown.
local ADMITTED, DENIED, OVER = 0, 1, 3
local base = 2
local count = #ARGV - base
local raw = call('MGET', unpack(KEYS))

local record = fetch(raw[1])
if record and decode('<d', record) == SETTLED then
  return doubles({ OVER, now })
end

local holds, since = {}, now
if record then
  holds, since = holds_of(record)
end
local lines, states, more, admitted = {}, {}, {}, true
for i = 1, count do
  local l = line(ARGV[base + i])
  local s, hold = l.kind.open(raw[1 + i], l), holds[i]
  lines[i], states[i] = l, s
  more[i] = hold and max(0, l.kind.lacking(s, l, hold, l.amount)) or l.amount
  if more[i] > 0 and more[i] > l.room then
    l.fits = false
    admitted = admitted and l.shadow
  end
end

local reply = { admitted and ADMITTED or DENIED, now }
if admitted or record then
  local taken = { OPEN, since }
  for i = 1, count do
    local l, s = lines[i], states[i]
    append(taken, l.kind.take(s, l, holds[i], admitted and more[i] or 0))
    l.kind.save(KEYS[1 + i], s, l)
  end
  put(KEYS[1], doubles(taken), ARGV[2])
end
for i = 1, count do
  report(reply, lines[i], states[i], more[i])
end
return doubles(reply)
