-- Take what a silent sidecar had under way, for one adopter at a time; and let go what he stored.
--
-- KEYS: open (hash), lease (string)
-- ARGV: adopter, lease in ms, most to tell, then ids that he has stored
-- Answer: {1 if it is his, {id, intent...}}
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

if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return {0, {}}
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
return {1, some(KEYS[1], ARGV[3])}
