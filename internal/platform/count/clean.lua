-- A counter was written.
-- KEYS: 1 counter, 2 what is to be written. ARGV: 1 name, 2 epoch and 3 c that were written, 4 i that was read with them, 5 the base that SQL says,
-- 6 lifetime (ms).
local s = redis.call('HMGET', KEYS[1], 'e', 'c', 'i')
if not s[1] then
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
elseif s[1] ~= ARGV[2] then
  redis.call('HDEL', KEYS[1], 'b') -- a later life; SQL has what the one before had counted
else
  if (s[3] or '0') == ARGV[4] then
    redis.call('HSET', KEYS[1], 'b', ARGV[5])
  end
  if s[2] == ARGV[3] then
    redis.call('SREM', KEYS[2], ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
  end
end
return 1
