-- Says what is to be written of a lane, to one process at a time.
-- KEYS: 1 what is to be written, 2 lease. ARGV: 1 token, 2 lease (ms), 3 how many.
if redis.call('SCARD', KEYS[1]) == 0 then
  return {}
end
local held = redis.call('GET', KEYS[2])
if held and held ~= ARGV[1] then
  return {}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return redis.call('SRANDMEMBER', KEYS[1], ARGV[3])
