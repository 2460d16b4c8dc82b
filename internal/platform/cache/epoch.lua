-- Returns the epoch of what this server keeps and its age in ms. A server that knows none (it is new, was emptied or promoted
-- and so has another key) begins one.
-- KEYS: epoch. ARGV: a new epoch's name, '1' to begin one in any case.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local stored = redis.call('GET', KEYS[1])
if not stored or ARGV[2] == '1' then
	stored = ARGV[1] .. ' ' .. string.format('%.0f', now)
end
redis.call('SET', KEYS[1], stored, 'EX', 2592000)
local name, born = string.match(stored, '^(%S+) (%d+)$')
return {name, now - tonumber(born)}
