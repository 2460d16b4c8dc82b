-- Notes keys that are about to be made, for the filters of all nodes.
-- KEYS: list, count, epoch. ARGV: how many are kept, the epoch's name, the keys.
-- Returns 1, or 0 when the server is in another epoch: it was emptied.
-- The count goes on from the time in microseconds, so that one that was lost never comes back to where it was.
if #ARGV < 3 then
	return redis.error_reply('ERR announce: wrong arguments')
end
if string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) ') ~= ARGV[2] then
	return 0
end
local total = redis.call('GET', KEYS[2])
if not total then
	local t = redis.call('TIME')
	total = t[1] .. string.format('%06d', tonumber(t[2]))
	redis.call('SET', KEYS[2], total)
	redis.call('DEL', KEYS[1])
end
for i = 3, #ARGV do
	redis.call('RPUSH', KEYS[1], ARGV[i])
end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[1]), -1)
redis.call('EXPIRE', KEYS[1], 2592000)
redis.call('INCRBY', KEYS[2], #ARGV - 2)
redis.call('EXPIRE', KEYS[2], 2592000)
return 1
