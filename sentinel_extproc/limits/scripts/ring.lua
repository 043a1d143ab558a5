-- ring: a strict cap in any window. State: {period, head, total, slot counts...}, oldest first,
-- the last being slot `head`.
-- A slot is 1/60 of the window and counts until the window has left all of it, so that what is
-- counted always covers more than the window: the current slot and the 60 before it.
local SLOTS = 60
local FIRST = 4 -- index of the oldest slot's count
local LAST = FIRST + SLOTS

-- When slot n has left the window, ms.
local function gone(n, l)
  return ceil((n + SLOTS + 1) * l.span / SLOTS)
end

kinds.ring = {
  open = function(raw, l, now)
    local head = floor(now * SLOTS / l.span)
    local s = decode(raw)
    if not s or s[1] ~= l.span or s[2] - head > SLOTS then
      -- New, or of another window length, or the clock was set back by more than a window: what
      -- was counted can't be placed any more and counts as if it were now.
      local total = s and s[3] or 0
      s = { l.span, head, total }
      for i = FIRST, LAST - 1 do
        s[i] = 0
      end
      s[LAST] = total
      return s
    end
    local step = min(head - s[2], SLOTS + 1)
    if step > 0 then
      for i = FIRST, FIRST + step - 1 do
        s[3] = s[3] - s[i]
      end
      for i = FIRST, LAST do
        s[i] = s[i + step] or 0
      end
      s[2] = head
      for i = LAST + 1, #s do
        s[i] = nil
      end
    end
    return s
  end,

  room = function(s, l)
    return l.cap - s[3]
  end,

  lacking = function(s, l, hold, target)
    return target - hold[1]
  end,

  -- A hold is {total, slot, amount, slot, amount...}: growth is stamped with its own slot.
  take = function(s, l, hold, amount, now)
    s[3] = s[3] + amount
    s[LAST] = s[LAST] + amount
    if not hold then
      return { amount, s[2], amount }
    end
    local grown = { hold[1] + amount }
    for i = 2, #hold, 2 do
      if hold[i] >= s[2] - SLOTS then
        grown[#grown + 1] = hold[i]
        grown[#grown + 1] = hold[i + 1]
      end
    end
    if grown[#grown - 1] == s[2] and #grown > 1 then
      grown[#grown] = grown[#grown] + amount
    else
      grown[#grown + 1] = s[2]
      grown[#grown + 1] = amount
    end
    return grown
  end,

  -- Hands back to the stamped slots only, latest first; use beyond the hold is use now.
  settle = function(s, l, hold, actual, now)
    local back = hold[1] - actual
    if back < 0 then
      s[3] = s[3] - back
      s[LAST] = s[LAST] - back
      return
    end
    for i = #hold - 1, 2, -2 do
      local slot = LAST - (s[2] - hold[i])
      if slot >= FIRST and slot <= LAST then
        local part = min(back, hold[i + 1], s[slot])
        s[slot] = s[slot] - part
        s[3] = s[3] - part
        back = back - part
      end
    end
  end,

  -- Use counts in the slot of its time, and no more once that has left the window.
  charge = function(s, l, actual, at, now)
    local slot = min(LAST, LAST - (s[2] - floor(at * SLOTS / l.span)))
    if slot >= FIRST then
      s[3] = s[3] + actual
      s[slot] = s[slot] + actual
    end
  end,

  reset = function(s, l, now)
    for i = LAST, FIRST, -1 do
      if s[i] > 0 then
        return gone(s[2] - (LAST - i), l) - now
      end
    end
    return 0
  end,

  wait = function(s, l, amount, now)
    local room = l.cap - s[3]
    local wanted = min(amount, l.cap)
    for i = FIRST, LAST do
      room = room + s[i]
      if s[i] > 0 and room >= wanted then
        return max(1, gone(s[2] - (LAST - i), l) - now)
      end
    end
    return max(1, gone(s[2], l) - now)
  end,

  save = function(key, s, l, now)
    put(key, s, gone(s[2], l) - now + 1000)
  end,
}
