-- bucket: a rate with a burst. State: level, at, period; three doubles.
-- The level counts in 1/period, so that a millisecond adds exactly `rate` and nothing is divided.
-- It may be negative: debt from settlement, paid back by refilling.
kinds[1] = {
  open = function(raw, l, now)
    raw = fetch(raw)
    local full = l.cap * l.span
    if not raw then
      return { full, now, l.span }
    end
    local level, at, period = struct.unpack('<ddd', raw)
    local s = { level, at, period }
    if s[3] ~= l.span then
      s[1] = floor(s[1] / s[3]) * l.span
      s[3] = l.span
    end
    s[1] = min(s[1], full)
    if s[2] <= now then
      s[1] = min(full, s[1] + (now - s[2]) * l.rate)
      s[2] = now
    elseif (s[2] - now) * l.rate > full then
      -- The clock was set back by more than a whole refill: start again from here, without a gift.
      s[2] = now
    end
    return s
  end,

  room = function(s, l)
    return floor(s[1] / l.span)
  end,

  --@ extend
  lacking = function(s, l, hold, target)
    return target - hold[1]
  end,

  --@ reserve extend
  take = function(s, l, hold, amount, now)
    s[1] = max(LEAST, s[1] - amount * l.span)
    return { (hold and hold[1] or 0) + amount }
  end,

  --@ settle
  settle = function(s, l, hold, actual, now)
    s[1] = max(LEAST, min(l.cap * l.span, s[1] + (hold[1] - actual) * l.span))
  end,

  --@ settle
  -- Use older than a whole refill has been paid back already.
  charge = function(s, l, actual, at, now)
    if (now - at) * l.rate < l.cap * l.span then
      s[1] = max(LEAST, s[1] - actual * l.span)
    end
  end,

  --@ reserve extend
  reset = function(s, l, now)
    return s[2] - now + ceil((l.cap * l.span - s[1]) / l.rate)
  end,

  --@ reserve extend
  wait = function(s, l, amount, now)
    return max(1, s[2] - now + ceil((min(amount, l.cap) * l.span - s[1]) / l.rate))
  end,
  --@ all

  -- A full bucket needs no key, so the state lives as long as refilling takes.
  save = function(key, s, l, now)
    local ttl = s[2] - now + ceil((l.cap * l.span - s[1]) / l.rate) + 1000
    put(key, struct.pack('<ddd', s[1], s[2], s[3]), ttl)
  end,
}
