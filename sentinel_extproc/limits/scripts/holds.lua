-- A record is all doubles: OPEN or SETTLED, when it was taken, and for each line the number of its
-- hold's numbers and these. Returns the holds by line, and when they were taken.
local function holds_of(record)
  local numbers, holds = { decode('<' .. repeated('d', #record / 8), record) }, {}
  local at = 3
  while at < #numbers do -- the last one is where decoding stopped
    local hold = {}
    for i = 1, numbers[at] do
      hold[i] = numbers[at + i]
    end
    holds[#holds + 1] = hold
    at = at + #hold + 1
  end
  return holds, numbers[2]
end
