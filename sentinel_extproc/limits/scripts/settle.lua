-- settle: replace a hold by what was used, once per request id.
-- KEYS: the request's record, one state per line.
-- ARGV: time or '', how long to remember that it is settled, ms, when the hold was taken, ms, then
--       the lines (see LINE); a line's amount is what was used.
-- Without a record (admitted while Redis was away, or lost with it) all of it is charged: debt.
-- The record stays as a tombstone, so that a reserve that was still under way takes nothing.
-- Returns: 1 when applied, 0 when it had been settled before.
local at = tonumber(ARGV[3])
local base = 3
local count = #ARGV - base
local raws = call('MGET', unpack(KEYS))

local record = fetch(raws[1])
if record and decode('<d', record) == SETTLED then
  return 0
end
local holds = record and holds_of(record) or {}
for i = 1, count do
  local raw, argument, s, room = fetch(raws[1 + i]), ARGV[base + i], nil, nil
  local kind, amount, cap, span, rate, shadow, used, seen = decode(LINE, argument)
  local ttl, hold, key = argument:sub(65), holds[i], KEYS[1 + i]
  if hold or amount > 0 then
    --@ open
    if hold then
      --@ settle
    else
      --@ charge
    end
    --@ save
  end
end
put(KEYS[1], pack('<dd', SETTLED, now), ARGV[2])
return 1
