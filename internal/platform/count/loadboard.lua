-- Puts a board in place that was read from SQL, if the lease still holds.
-- KEYS: 1 set, 2 mark, 3 lease, 4 the set as it was read. ARGV: 1 token, 2 lifetime (ms).
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  redis.call('DEL', KEYS[4])
  return 0
end
redis.call('DEL', KEYS[3])
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('DEL', KEYS[4])
  return 1
end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[4]) == 1 then
  redis.call('RENAME', KEYS[4], KEYS[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2] + 60000)
end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 1
