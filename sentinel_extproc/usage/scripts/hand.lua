-- Put items into the stream, each once however often it is handed over, and none from a call that
-- was delayed in the network until after a later one.
--
-- KEYS: items (stream), at (hash: item to entry and state), done (hash), held (hash), fence
-- ARGV: number of this call, most entries in the stream, ttl in ms, origin, then id, refusals and body of each
-- Answer: {1, added}; {0, fence} when a call of this number or a later one was here; {2, length}
-- when the stream is full.
local fence = tonumber(redis.call('GET', KEYS[5]) or '0')
if tonumber(ARGV[1]) <= fence then
  return {0, fence}
end
local length = redis.call('XLEN', KEYS[1])
if length >= tonumber(ARGV[2]) then
  return {2, length}
end
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[3])
local added = 0
for i = 5, #ARGV, 3 do
  local id = ARGV[i]
  local known = redis.call('HEXISTS', KEYS[2], id) + redis.call('HEXISTS', KEYS[3], id)
    + redis.call('HEXISTS', KEYS[4], id)
  if known == 0 then
    local entry = redis.call('XADD', KEYS[1], '*', 'i', id, 'o', ARGV[4], 'b', ARGV[i + 2])
    redis.call('HSET', KEYS[2], id, entry .. ' ' .. ARGV[i + 1] .. ' 0 n')
    added = added + 1
  end
end
return {1, added}
