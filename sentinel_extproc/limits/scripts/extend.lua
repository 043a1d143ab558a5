-- extend: grow a hold to new totals, all or nothing, and renew its leases.
-- KEYS: the request's record, one state per line.
-- ARGV: time or '', the record's life in ms, then the lines; a line's amount is the total to hold,
--       so that a repeated call changes nothing.
-- Returns: as reserve. DENIED means that leases are renewed and nothing has grown.
local ADMITTED, DENIED, OVER = 0, 1, 3
local now = clock(ARGV[1])
local base = 2
local count = #ARGV - base
local raw = redis.call('MGET', unpack(KEYS))

local record = record_of(raw[1])
if record and record[1] == SETTLED then
  return doubles({ OVER, now })
end

local lines, states, more, fits, admitted = {}, {}, {}, {}, true
for i = 1, count do
  local l = line(ARGV[base + i])
  local s = l.kind.open(raw[1 + i], l, now)
  local hold = record and record[2 + i]
  lines[i], states[i] = l, s
  more[i] = max(0, hold and l.kind.lacking(s, l, hold, l.amount, now) or l.amount)
  fits[i] = more[i] == 0 or more[i] <= l.kind.room(s, l)
  admitted = admitted and (fits[i] or l.shadow)
end

local reply = { admitted and ADMITTED or DENIED, now }
if admitted or record then
  record = record or { OPEN, now }
  for i = 1, count do
    local l, s = lines[i], states[i]
    record[2 + i] = l.kind.take(s, l, record[2 + i], admitted and more[i] or 0, now)
    l.kind.save(KEYS[1 + i], s, l, now)
  end
  put(KEYS[1], cmsgpack.pack(record), ARGV[2])
end
for i = 1, count do
  local l, s = lines[i], states[i]
  report(reply, l, s, fits[i], now, fits[i] and 0 or l.kind.wait(s, l, more[i], now))
end
return doubles(reply)
