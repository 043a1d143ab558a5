-- Say what became of entries. An item leaves the stream in the same step in which its origin is
-- told, so it is always in one of the two.
--
-- KEYS: items (stream), at (hash), then done (hash) and held (hash) of each origin
-- ARGV: group, consumer, lease in ms, ttl in ms, then for each item:
--   verb, entry, id, place of its origin (0, 1...), number, text
--   a  billed: whoever had it last, it is
--   r  let go: due in so many ms, with so many refusals (text)
--   h  to be held for a person, with this verdict (text)
-- What is somebody else's by now is for him to say, but for billed: that is certain.
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function mine(entry, at)
  if at ~= entry then
    return false
  end
  return #redis.call('XPENDING', KEYS[1], group, entry, entry, 1, consumer) == 1
end

local function remove(entry)
  redis.pcall('XACK', KEYS[1], group, entry)
  redis.call('XDEL', KEYS[1], entry)
end

for i = 5, #ARGV, 6 do
  local verb, entry, id, origin = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local number, text = ARGV[i + 4], ARGV[i + 5]
  local done, held = KEYS[3 + 2 * origin], KEYS[4 + 2 * origin]
  local state = redis.call('HGET', KEYS[2], id)
  local at = string.match(state or '', '^(%S+) ')
  if verb == 'a' then
    redis.call('HSET', done, id, '1')
    redis.call('PEXPIRE', done, ARGV[4])
    redis.call('HDEL', held, id)
    remove(entry)
    if at then
      redis.call('HDEL', KEYS[2], id)
      if at ~= entry then
        remove(at)
      end
    end
  elseif mine(entry, at) then
    if verb == 'h' then
      redis.call('HSET', held, id, text)
      redis.call('HDEL', KEYS[2], id)
      remove(entry)
    else
      local due = now + tonumber(number)
      local delivered = string.format('%.0f', math.min(now, due - lease))
      due = string.format('%.0f', due)
      redis.call('HSET', KEYS[2], id, entry .. ' ' .. text .. ' ' .. due .. ' f')
      redis.call('XCLAIM', KEYS[1], group, '-', '0', entry, 'TIME', delivered, 'JUSTID')
    end
  end
end
return 1
