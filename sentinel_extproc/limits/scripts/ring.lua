-- ring: a strict cap in any window. State: period, head, total, newest slot with a count, then the
-- slots' counts, newest first, the first being slot `head`; doubles.
-- A slot is 1/60 of the window and counts until the window has left all of it, so that what is
-- counted always covers more than the window: the current slot and the 60 before it.
-- While the head stays, taking changes only the first five numbers: these are written in place.
-- The other 60 counts stay a string, which is cut and joined: most calls touch none of them.
local SLOTS = 60
local ZERO = '\0\0\0\0\0\0\0\0'

-- When slot n has left the window, ms.
local function gone(n, l)
  return ceil((n + SLOTS + 1) * l.span / SLOTS)
end

-- The counts before the current one, cut out only when somebody needs them.
local function older(s)
  s.older = s.older or s.raw:sub(41)
  return s.older
end

--@ settle
-- Add to the slot that is `back` slots before the current one. Returns its count.
local function add(s, back, amount)
  s.total = s.total + amount
  if back == 0 then
    s.current = s.current + amount
    return s.current
  end
  local at = back * 8 - 8
  local counts = older(s)
  local count = decode('<d', counts, at + 1) + amount
  s.older = counts:sub(1, at) .. pack('<d', count) .. counts:sub(at + 9)
  s.moved = true
  return count
end
--@ all

kinds[2] = {
  open = function(raw, l)
    local head = floor(now * SLOTS / l.span)
    local period, old_head, total, newest, current = nil, head, 0, head, 0
    raw = fetch(raw)
    if raw then
      period, old_head, total, newest, current = decode('<ddddd', raw)
    end
    if period ~= l.span or old_head - head > SLOTS then
      -- New, or of another window length, or the clock was set back by more than a window: what
      -- was counted can't be placed any more and counts as if it were now.
      l.room = l.cap - total
      return {
        head = head,
        total = total,
        newest = head,
        current = total,
        older = repeated(ZERO, SLOTS),
        moved = true,
      }
    end
    local moved, step = nil, head - old_head
    if step <= 0 then
      head = old_head
    else
      step = min(step, SLOTS + 1)
      local dropped = { decode('<' .. repeated('d', step), raw, #raw - step * 8 + 1) }
      for i = 1, step do
        total = total - dropped[i]
      end
      moved = repeated(ZERO, min(step - 1, SLOTS)) .. raw:sub(33, #raw - step * 8)
      current = 0
    end
    l.room = l.cap - total
    return {
      head = head,
      total = total,
      newest = newest,
      current = current,
      raw = raw,
      older = moved,
      moved = step > 0,
    }
  end,

  --@ extend
  lacking = function(s, l, hold, target)
    return target - hold[1]
  end,

  --@ reserve extend
  -- A hold is {total, slot, amount, slot, amount...}: growth is stamped with its own slot.
  take = function(s, l, hold, amount)
    if amount > 0 then
      s.total = s.total + amount
      s.current = s.current + amount
      s.newest = s.head
      l.room = l.room - amount
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
  settle = function(s, l, hold, actual)
    local rest = hold[1] - actual
    if rest < 0 then
      add(s, 0, -rest)
      s.newest = s.head
      return
    end
    local emptied = false
    for i = #hold - 1, 2, -2 do
      local back = s.head - hold[i]
      if back >= 0 and back <= SLOTS then
        local count = back == 0 and s.current or decode('<d', older(s), back * 8 - 7)
        local part = min(rest, hold[i + 1], count)
        if part > 0 then
          emptied = add(s, back, -part) == 0 or emptied
          rest = rest - part
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
  end,

  --@ settle
  -- Use counts in the slot of its time, and no more once that has left the window.
  charge = function(s, l, actual, at)
    local slot = min(s.head, floor(at * SLOTS / l.span))
    if actual > 0 and slot >= s.head - SLOTS then
      s.newest = s.total > 0 and max(s.newest, slot) or slot
      add(s, s.head - slot, actual)
    end
  end,

  --@ reserve extend
  standing = function(s, l, wanted)
    local reset = s.total > 0 and gone(s.newest, l) - now or 0
    if not wanted then
      return reset, 0
    end
    wanted = min(wanted, l.cap)
    local room = l.room
    local counts = { decode('<' .. repeated('d', SLOTS), older(s)) }
    counts[0] = s.current
    for back = SLOTS, 0, -1 do
      room = room + counts[back]
      if counts[back] > 0 and room >= wanted then
        return reset, max(1, gone(s.head - back, l) - now)
      end
    end
    return reset, max(1, gone(s.head, l) - now)
  end,
  --@ all

  save = function(key, s, l)
    local first = pack('<ddddd', l.span, s.head, s.total, s.newest, s.current)
    if s.moved then
      put(key, first .. older(s), l.ttl)
    else
      -- The key, and when it expires, are the head's.
      call('SETRANGE', key, tested and '8' or '0', first)
    end
  end,
}
