-- calendar: a quota per UTC day, week from Monday, month, or lifetime.
-- State: period, window, used, elsewhere, seen, lease, amount, lease, amount...; doubles.
-- `used` is settled use of this window. Holds are summed per lease slot of 5 s and count until that
-- slot has passed, so that what a crash leaves is free again within 60 s.
-- `elsewhere` is the use that another authority (Zion) reported, `seen` when it did.
local DAILY, WEEKLY, MONTHLY = 1, 2, 3
local LEASE, LEASE_SLOT = 60000, 5000
local DAY = 86400000
local CORRECTION = 60000
local KEEP = 8640000000 -- 100 days: a lifetime quota that its authority reports again when needed

-- Days since 1970-01-01 to running month number, and back to the first day of a month.
-- Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days, days_from_civil.
local function month_of(days)
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153) -- months since March
  return (yoe + era * 400) * 12 + mp + 2
end

local function first_day(month)
  local y = floor((month - 2) / 12)
  local mp = month - 2 - y * 12
  local era = floor(y / 400)
  local yoe = y - era * 400
  local doe = yoe * 365 + floor(yoe / 4) - floor(yoe / 100) + floor((153 * mp + 2) / 5)
  return era * 146097 + doe - 719468
end

local function window_of(period, now)
  local days = floor(now / DAY)
  if period == DAILY then
    return days
  elseif period == WEEKLY then
    return floor((days + 3) / 7) -- 1970-01-01 was a Thursday
  elseif period == MONTHLY then
    return month_of(days)
  end
  return 0
end

-- When a window ends, ms; nil when it never does.
local function window_end(period, window)
  if period == DAILY then
    return (window + 1) * DAY
  elseif period == WEEKLY then
    return ((window + 1) * 7 - 3) * DAY
  elseif period == MONTHLY then
    return first_day(window + 1) * DAY
  end
  return nil
end

--@ reserve extend
local function lease_at(now)
  return floor((now + LEASE) / LEASE_SLOT)
end
--@ all

local function move(s, lease, amount)
  for i = 6, #s, 2 do
    if s[i] == lease then
      s[i + 1] = max(0, s[i + 1] + amount)
      return
    end
  end
  if amount > 0 then
    s[#s + 1] = lease
    s[#s + 1] = amount
  end
end

local function live(lease, now)
  return lease * LEASE_SLOT > now
end

-- Take over what another authority reports as used in this window. Its number lags behind ours,
-- so it only ever raises ours, unless it falls and stays below its own earlier number for longer
-- than clocks and caches differ: then somebody corrected it, and ours follows by the difference.
local function learn(s, l)
  if l.seen <= s[5] or window_of(l.span, l.seen) ~= s[2] then
    return
  end
  if s[5] > 0 and l.used < s[4] then
    if l.seen - s[5] < CORRECTION then
      return
    end
    s[3] = max(0, s[3] - (s[4] - l.used))
  end
  s[3] = max(s[3], l.used)
  s[4] = l.used
  s[5] = l.seen
end

kinds[3] = {
  open = function(raw, l, now)
    local window = window_of(l.span, now)
    raw = fetch(raw)
    local old = raw and { struct.unpack('<' .. string.rep('d', #raw / 8), raw) }
    if old then
      old[#old] = nil -- struct.unpack also returns where it stopped
    end
    local s
    if not old then
      s = { l.span, window, 0, 0, 0 }
    elseif old[1] ~= l.span or old[2] - window > 1 then
      -- Another period, or the clock was set back by more than one: keep what was used.
      s = { l.span, window, old[3], 0, 0 }
    elseif old[2] < window then
      s = { l.span, window, 0, 0, 0 }
    else
      s = { l.span, old[2], old[3], old[4], old[5] }
    end
    if old and s[2] == old[2] and s[1] == old[1] then
      for i = 6, #old, 2 do
        if live(old[i], now) and old[i + 1] > 0 then
          s[#s + 1] = old[i]
          s[#s + 1] = old[i + 1]
        end
      end
    end
    learn(s, l)
    return s
  end,

  room = function(s, l)
    local room = l.cap - s[3]
    for i = 6, #s, 2 do
      room = room - s[i + 1]
    end
    return room
  end,

  --@ extend
  -- A hold is {window, lease, amount}. A hold of a window that is over grows no more; one whose
  -- lease ran out has to be taken again whole.
  lacking = function(s, l, hold, target, now)
    if hold[1] ~= s[2] then
      return 0
    end
    return target - (live(hold[2], now) and hold[3] or 0)
  end,

  --@ reserve extend
  take = function(s, l, hold, amount, now)
    local lease = lease_at(now)
    if not hold then
      move(s, lease, amount)
      return { s[2], lease, amount }
    end
    if hold[1] ~= s[2] then
      return hold
    end
    local kept = 0
    if live(hold[2], now) then
      kept = hold[3]
      move(s, hold[2], -kept)
    end
    move(s, lease, kept + amount)
    return { s[2], lease, kept + amount }
  end,

  --@ settle
  settle = function(s, l, hold, actual, now)
    if hold[1] ~= s[2] then
      return
    end
    if live(hold[2], now) then
      move(s, hold[2], -hold[3])
    end
    s[3] = s[3] + actual
  end,

  --@ settle
  charge = function(s, l, actual, at, now)
    if window_of(l.span, at) == s[2] then
      s[3] = s[3] + actual
    end
  end,

  --@ reserve extend
  reset = function(s, l, now)
    if s[3] <= 0 and #s == 5 then
      return 0
    end
    local last = window_end(s[1], s[2])
    return last and last - now or -1
  end,

  --@ reserve extend
  -- Room may come from leases that run out before the window ends.
  wait = function(s, l, amount, now)
    local last = window_end(s[1], s[2])
    local room = l.kind.room(s, l)
    local leases = {}
    for i = 6, #s, 2 do
      leases[#leases + 1] = { s[i], s[i + 1] }
    end
    table.sort(leases, function(a, b)
      return a[1] < b[1]
    end)
    for _, lease in ipairs(leases) do
      room = room + lease[2]
      if room >= amount then
        return max(1, min(lease[1] * LEASE_SLOT, last or math.huge) - now)
      end
    end
    return last and max(1, last - now) or -1
  end,
  --@ all

  -- Our own lifetime quotas are the only states that never expire: nobody else knows their use.
  save = function(key, s, l, now)
    local last = window_end(s[1], s[2])
    local ttl = s[5] > 0 and KEEP or nil
    if last then
      ttl = last - now + LEASE
    end
    put(key, struct.pack('<' .. string.rep('d', #s), unpack(s)), ttl)
  end,
}
