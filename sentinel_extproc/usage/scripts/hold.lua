-- Renew a consumer's leases, and when it is about to send, note that it may have.
--
-- KEYS: items (stream), at (hash)
-- ARGV: group, consumer, 1 if about to send, then entry and id of each
-- Answer: for each 1 if it is still this consumer's, else 0.
local group, consumer = ARGV[1], ARGV[2]
local answer = {}
for i = 4, #ARGV, 2 do
  local entry, id = ARGV[i], ARGV[i + 1]
  local state = redis.call('HGET', KEYS[2], id)
  local at, refusals = string.match(state or '', '^(%S+) (%d+) ')
  local own = 0
  if at == entry then
    local owner = redis.call('XPENDING', KEYS[1], group, entry, entry, 1, consumer)
    own = #owner
  end
  if own == 1 then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, entry, 'IDLE', 0, 'JUSTID')
    if ARGV[3] == '1' then
      redis.call('HSET', KEYS[2], id, entry .. ' ' .. refusals .. ' 0 s')
    end
  end
  answer[#answer + 1] = own
end
return answer
