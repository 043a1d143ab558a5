-- settle: replace a hold by what was used, once per request id.
-- KEYS: the request's record, one state per line.
-- ARGV: time or '', how long to remember that it is settled, ms, when the hold was taken, ms, then
--       the lines; a line's amount is what was used.
-- Without a record (admitted while Redis was away, or lost with it) all of it is charged: debt.
-- The record stays as a tombstone, so that a reserve that was still under way takes nothing.
-- Returns: 1 when applied, 0 when it had been settled before.
local now = clock(ARGV[1])
local at = tonumber(ARGV[3])
local base = 3
local count = #ARGV - base
local raw = redis.call('MGET', unpack(KEYS))

local record = record_of(raw[1])
if record and record[1] == SETTLED then
  return 0
end
for i = 1, count do
  local l = line(ARGV[base + i])
  local s = l.kind.open(raw[1 + i], l, now)
  local hold = record and record[2 + i]
  if hold then
    l.kind.settle(s, l, hold, l.amount, now)
  else
    l.kind.charge(s, l, l.amount, at, now)
  end
  if hold or l.amount > 0 then
    l.kind.save(KEYS[1 + i], s, l, now)
  end
end
put(KEYS[1], cmsgpack.pack({ SETTLED, now }), ARGV[2])
return 1
