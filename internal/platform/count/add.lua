-- Takes one batch of changes of one process, once. All keys are of one lane.
-- KEYS: 1 the last batch of this process, 2 what is to be written; then for a counter its key, for a board its set, members to be
-- written, mark, changes since a rebuild began.
-- ARGV: 1 number of the batch, 2 epoch of keys that begin here; then for a counter "c", name, n; for a board "i" (add) or "s" (set), name, n,
-- member, the most members, 2^53.
-- Returns 0 when done, or the place of the first board that must be loaded before; then nothing is done.
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then
  return 0
end
local a, k = 3, 3
while a <= #ARGV do
  if ARGV[a] == 'c' then
    a, k = a + 3, k + 1
  else
    if redis.call('EXISTS', KEYS[k + 2]) == 0 then
      return a
    end
    a, k = a + 6, k + 4
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
a, k = 3, 3
while a <= #ARGV do
  local what, name, n = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local fresh = redis.call('SADD', KEYS[2], name) == 1
  if what == 'c' then
    if redis.call('HINCRBY', KEYS[k], 'v', 1) == 1 then
      redis.call('HSET', KEYS[k], 'e', ARGV[2])
    end
    redis.call('HINCRBY', KEYS[k], 'c', n)
    if fresh then
      redis.call('PERSIST', KEYS[k])
    end
    a, k = a + 3, k + 1
  else
    local set, member, most, bound = KEYS[k], ARGV[a + 3], tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
    if fresh then
      redis.call('PERSIST', set)
      redis.call('PERSIST', KEYS[k + 2])
    end
    local d = tonumber(n)
    if what == 'i' then
      local at = tonumber(redis.call('ZSCORE', set, member) or '0') + d
      d = math.max(-bound, math.min(bound, at))
    end
    redis.call('ZADD', set, string.format('%.0f', d), member)
    redis.call('SADD', KEYS[k + 1], member)
    if redis.call('EXISTS', KEYS[k + 3]) == 1 then
      local r = redis.call('HGET', KEYS[k + 3], 'm' .. member)
      if what == 's' then
        r = '=' .. n
      elseif r and string.sub(r, 1, 1) == '=' then
        r = '=' .. string.format('%.0f', tonumber(string.sub(r, 2)) + tonumber(n))
      else
        r = string.format('%.0f', tonumber(r or '0') + tonumber(n))
      end
      redis.call('HSET', KEYS[k + 3], 'm' .. member, r)
    end
    local over = redis.call('ZCARD', set) - most
    if over > 0 then
      local gone = redis.call('ZPOPMIN', set, over)
      for i = 1, #gone, 2 do
        redis.call('SADD', KEYS[k + 1], gone[i])
      end
    end
    a, k = a + 6, k + 4
  end
end
return 0
