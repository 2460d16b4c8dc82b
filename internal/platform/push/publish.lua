-- Appends frames to the house's log, as one step.
--
-- KEYS  meta (hash: epoch, run, offset, bytes), log (stream of frames, ids OFFSET-0 without gaps), sent (the last number of this node)
-- ARGV  epoch, node, number of the first frame, most frames and most bytes of the log, then topic, kind and data of each frame
-- Returns the offset of the last frame, or -1 when the epoch is another. A frame whose number this node has sent already is left out,
-- so that a batch may be sent again when its answer was lost.
local epoch, node, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
if not (number and most and most_bytes) or (#ARGV - 5) % 3 ~= 0 then
  return redis.error_reply('ARGUMENT a number or a part of a frame is missing')
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'bytes')
if meta[1] ~= epoch then
  return -1
end
local offset, bytes = tonumber(meta[2]), tonumber(meta[3])
local done = tonumber(redis.call('GET', KEYS[3]) or '0')
local added = 0
for i = 6, #ARGV, 3 do
  if number > done then
    offset = offset + 1
    redis.call('XADD', KEYS[2], string.format('%.0f-0', offset), 't', ARGV[i], 'k', ARGV[i + 1], 'd', ARGV[i + 2],
      'n', node, 'i', string.format('%.0f', number))
    bytes = bytes + #ARGV[i] + #ARGV[i + 1] + #ARGV[i + 2] + 64
    added = added + 1
  end
  number = number + 1
end
-- The oldest go, not many more than came, so that no call takes long.
local length, left = redis.call('XLEN', KEYS[2]), 2 * added + 16
while left > 0 and length > 1 and (length > most or bytes > most_bytes) do
  local old = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', math.min(left, 16))
  local keep
  for _, entry in ipairs(old) do
    if length <= 1 or length <= most and bytes <= most_bytes then
      keep = entry[1]
      break
    end
    local f = entry[2]
    if f[1] == 't' then
      bytes = bytes - (#f[2] + #f[4] + #f[6] + 64)
    end
    length, left = length - 1, left - 1
  end
  if not keep then
    local id = old[#old][1]
    keep = string.format('%.0f-0', tonumber(string.match(id, '^(%d+)')) + 1)
  end
  redis.call('XTRIM', KEYS[2], 'MINID', keep)
end
redis.call('HSET', KEYS[1], 'offset', string.format('%.0f', offset), 'bytes', string.format('%.0f', bytes))
redis.call('SET', KEYS[3], string.format('%.0f', number - 1), 'EX', 600)
return offset
