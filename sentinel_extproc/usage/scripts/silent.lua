-- Say that a sidecar is alive, and hear which others haven't for a while.
--
-- KEYS: beats (sorted set of sidecars by time)
-- ARGV: sidecar, ms of silence, most to tell
-- Answer: silent ones, the longest silent first.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
local before = string.format('%.0f', now - tonumber(ARGV[2]))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. before, 'LIMIT', 0, ARGV[3])
