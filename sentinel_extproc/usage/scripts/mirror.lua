-- Keep a copy of what a sidecar has under way.
--
-- KEYS: open (hash: exchange to its intent)
-- ARGV: 1 to begin anew, ttl in ms, how many are over, their ids, then id and intent of new ones
-- Answer: how many are under way by the copy.
if ARGV[1] == '1' then
  redis.call('DEL', KEYS[1])
end
local over = tonumber(ARGV[3])
for i = 4, 3 + over do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
for i = 4 + over, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HLEN', KEYS[1])
