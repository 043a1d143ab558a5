-- bucket: a rate with a burst. State: level, at, period; three doubles.
-- The level counts in 1/period, so that a millisecond adds exactly `rate` and nothing is divided.
-- It may be negative: debt from settlement, paid back by refilling.
kinds[1] = {
  open = function(raw, l)
    local span, full = l.span, l.cap * l.span
    raw = fetch(raw)
    if not raw then
      l.room = l.cap
      return { full, now, span }
    end
    local level, at, period = decode('<ddd', raw)
    if period ~= span then
      level = floor(level / period) * span
    end
    level = min(level, full)
    if at <= now then
      level, at = min(full, level + (now - at) * l.rate), now
    elseif (at - now) * l.rate > full then
      -- The clock was set back by more than a whole refill: start again from here, without a gift.
      at = now
    end
    l.room = floor(level / span)
    return { level, at, span }
  end,

  --@ extend
  lacking = function(s, l, hold, target)
    return target - hold[1]
  end,

  --@ reserve extend
  take = function(s, l, hold, amount)
    s[1] = max(LEAST, s[1] - amount * l.span)
    l.room = floor(s[1] / l.span)
    return { (hold and hold[1] or 0) + amount }
  end,

  --@ settle
  settle = function(s, l, hold, actual)
    s[1] = max(LEAST, min(l.cap * l.span, s[1] + (hold[1] - actual) * l.span))
  end,

  --@ settle
  -- Use older than a whole refill has been paid back already.
  charge = function(s, l, actual, at)
    if (now - at) * l.rate < l.cap * l.span then
      s[1] = max(LEAST, s[1] - actual * l.span)
    end
  end,

  --@ reserve extend
  standing = function(s, l, wanted)
    local reset = s[2] - now + ceil((l.cap * l.span - s[1]) / l.rate)
    if not wanted then
      return reset, 0
    end
    return reset, max(1, s[2] - now + ceil((min(wanted, l.cap) * l.span - s[1]) / l.rate))
  end,
  --@ all

  -- A full bucket needs no key, so the state lives as long as refilling takes.
  save = function(key, s, l)
    local ttl
    if s[1] >= 0 and s[2] == now then
      ttl = l.ttl
    else
      ttl = s[2] - now + ceil((l.cap * l.span - s[1]) / l.rate) + 1000
    end
    put(key, pack('<ddd', s[1], s[2], s[3]), ttl)
  end,
}
