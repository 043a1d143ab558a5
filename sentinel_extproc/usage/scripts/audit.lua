-- Whether Redis still has what it was handed. Where the fence is gone so is all that was handed
-- before, so it is set anew to the last number in use: no later look takes what was lost for what
-- never arrived.
--
-- KEYS: at (hash), done (hash), held (hash), fence
-- ARGV: last number in use, ttl in ms, then ids
-- Answer: {fence or -1, then for each 1 if it is here or was billed, else 0}
local fence = redis.call('GET', KEYS[4])
local answer = {tonumber(fence or '-1')}
if not fence then
  redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
end
for i = 3, #ARGV do
  local known = redis.call('HEXISTS', KEYS[1], ARGV[i]) + redis.call('HEXISTS', KEYS[2], ARGV[i])
    + redis.call('HEXISTS', KEYS[3], ARGV[i])
  answer[#answer + 1] = math.min(1, known)
end
return answer
