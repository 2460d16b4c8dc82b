-- Members of a board were written.
-- KEYS: 1 set, 2 members to be written, 3 mark, 4 what is to be written. ARGV: 1 name, 2 lifetime (ms), then member and score that was written ("" for
-- none).
for i = 3, #ARGV, 2 do
  if (redis.call('ZSCORE', KEYS[1], ARGV[i]) or '') == ARGV[i + 1] then
    redis.call('SREM', KEYS[2], ARGV[i])
  end
end
if redis.call('SCARD', KEYS[2]) == 0 then
  redis.call('SREM', KEYS[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[2] + 60000) -- longer than its mark: what is marked is whole
end
return 1
