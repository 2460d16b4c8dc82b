-- Asks for a place in a name, as one step: takes it if it is free and nobody who lives stands before; else, if told to, queues.
-- The same token again is the same request, so a call whose answer was lost may be repeated.
--
-- KEYS[1]  state, a hash: f the last fence, o and x the token and the end of an exclusive holder, c and q there when KEYS[2] and KEYS[3] may hold
--          something, l the lowest limit of the holders, m there when their limits differ, t the last ticket, p when its lifetime was set
-- KEYS[2]  the other holders, a sorted set: limit:token by its end
-- KEYS[3]  the queue, a sorted set: token by its ticket
-- KEYS[4]  who waits, a hash: token to "end channel", after which end it counts as dead
-- ARGV     token, limit, ttl, wait (1) or try (0), the caller's channel, for how long a waiter lives. Times are microseconds of this server.
-- Returns  the fence, from 1, or 0 less the microseconds until a look may be worth while
local s = redis.call('HMGET', KEYS[1], 'f', 'o', 'x', 'c', 'q', 'p')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local token, limit, ttl, wait, lives = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[6])
if not (limit and ttl and lives) then
  return redis.error_reply('ARGUMENT a number is missing')
end
local KEEP = 7200000 -- ms: what keeps the fence from falling when the clock is put back, and longer than any lease
local fence, owner, ends = tonumber(s[1] or 0), s[2], tonumber(s[3] or 0)
local known = fence > 0
local function text(n) return string.format('%.0f', n) end
local function keep()
  if now - tonumber(s[6] or 0) >= 600000000 or now < tonumber(s[6] or 0) then
    redis.call('HSET', KEYS[1], 'p', text(now))
    redis.call('PEXPIRE', KEYS[1], KEEP)
  end
end
local function mint() fence = math.max(fence + 1, now) end
if owner and ends <= now then
  owner = false
end

if not known then
  redis.call('DEL', KEYS[2]) -- somebody deleted the state: whoever holds has lost it
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now))
local count, least = redis.call('ZCARD', KEYS[2]), 1000000
local lm = redis.call('HMGET', KEYS[1], 'l', 'm')
if count > 0 then
  least = tonumber(lm[1] or least)
  if lm[2] then
    least = 1000000
    for _, h in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
      least = math.min(least, tonumber(string.match(h, '^%d+')))
    end
  end
elseif s[4] then
  redis.call('HDEL', KEYS[1], 'c', 'l', 'm')
  lm = {}
end
local holders = count
if owner then
  holders, least = holders + 1, 1
end

-- The head of those who wait and live.
local function first()
  for _ = 1, 1000 do
    local head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not head then
      redis.call('HDEL', KEYS[1], 'q')
      return nil
    end
    local w = redis.call('HGET', KEYS[4], head)
    local e, channel = string.match(w or '', '^(%d+) (.*)$')
    if head == token or e and tonumber(e) > now then
      return head, channel
    end
    redis.call('ZREM', KEYS[3], head)
    redis.call('HDEL', KEYS[4], head)
  end
  return '' -- many have died: the next look clears on
end
local head, channel = first()
local mine = limit .. ':' .. token
local again = owner == token or redis.call('ZSCORE', KEYS[2], mine)

if again or holders < limit and holders < least and (not head or head == token) then
  if limit == 1 then
    if not again then
      mint()
    end
    redis.call('HSET', KEYS[1], 'f', text(fence), 'o', token, 'x', text(now + ttl))
  else
    mint()
    redis.call('ZADD', KEYS[2], text(now + ttl), mine)
    redis.call('PEXPIRE', KEYS[2], KEEP)
    redis.call('HSET', KEYS[1], 'f', text(fence), 'c', 1, 'l', math.min(limit, least))
    if count > 0 and tonumber(lm[1] or limit) ~= limit then
      redis.call('HSET', KEYS[1], 'm', 1)
    end
    if owner == false and s[2] then
      redis.call('HDEL', KEYS[1], 'o', 'x')
    end
  end
  keep()
  if head == token then
    redis.call('ZREM', KEYS[3], token)
    redis.call('HDEL', KEYS[4], token)
    local nextOne, nextChannel = first()
    if nextOne and nextChannel and limit > 1 then -- who comes next may fit beside
      redis.call('PUBLISH', nextChannel, nextOne)
    end
  end
  return fence
end

if not wait then
  return 0
end
if not known then
  redis.call('HSET', KEYS[1], 'f', text(now))
end
if not redis.call('ZSCORE', KEYS[3], token) then
  local last = tonumber(redis.call('HGET', KEYS[1], 't') or 0)
  local ticket = math.max(last + 1, now)
  redis.call('ZADD', KEYS[3], text(ticket), token)
  redis.call('HSET', KEYS[1], 't', text(ticket))
end
redis.call('HSET', KEYS[4], token, text(now + lives) .. ' ' .. ARGV[5])
redis.call('HSET', KEYS[1], 'q', 1)
redis.call('PEXPIRE', KEYS[3], KEEP)
redis.call('PEXPIRE', KEYS[4], KEEP)
keep()
if head and head ~= token and holders == 0 then
  if channel then
    redis.call('PUBLISH', channel, head) -- it may have missed its call
  end
  return -lives
end
local free = owner and ends or 0
local early = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if early and (free == 0 or tonumber(early) < free) then
  free = tonumber(early)
end
local left = math.max(free - now, 0)
if head and head ~= token then
  return -(math.max(left, 250000) + 10000) -- who stands behind comes to be the head without being told; he need not be quick
end
return -(left + 1000)
