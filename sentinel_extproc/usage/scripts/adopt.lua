-- Take what a silent sidecar had under way, for one adopter at a time; and let go what he stored.
--
-- KEYS: open (hash), lease (string)
-- ARGV: adopter, lease in ms, most to tell, then ids that he has stored
-- Answer: {1 if it is his, {id, intent...}}
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return {0, {}}
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
return {1, redis.call('HSCAN', KEYS[1], 0, 'COUNT', ARGV[3])[2]}
