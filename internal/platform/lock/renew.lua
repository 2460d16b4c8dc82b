-- Makes a place that is still held last longer. What has ended stays ended, also when nobody has taken it since.
--
-- KEYS     those of acquire.lua
-- ARGV     token, limit, ttl in microseconds
-- Returns  1, or 0 if it is not held
local token, limit, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not ttl then
  return redis.error_reply('ARGUMENT a number is missing')
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local s = redis.call('HMGET', KEYS[1], 'o', 'x', 'f')
local till = string.format('%.0f', now + ttl)
if s[1] == token then
  if tonumber(s[2] or 0) <= now then
    return 0
  end
  redis.call('HSET', KEYS[1], 'x', till)
else
  local mine = limit .. ':' .. token
  local ends = redis.call('ZSCORE', KEYS[2], mine)
  if not s[3] or not ends or tonumber(ends) <= now then
    return 0
  end
  redis.call('ZADD', KEYS[2], till, mine)
  redis.call('PEXPIRE', KEYS[2], 7200000)
end
redis.call('HSET', KEYS[1], 'p', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], 7200000)
return 1
