-- Makes a counter's total n.
-- KEYS: 1 counter, 2 what is to be written. ARGV: 1 name, 2 n, 3 epoch if the key begins here. Returns 0 when the base must be loaded before.
local b = redis.call('HGET', KEYS[1], 'b')
if not b then
  return 0
end
if redis.call('HINCRBY', KEYS[1], 'v', 1) == 1 then
  redis.call('HSET', KEYS[1], 'e', ARGV[3])
end
if string.sub(b, 1, 1) == '-' then
  b = string.sub(b, 2)
elseif b ~= '0' then
  b = '-' .. b
end
redis.call('HSET', KEYS[1], 'c', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'c', b)
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PERSIST', KEYS[1])
return 1
