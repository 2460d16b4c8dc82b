-- Takes a key's newest charge back, if there is one that counts.
--
-- KEYS and ARGV are those of take.lua with one key. Returns 1 when something was taken back. What a changed rate left in the other kind is
-- taken back in that kind: the next charge turns it.
local now, per = tonumber(ARGV[1]), tonumber(ARGV[4])
if not (now and per) then
  return redis.error_reply('ARGUMENT a number is missing')
end
local grace = 0
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  grace = 3600000
end
local kept = redis.call('GET', KEYS[1])
if not kept then
  return 0
end
local state = cmsgpack.unpack(kept)
local lost = state[2]
if now < state[1] then
  lost = lost + state[1] - now
end
local t = now + lost
local new, until_ = {now, lost}, t

if state[3] and state[3] < 0 then
  new[3], new[4] = state[3], state[4] + state[3]
  until_ = new[4]
else
  for i = 3, #state do
    if ARGV[2] ~= '1' or state[i] + per > t then
      new[#new + 1] = state[i]
    end
  end
  if #new > 2 then
    new[#new] = nil
  end
  if #new > 2 then
    until_ = new[#new] + per
  end
end
if until_ <= t then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], cmsgpack.pack(new), 'PX', math.max(1, math.ceil((until_ - t) / 1000)) + grace)
end
return 1
