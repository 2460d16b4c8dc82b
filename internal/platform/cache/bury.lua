-- Puts a tombstone where nothing of its version or a later one is, and tells all nodes.
-- KEYS: value. ARGV: version (19 digits), the whole tombstone, its lifetime in ms, channel, message.
-- Returns 1 when put, 0 when what is there is as new.
if #ARGV ~= 5 or #ARGV[1] ~= 19 or string.sub(ARGV[2], 1, 19) ~= ARGV[1] then
	return redis.error_reply('ERR bury: wrong arguments')
end
local done = 0
local stored = redis.call('GETRANGE', KEYS[1], 0, 18)
if not string.match(stored, '^'..string.rep('%d', 19)..'$') then
	stored = '' -- nothing, or what nobody here has written
end
if stored == '' or stored < ARGV[1] then
	redis.call('SET', KEYS[1], ARGV[2], 'PX', tonumber(ARGV[3]))
	done = 1
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return done
