-- Reads a value and the time of the server that keeps it: in a cluster each has its own.
-- KEYS: value. Returns the value or '', and the time in ms.
local t = redis.call('TIME')
return {redis.call('GET', KEYS[1]) or '', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)}
