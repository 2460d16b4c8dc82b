-- Tells a node where the house's log stands. When there is none, when the server has begun a new life (a restart or a fail-over may have
-- lost the end of the log), or when the node asks for it, the log begins anew with another epoch.
--
-- KEYS  meta, log (see publish.lua)
-- ARGV  the epoch to begin with, and 1 to begin anew in any case
-- Returns {epoch, offset of the last frame, offset of the first one kept}
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not run or #ARGV[1] ~= 16 then
  return redis.error_reply('ARGUMENT an epoch or the run_id is missing')
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'offset')
local epoch, offset = meta[1], tonumber(meta[3] or '0')
if not epoch or meta[2] ~= run or ARGV[2] == '1' then
  epoch, offset = ARGV[1], offset + 1
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'offset', string.format('%.0f', offset), 'bytes', '0')
  redis.call('XADD', KEYS[2], string.format('%.0f-0', offset), 'e', epoch)
end
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
local from = offset + 1
if first[1] then
  from = tonumber(string.match(first[1][1], '^(%d+)'))
end
return {epoch, offset, from}
