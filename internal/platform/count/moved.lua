-- SQL was changed beside Redis: whoever reads next asks it.
-- KEYS: 1 counter, 2 lease, 3 what is to be written. ARGV: 1 name.
redis.call('DEL', KEYS[2])
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'b')
  redis.call('HINCRBY', KEYS[1], 'i', 1)
else
  redis.call('DEL', KEYS[1])
end
return 1
