-- bump: move a revocation epoch forward. KEYS: the epochs' keys. ARGV: time or ''.
-- Epochs are times, so that they also rise after Redis lost everything. Returns the new epoch.
local epoch = now
for i = 1, #KEYS do
  epoch = max(epoch, (tonumber(call('GET', KEYS[i]) or 0) or 0) + 1)
end
for i = 1, #KEYS do
  call('SET', KEYS[i], string.format('%.0f', epoch))
end
return epoch
