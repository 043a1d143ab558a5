-- Take entries for one consumer: first those whose lease ran out or whose time has come, then new
-- ones. The lease is the time since the last delivery; an entry that was let go is kept by the
-- consumer '-', delivered so long ago that its lease runs out when it is due.
--
-- KEYS: items (stream), at (hash)
-- ARGV: group, consumer, lease in ms, most entries, cursor, 1 to take others' entries too
-- Answer: {next cursor, {entry, id, origin, body, refusals, 1 if it may have been sent}...}
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local limit = tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {ARGV[5]}

local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if string.sub(reply.err, 1, 7) ~= 'NOGROUP' then
      error(reply.err)
    end
    redis.call('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM')
    reply = redis.call(...)
  end
  return reply
end

local function take(entry)
  local name, fields = entry[1], {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  local state = redis.call('HGET', KEYS[2], fields.i)
  local at, refusals, due, phase = string.match(state or '', '^(%S+) (%d+) (%d+) (%a)$')
  if at ~= name then
    -- Not the entry of this item any more, or of none that was settled.
    redis.call('XACK', KEYS[1], group, name)
    redis.call('XDEL', KEYS[1], name)
    return
  end
  if tonumber(due) > now then
    local delivered = string.format('%.0f', math.min(now, due - lease))
    redis.call('XCLAIM', KEYS[1], group, '-', '0', name, 'TIME', delivered, 'JUSTID')
    return
  end
  if phase == 'f' then
    redis.call('HSET', KEYS[2], fields.i, name .. ' ' .. refusals .. ' 0 n')
  end
  local sent = 0
  if phase == 's' then
    sent = 1
  end
  answer[#answer + 1] = {name, fields.i, fields.o, fields.b, tonumber(refusals), sent}
end

if ARGV[6] == '1' then
  local old = try('XAUTOCLAIM', KEYS[1], group, consumer, ARGV[3], ARGV[5], 'COUNT', ARGV[4])
  answer[1] = old[1]
  for _, entry in ipairs(old[2]) do
    if entry and entry[2] then
      take(entry)
    end
  end
end
local left = limit - (#answer - 1)
if left > 0 then
  local new = try('XREADGROUP', 'GROUP', group, consumer, 'COUNT', left, 'STREAMS', KEYS[1], '>')
  if new then
    for _, entry in ipairs(new[1][2]) do
      take(entry)
    end
  end
end
return answer
