-- calendar: a quota per UTC day, week from Monday, month, or lifetime.
-- State: period, when its window starts and ends, used, elsewhere, seen, then lease, amount, lease,
-- amount...; doubles.
-- `used` is settled use of this window.
-- `elsewhere` is the use that another authority (Zion) reported, `seen` when it did.
local CORRECTION = 60000
local NEVER = 9007199254740992 -- 2^53: the end of a lifetime
local KEEP = '8640000000' -- 100 days: a lifetime quota that its authority reports again when needed
local HEAD = 6 -- the state's leases begin behind this many numbers

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

--@ open
ttl = false -- the key expires with its window, as it is
if raw then
  s = { decode('<' .. repeated('d', #raw / 8), raw) }
  s[#s] = nil -- decoding also returns where it stopped
end
if not s or s[1] ~= span or now < s[2] or now >= s[3] then
  local start, finish = window_at(span, now)
  if not s or s[1] == span and now >= s[3] then
    ttl = nil
    s = { span, start, finish, 0, 0, 0 }
  elseif s[1] ~= span or now < (window_at(span, s[2] - 1)) then
    -- Another period, or the clock was set back by more than one: keep what was used.
    ttl = nil
    s = { span, start, finish, s[4], 0, 0 }
  end
end

local held, ended = 0, false
for j = HEAD + 1, #s, 2 do
  if s[j] * LEASE_SLOT > now and s[j + 1] > 0 then
    held = held + s[j + 1]
  else
    ended = true
  end
end
if ended then
  local live = { s[1], s[2], s[3], s[4], s[5], s[6] }
  for j = HEAD + 1, #s, 2 do
    if s[j] * LEASE_SLOT > now and s[j + 1] > 0 then
      live[#live + 1] = s[j]
      live[#live + 1] = s[j + 1]
    end
  end
  s = live
end

-- Take over what another authority reports as used in this window. Its number lags behind ours, so
-- it only ever raises ours, unless it falls and stays below its own earlier number for longer than
-- clocks and caches differ: then somebody corrected it, and ours follows by the difference.
if seen > s[6] and seen >= s[2] and seen < s[3] then
  local fell = s[6] > 0 and used < s[5]
  if not fell or seen - s[6] >= CORRECTION then
    if fell then
      s[4] = max(0, s[4] - (s[5] - used))
    end
    s[4], s[5], s[6] = max(s[4], used), used, seen
  end
end
room = cap - s[4] - held

--@ lacking
-- A hold is {start of its window, lease, amount}. A hold of a window that is over grows no more;
-- one whose lease ran out has to be taken again whole.
if hold[1] ~= s[2] then
  more = 0
else
  more = amount - (hold[2] * LEASE_SLOT > now and hold[3] or 0)
end

--@ take
local start, lease, kept = s[2], floor((now + LEASE) / LEASE_SLOT), 0
if hold and hold[1] ~= start then
  start, lease, kept, more = hold[1], hold[2], hold[3], 0
else
  if hold and hold[2] * LEASE_SLOT > now then
    kept = hold[3]
    room = room - move(s, HEAD, hold[2], -kept)
  end
  room = room - move(s, HEAD, lease, kept + more)
end
taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = 3, start, lease, kept + more

--@ settle
if hold[1] == s[2] then
  if hold[2] * LEASE_SLOT > now then
    move(s, HEAD, hold[2], -hold[3])
  end
  s[4] = s[4] + amount
end

--@ charge
if at >= s[2] and at < s[3] then
  s[4] = s[4] + amount
end

--@ standing
local ending = s[3] < NEVER and s[3] - now or -1
reset = (s[4] > 0 or #s > HEAD) and ending or 0
if wanted then
  -- Room may come from leases that run out before the window ends.
  local free, leases = room, {}
  wait = ending
  for j = HEAD + 1, #s, 2 do
    leases[#leases + 1] = { s[j], s[j + 1] }
  end
  table.sort(leases, function(a, b)
    return a[1] < b[1]
  end)
  for _, lease in ipairs(leases) do
    free = free + lease[2]
    if free >= wanted then
      wait = max(1, min(lease[1] * LEASE_SLOT, s[3]) - now)
      break
    end
  end
end

--@ save
-- A key expires with its window. Our own lifetime quotas are the only states that never do: nobody
-- else knows their use.
if s[3] == NEVER then
  ttl = s[6] > 0 and KEEP or ttl
elseif ttl == nil then
  ttl = s[3] - now + LEASE
end
put(key, doubles(s), ttl)
