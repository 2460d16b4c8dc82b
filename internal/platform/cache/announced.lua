-- Reads what was announced since.
-- KEYS: list, count, epoch. ARGV: the count that the caller knows, the epoch's name.
-- Returns '' when the server is in another epoch; else the count, and the keys since, or 0 when they are not all there any more. Counts have sixteen digits, which a Lua number holds.
if string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) ') ~= ARGV[2] then
	return {'', 0}
end
local total = redis.call('GET', KEYS[2])
if not total then
	local t = redis.call('TIME')
	total = t[1] .. string.format('%06d', tonumber(t[2]))
	redis.call('SET', KEYS[2], total, 'EX', 2592000)
	redis.call('DEL', KEYS[1])
end
local missed = tonumber(total) - tonumber(ARGV[1])
if missed < 0 or missed > redis.call('LLEN', KEYS[1]) then
	return {total, 0}
end
if missed == 0 then
	return {total, {}}
end
return {total, redis.call('LRANGE', KEYS[1], -missed, -1)}
