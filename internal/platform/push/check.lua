-- Tells whether the log is still the one that a node follows: of this epoch, in this life of the server, and no shorter than the node knows.
--
-- KEYS  meta (see publish.lua)
-- ARGV  epoch, offset
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'offset')
if meta[1] == ARGV[1] and meta[2] == run and tonumber(meta[3] or '-1') >= tonumber(ARGV[2]) then
  return 1
end
return 0
