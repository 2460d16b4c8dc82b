-- Makes ARGV[1] the next number of a tag again, if it was ARGV[2] until now. The key holds the last number taken.
if redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1])
  return 1
end
return 0
