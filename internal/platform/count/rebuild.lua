-- Puts a board in place that was counted anew: with what has changed since, under its own name, in one step.
-- KEYS: 1 set, 2 members to be written, 3 mark, 4 what is to be written, 5 changes since the rebuild began, 6 the new set.
-- ARGV: 1 token, 2 name, 3 the most members, 4 lifetime (ms). Returns nothing when the rebuild is not ours any more; else members,
-- how many differ from those before, and the sum of that.
if redis.call('HGET', KEYS[5], 't') ~= ARGV[1] then
  redis.call('DEL', KEYS[6])
  return {}
end
local changes = redis.call('HGETALL', KEYS[5])
for i = 1, #changes, 2 do
  if string.sub(changes[i], 1, 1) == 'm' then
    local member, r = string.sub(changes[i], 2), changes[i + 1]
    if string.sub(r, 1, 1) == '=' then
      redis.call('ZADD', KEYS[6], string.sub(r, 2), member)
    else
      redis.call('ZINCRBY', KEYS[6], r, member)
    end
  end
end
redis.call('DEL', KEYS[5])
local over = redis.call('ZCARD', KEYS[6]) - tonumber(ARGV[3])
if over > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[6], 0, over - 1)
end
local was, differ, sum = {}, 0, 0
local old, new = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES')
for i = 1, #old, 2 do
  was[old[i]] = old[i + 1]
  differ = differ + 1
  redis.call('SADD', KEYS[2], old[i])
end
for i = 1, #new, 2 do
  local s = was[new[i]]
  if s then
    differ = differ - 1
  end
  if s ~= new[i + 1] then
    differ = differ + 1
    sum = sum + math.abs(tonumber(new[i + 1]) - tonumber(s or '0'))
  end
  redis.call('SADD', KEYS[2], new[i])
end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[6]) == 1 then
  redis.call('RENAME', KEYS[6], KEYS[1])
  redis.call('PERSIST', KEYS[1])
end
redis.call('SET', KEYS[3], '1')
if redis.call('SCARD', KEYS[2]) > 0 then
  redis.call('SADD', KEYS[4], ARGV[2])
else
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {#new / 2, differ, sum}
