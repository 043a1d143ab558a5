-- concurrency: so many exchanges at once, in leased holds.
-- State: how long exchanges usually take, ms (0 while unknown), then lease, amount, lease, amount...;
-- doubles.
-- Whatever runs is counted: a hold whose lease ran out meanwhile counts again when it is renewed, so
-- that there may be more than the limit allows, and nobody else is let in until there are fewer.
local LEAST_WAIT, LONGEST_WAIT = 1000, 60000
local PARTS = 8 -- the newest exchange counts so much of the mean: 1/8

--@ open
local held = 0
s = { 0 }
if raw then
  local old = { decode('<' .. repeated('d', #raw / 8), raw) }
  s[1] = old[1]
  for j = 2, #old - 1, 2 do -- the last one is where decoding stopped
    if old[j] * LEASE_SLOT > now and old[j + 1] > 0 then
      local n = #s
      s[n + 1], s[n + 2] = old[j], old[j + 1]
      held = held + old[j + 1]
    end
  end
end
room = cap - held

--@ lacking
-- However an answer grows, it is one exchange.
more = 0

--@ take
-- A hold is {when it was taken, lease, amount}.
local since, lease, held = now, floor((now + LEASE) / LEASE_SLOT), more
if hold then
  since, held = hold[1], hold[3]
  if hold[2] * LEASE_SLOT > now then
    room = room - move(s, 1, hold[2], -held)
  end
end
room = room - move(s, 1, lease, held)
taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = 3, since, lease, held

--@ settle
if hold[2] * LEASE_SLOT > now then
  move(s, 1, hold[2], -hold[3])
end
-- What was only handed back took no time.
if amount > 0 and hold[1] <= now then
  local took = max(1, now - hold[1])
  s[1] = s[1] > 0 and s[1] + floor((took - s[1]) / PARTS) or took
end

--@ charge
-- What is over takes no place.

--@ standing
-- Nobody knows when those that run will end. A guess: of n that usually take t, one ends every t/n.
reset = room < cap and -1 or 0
if wanted then
  wait = -1
  if wanted <= cap then
    local expected = floor(s[1] * (wanted - room) / max(1, cap - room))
    wait = max(LEAST_WAIT, min(expected, LONGEST_WAIT))
  end
end

--@ save
put(key, doubles(s), ttl)
