-- What an origin comes for every second or so: it says that it is alive, and hears which of its
-- items were billed or are to be held. They stay until it has stored that, and takes them out.
--
-- KEYS: items (stream), origins (sorted set), done (hash), held (hash), fence
-- ARGV: origin, ttl in ms, group, most of each to tell
-- Answer: {ids billed, {id, verdict...} held, entries, pending, ms since the oldest came in}
-- One page of a scan may be empty though the hash isn't: go on until there is something or the end.
local function some(key, most)
  local found, cursor = {}, '0'
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', most)
    cursor = page[1]
    for _, value in ipairs(page[2]) do
      found[#found + 1] = value
    end
  until cursor == '0' or #found > 0
  return found
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('PEXPIRE', KEYS[5], ARGV[2])
local billed = {}
local scanned = some(KEYS[3], ARGV[4])
for i = 1, #scanned, 2 do
  billed[#billed + 1] = scanned[i]
end
local held = some(KEYS[4], ARGV[4])
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[3])
local count = 0
if not pending.err then
  count = pending[1]
end
local age = 0
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if oldest then
  age = math.max(0, now - tonumber(string.match(oldest[1], '^(%d+)')))
end
return {billed, held, redis.call('XLEN', KEYS[1]), count, age}
