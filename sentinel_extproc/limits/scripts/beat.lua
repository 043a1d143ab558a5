-- beat: say that a replica is there, and count those that did lately.
-- KEYS: a sorted set of replicas by time. ARGV: time or '', the replica, ms until it is forgotten.
local now, ttl = clock(ARGV[1]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ttl))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ttl))
return redis.call('ZCARD', KEYS[1])
