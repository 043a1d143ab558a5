-- ring: a strict cap in any window. State: period, head, total, newest slot with a count, then the
-- slots' counts, oldest first, the last being slot `head`; doubles.
-- A slot is 1/60 of the window and counts until the window has left all of it, so that what is
-- counted always covers more than the window: the current slot and the 60 before it.
-- The counts stay a string, which is cut and joined: most calls touch one of 61.
local SLOTS = 60
local LAST = SLOTS * 8 -- where the current slot's count begins, from 0
local ZERO = '\0\0\0\0\0\0\0\0'

-- When slot n has left the window, ms.
local function gone(n, l)
  return ceil((n + SLOTS + 1) * l.span / SLOTS)
end

-- Add to the slot whose count begins at byte `at`, from 0. Returns its count.
local function add(s, at, amount)
  local count = struct.unpack('<d', s.counts, at + 1) + amount
  s.counts = s.counts:sub(1, at) .. struct.pack('<d', count) .. s.counts:sub(at + 9)
  s.total = s.total + amount
  return count
end

local function all_counts(s)
  return { struct.unpack('<' .. string.rep('d', SLOTS + 1), s.counts) }
end

kinds[2] = {
  open = function(raw, l, now)
    local head = floor(now * SLOTS / l.span)
    local period, old_head, total, newest
    raw = fetch(raw)
    if raw then
      period, old_head, total, newest = struct.unpack('<dddd', raw)
    end
    if not raw or period ~= l.span or old_head - head > SLOTS then
      -- New, or of another window length, or the clock was set back by more than a window: what
      -- was counted can't be placed any more and counts as if it were now.
      local s = { head = head, total = 0, newest = head, counts = ZERO:rep(SLOTS + 1) }
      add(s, LAST, total or 0)
      return s
    end
    local s = { head = old_head, total = total, newest = newest, counts = raw:sub(33) }
    local step = min(head - old_head, SLOTS + 1)
    if step > 0 then
      local dropped = { struct.unpack('<' .. string.rep('d', step), s.counts) }
      for i = 1, step do
        s.total = s.total - dropped[i]
      end
      s.counts = s.counts:sub(step * 8 + 1) .. ZERO:rep(step)
      s.head = head
    end
    return s
  end,

  room = function(s, l)
    return l.cap - s.total
  end,

  --@ extend
  lacking = function(s, l, hold, target)
    return target - hold[1]
  end,

  --@ reserve extend
  -- A hold is {total, slot, amount, slot, amount...}: growth is stamped with its own slot.
  take = function(s, l, hold, amount, now)
    if amount > 0 then
      add(s, LAST, amount)
      s.newest = s.head
    end
    if not hold then
      return { amount, s.head, amount }
    end
    local grown = { hold[1] + amount }
    for i = 2, #hold, 2 do
      if hold[i] >= s.head - SLOTS then
        grown[#grown + 1] = hold[i]
        grown[#grown + 1] = hold[i + 1]
      end
    end
    if #grown > 1 and grown[#grown - 1] == s.head then
      grown[#grown] = grown[#grown] + amount
    else
      grown[#grown + 1] = s.head
      grown[#grown + 1] = amount
    end
    return grown
  end,

  --@ settle
  -- Hands back to the stamped slots only, latest first; use beyond the hold is use now.
  settle = function(s, l, hold, actual, now)
    local back = hold[1] - actual
    if back < 0 then
      add(s, LAST, -back)
      s.newest = s.head
      return
    end
    local emptied = false
    for i = #hold - 1, 2, -2 do
      local at = LAST - (s.head - hold[i]) * 8
      if at >= 0 and at <= LAST then
        local part = min(back, hold[i + 1], (struct.unpack('<d', s.counts, at + 1)))
        emptied = add(s, at, -part) == 0 or emptied
        back = back - part
      end
    end
    if emptied and s.total > 0 then
      local counts = all_counts(s)
      local i = SLOTS + 1
      while counts[i] == 0 do
        i = i - 1
      end
      s.newest = s.head - (SLOTS + 1 - i)
    end
  end,

  --@ settle
  -- Use counts in the slot of its time, and no more once that has left the window.
  charge = function(s, l, actual, at, now)
    local slot = min(s.head, floor(at * SLOTS / l.span))
    if actual > 0 and slot >= s.head - SLOTS then
      s.newest = s.total > 0 and max(s.newest, slot) or slot
      add(s, LAST - (s.head - slot) * 8, actual)
    end
  end,

  --@ reserve extend
  reset = function(s, l, now)
    return s.total > 0 and gone(s.newest, l) - now or 0
  end,

  --@ reserve extend
  wait = function(s, l, amount, now)
    local room = l.cap - s.total
    local wanted = min(amount, l.cap)
    local counts = all_counts(s)
    for i = 1, SLOTS + 1 do
      room = room + counts[i]
      if counts[i] > 0 and room >= wanted then
        return max(1, gone(s.head - (SLOTS + 1 - i), l) - now)
      end
    end
    return max(1, gone(s.head, l) - now)
  end,
  --@ all

  save = function(key, s, l, now)
    local header = struct.pack('<dddd', l.span, s.head, s.total, s.newest)
    put(key, header .. s.counts, gone(s.head, l) - now + 1000)
  end,
}
