-- Charges one to each of the keys if all of their rates allow it, as one step.
--
-- KEYS     one key for each limit, no key twice. Its value is {last, lost, …}: the clock's last reading, what the clock was stepped back
--          since the key began, and then for an exact rate the times of the charges that count, oldest first; for a bucket -every and the
--          time at which it is full again (GCRA). A value of the other kind, or of another every, is what a changed rate left: it is
--          turned into what the rate of now would keep.
-- ARGV[1]  now in microseconds, 0 for this server's clock, by which keys end
-- ARGV     then for each key six: exact (1) or bucket (0), count, per, every, most, and its part: a guard (1) keeps a charge that its own
--          rate allows when nobody refuses but those that are guarded (2). Times are microseconds.
-- Returns  for each key four: allowed by its own rate, remaining, reset, retry after
local now = tonumber(ARGV[1])
if not now or #ARGV ~= 1 + 6 * #KEYS then
  return redis.error_reply('ARGUMENT a number is missing')
end
local grace = 0
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  grace = 3600000 -- the server ends keys by its own clock, and the given one may stand still
end
local states, all, guard = {}, true, true
for k = 1, #KEYS do
  local a = 6 * k - 4
  local exact, count, per = ARGV[a] == '1', tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local every, most = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  if not (count and per and every and most) then
    return redis.error_reply('ARGUMENT a number is missing')
  end
  local kept = redis.call('GET', KEYS[k])
  local state = kept and cmsgpack.unpack(kept) or {now, 0}
  -- A clock that was stepped back goes on from its last reading.
  local lost = state[2]
  if now < state[1] then
    lost = lost + state[1] - now
  end
  local t, new, allowed = now + lost, {now, lost}, false
  local bucket = state[3] and state[3] < 0
  if exact then
    if bucket then
      for i = 1, math.min(count, math.ceil((state[4] - t) / -state[3])) do
        new[i + 2] = t
      end
    else
      for i = 3, #state do
        if state[i] + per > t then
          new[#new + 1] = state[i]
        end
      end
    end
    allowed = #new - 2 < count
  else
    local full = t
    if not bucket then
      for i = 3, #state do
        full = (i == 3 and state[i] or math.max(full, state[i])) + every
      end
      full = math.max(full, t)
    elseif state[4] > t then
      full = -state[3] == every and state[4] or t + math.ceil((state[4] - t) / -state[3]) * every
    end
    full = math.min(full, t + most * every)
    new[3], new[4] = -every, full
    allowed = full + every - t <= most * every
  end
  all = all and allowed
  guard = guard and (allowed or ARGV[a + 5] == '2')
  states[k] = {new, t, allowed, kept}
end

local reply = {}
for k = 1, #KEYS do
  local a = 6 * k - 4
  local exact, count, per = ARGV[a] == '1', tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local every, most = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local s = states[k]
  local new, t, allowed = s[1], s[2], s[3]
  local charge = allowed and (all or guard and ARGV[a + 5] == '1')
  local left, reset, retry, until_ = 0, 0, 0, t
  if exact then
    local n = #new - 2
    if charge then
      n = n + 1
      new[n + 2] = t
    end
    if n > 0 then
      until_ = new[n + 2] + per
    end
    if allowed then
      left = count - n
    else
      retry = new[n - count + 3] + per - t
    end
  else
    if charge then
      new[4] = new[4] + every
    end
    until_ = new[4]
    if allowed then
      left = math.floor((most * every - (until_ - t)) / every)
    else
      retry = until_ + every - t - most * every
    end
  end
  reset = until_ - t
  if until_ > t then
    redis.call('SET', KEYS[k], cmsgpack.pack(new), 'PX', math.max(1, math.ceil(reset / 1000)) + grace)
  elseif s[4] then
    redis.call('DEL', KEYS[k])
  end
  local r = 4 * k
  reply[r - 3], reply[r - 2], reply[r - 1], reply[r] = allowed and 1 or 0, left, reset, retry
end
return reply
