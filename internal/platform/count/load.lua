-- Gives a counter the base that was read from SQL, if nothing has changed SQL since the lease was taken.
-- KEYS: 1 counter, 2 lease, 3 what is to be written. ARGV: 1 token of the lease, 2 n, 3 epoch, 4 applied with its sign turned, 5 lifetime (ms), 6 name.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'b', ARGV[2])
if redis.call('HGET', KEYS[1], 'e') == ARGV[3] then
  redis.call('HINCRBY', KEYS[1], 'b', ARGV[4])
end
if redis.call('SISMEMBER', KEYS[3], ARGV[6]) == 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
