-- What an origin comes for every second or so: it says that it is alive, and hears which of its
-- items were billed or are to be held. They stay until it has stored that, and takes them out.
--
-- KEYS: items (stream), origins (sorted set), done (hash), held (hash), fence
-- ARGV: origin, ttl in ms, group, most of each to tell
-- Answer: {ids billed, {id, verdict...} held, entries, pending, ms since the oldest came in}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('PEXPIRE', KEYS[5], ARGV[2])
local billed = {}
local scanned = redis.call('HSCAN', KEYS[3], 0, 'COUNT', ARGV[4])[2]
for i = 1, #scanned, 2 do
  billed[#billed + 1] = scanned[i]
end
local held = redis.call('HSCAN', KEYS[4], 0, 'COUNT', ARGV[4])[2]
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
