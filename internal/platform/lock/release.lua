-- Gives a place back, or leaves the queue, and calls the head of the queue.
--
-- KEYS     those of acquire.lua
-- ARGV     token, limit, and 1 when the token may stand in the queue
-- Returns  1, or 0 if it held nothing
local token, limit = ARGV[1], ARGV[2]
local s = redis.call('HMGET', KEYS[1], 'o', 'q', 'f')
if s[1] == token and not s[2] then
  redis.call('HDEL', KEYS[1], 'o', 'x')
  return 1
end
local was = 0
if s[1] == token then
  redis.call('HDEL', KEYS[1], 'o', 'x')
  was = 1
elseif limit ~= '1' then
  was = redis.call('ZREM', KEYS[2], limit .. ':' .. token)
  if not s[3] then
    was = 0 -- the state was deleted, and the place with it
  end
end
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[3], token)
  redis.call('HDEL', KEYS[4], token)
end
if s[2] then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  for _ = 1, 1000 do
    local head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not head then
      redis.call('HDEL', KEYS[1], 'q')
      break
    end
    local ends, channel = string.match(redis.call('HGET', KEYS[4], head) or '', '^(%d+) (.*)$')
    if ends and tonumber(ends) > now then
      redis.call('PUBLISH', channel, head)
      break
    end
    redis.call('ZREM', KEYS[3], head)
    redis.call('HDEL', KEYS[4], head)
  end
end
return was
