-- ring: a strict cap in any window. State: period, head, total, newest slot with a count, then the
-- slots' counts, newest first, the first being slot `head`; doubles.
-- A slot is 1/60 of the window and counts until the window has left all of it, so that what is
-- counted always covers more than the window: the current slot and the 60 before it.
-- While the head stays, taking changes only the first five numbers: these are written in place.
-- The other 60 counts stay a string, which is cut and joined: most calls touch none of them.
local SLOTS = 60
local ZERO = '\0\0\0\0\0\0\0\0'

-- When slot n has left the window of `span` ms, ms.
local function gone(n, span)
  return ceil((n + SLOTS + 1) * span / SLOTS)
end

-- The counts before the current one, cut out only when somebody needs them.
local function older(s)
  s.older = s.older or s.raw:sub(41)
  return s.older
end

--@ open
local head = floor(now * SLOTS / span)
local period, old_head, total, newest, current = nil, head, 0, head, 0
if raw then
  period, old_head, total, newest, current = decode('<ddddd', raw)
end
if period ~= span or old_head - head > SLOTS then
  -- New, or of another window length, or the clock was set back by more than a window: what was
  -- counted can't be placed any more and counts as if it were now.
  s = { head = head, total = total, newest = head, current = total }
  s.older = repeated(ZERO, SLOTS)
  s.moved = true
elseif head <= old_head then
  s = { head = old_head, total = total, newest = newest, current = current, raw = raw }
else
  local step = min(head - old_head, SLOTS + 1)
  local dropped = { decode('<' .. repeated('d', step), raw, #raw - step * 8 + 1) }
  for j = 1, step do
    total = total - dropped[j]
  end
  s = { head = head, total = total, newest = newest, current = 0 }
  s.older = repeated(ZERO, min(step - 1, SLOTS)) .. raw:sub(33, #raw - step * 8)
  s.moved = true
end
room = cap - total

--@ lacking
more = amount - hold[1]

--@ take
-- A hold is {total, slot, amount, slot, amount...}: growth is stamped with its own slot.
if more > 0 then
  s.total = s.total + more
  s.current = s.current + more
  s.newest = s.head
  room = room - more
end
if hold then
  local size, last = n + 2, 0
  taken[size] = hold[1] + more
  for j = 2, #hold, 2 do
    if hold[j] >= s.head - SLOTS then
      last = hold[j]
      taken[size + 1], taken[size + 2] = last, hold[j + 1]
      size = size + 2
    end
  end
  if last == s.head then
    taken[size] = taken[size] + more
  else
    taken[size + 1], taken[size + 2] = s.head, more
    size = size + 2
  end
  taken[n + 1] = size - n - 1
else
  taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = 3, more, s.head, more
end

--@ settle
-- Hands back to the stamped slots only, latest first; use beyond the hold is use now.
local rest = hold[1] - amount
if rest < 0 then
  s.total, s.current, s.newest = s.total - rest, s.current - rest, s.head
end
local emptied = false
for j = rest > 0 and #hold - 1 or 0, 2, -2 do
  local back = s.head - hold[j]
  if back >= 0 and back <= SLOTS then
    local at = back * 8 - 8
    local count = back == 0 and s.current or decode('<d', older(s), at + 1)
    local part = min(rest, hold[j + 1], count)
    if part > 0 then
      count, rest, s.total = count - part, rest - part, s.total - part
      emptied = emptied or count == 0
      if back == 0 then
        s.current = count
      else
        s.older = older(s):sub(1, at) .. pack('<d', count) .. older(s):sub(at + 9)
        s.moved = true
      end
    end
  end
end
if emptied and s.total > 0 then
  local back = 0
  if s.current == 0 then
    local counts = { decode('<' .. repeated('d', SLOTS), older(s)) }
    repeat
      back = back + 1
    until counts[back] ~= 0
  end
  s.newest = s.head - back
end

--@ charge
-- Use counts in the slot of its time, and no more once that has left the window.
local slot = min(s.head, floor(at * SLOTS / span))
if amount > 0 and slot >= s.head - SLOTS then
  s.newest = s.total > 0 and max(s.newest, slot) or slot
  s.total = s.total + amount
  if slot == s.head then
    s.current = s.current + amount
  else
    local from = (s.head - slot) * 8 - 8
    local count = decode('<d', older(s), from + 1) + amount
    s.older = older(s):sub(1, from) .. pack('<d', count) .. older(s):sub(from + 9)
    s.moved = true
  end
end

--@ standing
reset = s.total > 0 and gone(s.newest, span) - now or 0
if wanted then
  local fits, counts = min(wanted, cap), { decode('<' .. repeated('d', SLOTS), older(s)) }
  local back, free = SLOTS, room
  counts[0] = s.current
  while back > 0 do
    free = free + counts[back]
    if counts[back] > 0 and free >= fits then
      break
    end
    back = back - 1
  end
  wait = max(1, gone(s.head - back, span) - now)
end

--@ save
local first = pack('<ddddd', span, s.head, s.total, s.newest, s.current)
if s.moved then
  put(key, first .. older(s), ttl)
else
  -- The key, and when it expires, are the head's.
  call('SETRANGE', key, tested and '8' or '0', first)
end
