-- Takes an exclusive lock that is free and that nobody waits for: the common case, with one key because each costs the server and the
-- client time. Whatever else may be the matter (it is held, shared, waited for, unknown, or about to be forgotten) is acquire.lua's.
--
-- KEYS     the state, as in acquire.lua
-- ARGV     token, ttl in microseconds
-- Returns  the fence, from 1, or 0: ask acquire.lua
local s = redis.call('HMGET', KEYS[1], 'f', 'o', 'c', 'q', 'p')
if not s[1] or s[2] or s[3] or s[4] or not s[5] or not tonumber(ARGV[2]) then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now < tonumber(s[5]) or now - s[5] >= 600000000 then
  return 0
end
local fence = math.max(s[1] + 1, now)
redis.call('HSET', KEYS[1], 'f', string.format('%.0f', fence), 'o', ARGV[1], 'x', string.format('%.0f', now + ARGV[2]))
return fence
