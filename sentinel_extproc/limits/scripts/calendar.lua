-- calendar: a quota per UTC day, week from Monday, month, or lifetime.
-- State: period, when its window starts and ends, used, elsewhere, seen, then lease, amount, lease,
-- amount...; doubles.
-- `used` is settled use of this window. Holds are summed per lease slot of 5 s and count until that
-- slot has passed, so that what a crash leaves is free again within 60 s.
-- `elsewhere` is the use that another authority (Zion) reported, `seen` when it did.
local LEASE, LEASE_SLOT = 60000, 5000
local CORRECTION = 60000
local NEVER = 9007199254740992 -- 2^53: the end of a lifetime
local KEEP = '8640000000' -- 100 days: a lifetime quota that its authority reports again when needed

-- When the window that contains `at` starts and ends, ms. Called once per window: a state says when
-- its own one does.
local function window_at(period, at)
  local DAILY, WEEKLY, MONTHLY, DAY = 1, 2, 3, 86400000
  local days = floor(at / DAY)
  if period == DAILY then
    return days * DAY, (days + 1) * DAY
  elseif period == WEEKLY then
    local monday = floor((days + 3) / 7) * 7 - 3 -- 1970-01-01 was a Thursday
    return monday * DAY, (monday + 7) * DAY
  elseif period ~= MONTHLY then
    return -NEVER, NEVER
  end

  -- Days since 1970-01-01 to running month number, and back to the first day of a month.
  -- Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days, days_from_civil.
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153) -- months since March
  local month = (yoe + era * 400) * 12 + mp + 2

  local function first_day(number)
    local y = floor((number - 2) / 12)
    local since_march = number - 2 - y * 12
    local e = floor(y / 400)
    local of_era = y - e * 400
    local before = 365 * of_era + floor(of_era / 4) - floor(of_era / 100)
    return e * 146097 + before + floor((153 * since_march + 2) / 5) - 719468
  end

  return first_day(month) * DAY, first_day(month + 1) * DAY
end

-- The state's leases begin behind this many numbers.
local HEAD = 6

-- Add to a lease; returns by how much what is held has changed.
local function move(s, lease, amount)
  for i = HEAD + 1, #s, 2 do
    if s[i] == lease then
      local held = s[i + 1]
      s[i + 1] = max(0, held + amount)
      return s[i + 1] - held
    end
  end
  if amount <= 0 then
    return 0
  end
  local n = #s
  s[n + 1] = lease
  s[n + 2] = amount
  return amount
end

kinds[3] = {
  open = function(raw, l)
    local s
    raw = fetch(raw)
    if raw then
      s = { decode('<' .. repeated('d', #raw / 8), raw) }
      s[#s] = nil -- decoding also returns where it stopped
    end
    l.ttl = false -- the key expires with its window, as it is
    if not s or s[1] ~= l.span or now < s[2] or now >= s[3] then
      local start, finish = window_at(l.span, now)
      if not s or s[1] == l.span and now >= s[3] then
        l.ttl = nil
        s = { l.span, start, finish, 0, 0, 0 }
      elseif s[1] ~= l.span or now < (window_at(l.span, s[2] - 1)) then
        -- Another period, or the clock was set back by more than one: keep what was used.
        l.ttl = nil
        s = { l.span, start, finish, s[4], 0, 0 }
      end
    end

    local held, ended = 0, false
    for i = HEAD + 1, #s, 2 do
      if s[i] * LEASE_SLOT > now and s[i + 1] > 0 then
        held = held + s[i + 1]
      else
        ended = true
      end
    end
    if ended then
      local live = { s[1], s[2], s[3], s[4], s[5], s[6] }
      for i = HEAD + 1, #s, 2 do
        if s[i] * LEASE_SLOT > now and s[i + 1] > 0 then
          live[#live + 1] = s[i]
          live[#live + 1] = s[i + 1]
        end
      end
      s = live
    end

    -- Take over what another authority reports as used in this window. Its number lags behind ours,
    -- so it only ever raises ours, unless it falls and stays below its own earlier number for
    -- longer than clocks and caches differ: then somebody corrected it, and ours follows by the
    -- difference.
    local seen = l.seen
    if seen > s[6] and seen >= s[2] and seen < s[3] then
      local fell = s[6] > 0 and l.used < s[5]
      if not fell or seen - s[6] >= CORRECTION then
        if fell then
          s[4] = max(0, s[4] - (s[5] - l.used))
        end
        s[4], s[5], s[6] = max(s[4], l.used), l.used, seen
      end
    end
    l.room = l.cap - s[4] - held
    return s
  end,

  --@ extend
  -- A hold is {start of its window, lease, amount}. A hold of a window that is over grows no more;
  -- one whose lease ran out has to be taken again whole.
  lacking = function(s, l, hold, target)
    if hold[1] ~= s[2] then
      return 0
    end
    return target - (hold[2] * LEASE_SLOT > now and hold[3] or 0)
  end,

  --@ reserve extend
  take = function(s, l, hold, amount)
    if hold and hold[1] ~= s[2] then
      return hold
    end
    local lease, kept, change = floor((now + LEASE) / LEASE_SLOT), 0, 0
    if hold and hold[2] * LEASE_SLOT > now then
      kept = hold[3]
      change = move(s, hold[2], -kept)
    end
    l.room = l.room - change - move(s, lease, kept + amount)
    return { s[2], lease, kept + amount }
  end,

  --@ settle
  settle = function(s, l, hold, actual)
    if hold[1] ~= s[2] then
      return
    end
    if hold[2] * LEASE_SLOT > now then
      move(s, hold[2], -hold[3])
    end
    s[4] = s[4] + actual
  end,

  --@ settle
  charge = function(s, l, actual, at)
    if at >= s[2] and at < s[3] then
      s[4] = s[4] + actual
    end
  end,

  --@ reserve extend
  -- Room may come from leases that run out before the window ends.
  standing = function(s, l, wanted)
    local whole = s[4] <= 0 and #s == HEAD
    local ending = s[3] < NEVER and s[3] - now or -1
    if not wanted then
      return whole and 0 or ending, 0
    end
    local room, leases = l.room, {}
    for i = HEAD + 1, #s, 2 do
      leases[#leases + 1] = { s[i], s[i + 1] }
    end
    table.sort(leases, function(a, b)
      return a[1] < b[1]
    end)
    for _, lease in ipairs(leases) do
      room = room + lease[2]
      if room >= wanted then
        return whole and 0 or ending, max(1, min(lease[1] * LEASE_SLOT, s[3]) - now)
      end
    end
    return whole and 0 or ending, ending > 0 and ending or -1
  end,
  --@ all

  -- A key expires with its window. Our own lifetime quotas are the only states that never do:
  -- nobody else knows their use.
  save = function(key, s, l)
    local ttl = l.ttl
    if s[3] == NEVER then
      ttl = s[6] > 0 and KEEP or ttl
    elseif ttl == nil then
      ttl = s[3] - now + LEASE
    end
    put(key, doubles(s), ttl)
  end,
}
