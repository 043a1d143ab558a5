-- breaker: what the fleet holds of one circuit breaker, and who may probe.
-- KEYS: the state (a hash), the probe. ARGV: what to do, then
--   look
--   open     ms it was opened for, ms of that to go, ms to remember it after
--   close    the version that was probed, ms to remember
--   probe    its owner, ms after which it is given up for lost
--   release  its owner
-- Returns: version (0: nothing is known), ms it was opened for (0: closed), ms to go, and the
-- probe: -1 granted, else ms for which somebody else's lasts.
-- Versions are times, so that they also rise after Redis lost everything.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local act = ARGV[1]

local raw = redis.call('HMGET', KEYS[1], 'version', 'open', 'until')
local version, open, over = tonumber(raw[1] or 0), tonumber(raw[2] or 0), tonumber(raw[3] or 0)

local function put(life)
  version = math.max(now, version + 1)
  redis.call('HSET', KEYS[1], 'version', string.format('%.0f', version),
    'open', string.format('%.0f', open), 'until', string.format('%.0f', over))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life))
end

local probe = 0
if act == 'open' then
  -- Whoever comes second finds it open: two replicas that notice at once don't double its time.
  if open == 0 or over <= now then
    open, over = tonumber(ARGV[2]), now + tonumber(ARGV[3])
    put(tonumber(ARGV[3]) + tonumber(ARGV[4]))
    redis.call('DEL', KEYS[2])
  end
elseif act == 'close' then
  -- A late success doesn't close what somebody else has opened since.
  if open > 0 and version == tonumber(ARGV[2]) then
    open, over = 0, 0
    put(tonumber(ARGV[3]))
    redis.call('DEL', KEYS[2])
  end
elseif act == 'probe' then
  if open > 0 and over <= now then
    if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then
      probe = -1
    else
      probe = math.max(1, redis.call('PTTL', KEYS[2]))
    end
  end
elseif act == 'release' then
  if redis.call('GET', KEYS[2]) == ARGV[2] then
    redis.call('DEL', KEYS[2])
  end
end
return { version, open, math.max(0, over - now), probe }
