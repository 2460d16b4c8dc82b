-- Reads a value and, when there is none to be used, gives one caller of all processes the lease to load it.
-- KEYS: value, lease. ARGV: owner, length of the lease in ms, '1' to ask for it although there is a value.
-- Returns the value or '', 1 when the caller has the lease, and the time in ms.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local value = redis.call('GET', KEYS[1]) or ''
if ARGV[3] ~= '1' and value ~= '' and string.sub(value, 20, 20) ~= 'T' then
	return {value, 0, now}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', tonumber(ARGV[2])) then
	return {value, 1, now}
end
return {value, 0, now}
