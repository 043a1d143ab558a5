-- What every script needs: names that are quicker as locals, and the time.
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local call, unpack, repeated = redis.call, unpack, string.rep
local pack, decode = struct.pack, struct.unpack

-- Redis' own time in ms. Only tests pass a time. Under a test's clock a value carries its expiry
-- itself, as one double in front: nothing may expire by the real one.
local tested = ARGV[1] ~= ''
local now
if tested then
  now = tonumber(ARGV[1])
else
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
