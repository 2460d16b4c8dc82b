-- Stores what a load returned, unless something newer is there or the load began too long ago to be fenced.
-- KEYS: value, lease. ARGV: version (19 digits), the whole value, its lifetime in ms, the time at which the load began (ms of this
-- server), how old a load may be (ms), the lease's owner.
-- Returns 1 when stored, 0 when refused.
if #ARGV ~= 6 or #ARGV[1] ~= 19 or string.sub(ARGV[2], 1, 19) ~= ARGV[1] then
	return redis.error_reply('ERR fill: wrong arguments')
end
if redis.call('GET', KEYS[2]) == ARGV[6] then
	redis.call('DEL', KEYS[2])
end
local t = redis.call('TIME')
if tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) - tonumber(ARGV[4]) > tonumber(ARGV[5]) then
	return 0
end
local life = tonumber(ARGV[3])
local stored = redis.call('GETRANGE', KEYS[1], 0, 18)
if not string.match(stored, '^'..string.rep('%d', 19)..'$') then
	stored = '' -- nothing, or what nobody here has written
end
if stored ~= '' then
	-- Digits of one length are ordered as their numbers are; a Lua number would lose the last digits of a large version.
	if stored > ARGV[1] then
		return 0
	end
	-- What takes the place of a tombstone is the fence from now on, and must not end before it.
	life = math.max(life, redis.call('PTTL', KEYS[1]))
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', life)
return 1
