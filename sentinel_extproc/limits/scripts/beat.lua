-- beat: say that a replica is there, and count those that did lately.
-- KEYS: a sorted set of replicas by time. ARGV: time or '', the replica, ms until it is forgotten.
local ttl = tonumber(ARGV[3])
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ttl))
call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
call('PEXPIRE', KEYS[1], string.format('%.0f', ttl))
return call('ZCARD', KEYS[1])
