-- bucket: a rate with a burst. State: level, at, period; three doubles.
-- The level counts in 1/period, so that a millisecond adds exactly `rate` and nothing is divided.
-- It may be negative: debt from settlement, paid back by refilling.

--@ open
local full = cap * span
if raw then
  local level, at, period = decode('<ddd', raw)
  if period ~= span then
    level = floor(level / period) * span
  end
  level = min(level, full)
  if at <= now then
    level, at = min(full, level + (now - at) * rate), now
  elseif (at - now) * rate > full then
    -- The clock was set back by more than a whole refill: start again from here, without a gift.
    at = now
  end
  s = { level, at }
else
  s = { full, now }
end
room = floor(s[1] / span)

--@ lacking
more = amount - hold[1]

--@ take
s[1] = max(LEAST, s[1] - more * span)
room = floor(s[1] / span)
taken[n + 1], taken[n + 2] = 1, (hold and hold[1] or 0) + more

--@ settle
s[1] = max(LEAST, min(cap * span, s[1] + (hold[1] - amount) * span))

--@ charge
-- Use older than a whole refill has been paid back already.
if (now - at) * rate < cap * span then
  s[1] = max(LEAST, s[1] - amount * span)
end

--@ standing
local full = cap * span
reset = s[2] - now + ceil((full - s[1]) / rate)
if wanted then
  wait = max(1, s[2] - now + ceil((min(wanted, cap) * span - s[1]) / rate))
end

--@ save
-- A full bucket needs no key, so the state lives as long as refilling takes.
if s[1] < 0 or s[2] > now then
  ttl = s[2] - now + ceil((cap * span - s[1]) / rate) + 1000
end
put(key, pack('<ddd', s[1], s[2], span), ttl)
