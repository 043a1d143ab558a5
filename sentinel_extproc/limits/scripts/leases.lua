-- What kinds with leased holds need. Holds are summed per lease slot of 5 s, in pairs of slot and
-- amount at the end of a state, and count until that slot has passed, so that what a crash leaves is
-- free again within 60 s.
local LEASE, LEASE_SLOT = 60000, 5000

-- Add to a lease of a state whose pairs begin behind `head` numbers; returns by how much what is
-- held has changed.
local function move(s, head, lease, amount)
  for i = head + 1, #s, 2 do
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
  s[n + 1], s[n + 2] = lease, amount
  return amount
end
