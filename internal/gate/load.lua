-- Loads SQL's books. The holdings come in pieces into a table of their own; the last step puts it, stock and movements into place at once,
-- and keeps the takings that are pending. Who loads holds a lock with his token; whoever lost it can write nothing.
--
-- KEYS  lock, table that is filled; for the last step also: head, buyers, pending, early
-- ARGV  token, how many ms lock and table live without another step; then
--       "fill", and buyer, units of each; or
--       "switch", how many buyers the table must have, seq, remaining, limit per buyer; and the place and units of each bucket that some
--       of these units are on their way to; or
--       "shape", how many buckets the gate has from now on; its keys: lock, shape, and those of a gate of one bucket, which go
--
-- Returns "lost" where the lock or the table is gone, else "ok".
local token, life, step = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local function whole(text, least)
	local n = tonumber(text or '')
	return n and n % 1 == 0 and n >= least and n <= 9007199254740991 and n
end
if not token or #token < 16 or not whole(ARGV[2], 1) then
	return redis.error_reply('ERR load: a token and a time are needed')
end
if redis.call('GET', KEYS[1]) ~= token then
	return 'lost'
end

if step == 'fill' then
	if #ARGV < 5 or #ARGV > 4003 or #ARGV % 2 ~= 1 then
		return redis.error_reply('ERR load: 1 to 2000 pairs of buyer and units are needed')
	end
	for i = 4, #ARGV, 2 do
		if #ARGV[i] < 1 or not whole(ARGV[i + 1], 0) then
			return redis.error_reply('ERR load: a buyer or his units cannot be read')
		end
	end
	for i = 5, #ARGV, 2 do
		ARGV[i] = ARGV[i] .. '!'
	end
	redis.call('HSET', KEYS[2], unpack(ARGV, 4))
	redis.call('PEXPIRE', KEYS[2], life)
	redis.call('PEXPIRE', KEYS[1], life)
	return 'ok'
end

if step == 'shape' then
	local buckets = whole(ARGV[4], 1)
	if #ARGV ~= 4 or #KEYS ~= 6 or not buckets or buckets > 99 then
		return redis.error_reply('ERR load: the step "shape" has the number of buckets')
	end
	redis.call('UNLINK', KEYS[2], unpack(KEYS, 3))
	if buckets > 1 then
		redis.call('SET', KEYS[2], ARGV[4])
	end
	redis.call('PEXPIRE', KEYS[1], life)
	return 'ok'
end

local count, seq, remaining, limit = whole(ARGV[4], 0), whole(ARGV[5], 0), whole(ARGV[6], 0), whole(ARGV[7], 1)
if step ~= 'switch' or #ARGV < 7 or #ARGV % 2 ~= 1 or #KEYS ~= 6 or not (count and seq and remaining and limit) then
	return redis.error_reply('ERR load: the step is "fill", or "switch" with count, seq, remaining and limit')
end
local sent = {}
for i = 8, #ARGV, 2 do
	local units = whole(ARGV[i + 1], 1)
	if not units or not string.match(ARGV[i], '^%d%d?$') then
		return redis.error_reply('ERR load: a place or the units for it cannot be read')
	end
	remaining = remaining - units
	sent[#sent + 1], sent[#sent + 2] = 'out' .. ARGV[i], ARGV[i + 1]
end
if redis.call('HLEN', KEYS[2]) ~= count then
	return 'lost'
end
local HEAD, BUYERS, PENDING, EARLY = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local logs = redis.call('HGETALL', PENDING)
local epoch = tonumber(redis.call('HGET', HEAD, 'epoch') or '0')

-- What is taken and not yet settled is in no row yet: it stays held.
local unsettled, more, tails = 0, {}, {}
for i = 1, #logs, 2 do
	local buyer, quantity = string.match(logs[i + 1], '^(%S+) (%d+)')
	unsettled = unsettled + tonumber(quantity)
	more[buyer] = (more[buyer] or 0) + tonumber(quantity)
	tails[buyer] = (tails[buyer] or '') .. ' ' .. logs[i]
end
local t = redis.call('TIME')
epoch = math.max(epoch + 1, t[1] * 1000000 + t[2])

redis.call('PERSIST', PENDING)
redis.call('PERSIST', KEYS[2])
for buyer, units in pairs(more) do
	local before, kept = string.match(redis.call('HGET', KEYS[2], buyer) or '0', '^(%-?%d+)(!?)')
	redis.call('HSET', KEYS[2], buyer, string.format('%.0f', tonumber(before) + units) .. kept .. tails[buyer])
end
redis.call('UNLINK', BUYERS, HEAD, EARLY)
if redis.call('EXISTS', KEYS[2]) == 1 then
	redis.call('RENAME', KEYS[2], BUYERS)
end
redis.call('HSET', HEAD, 'remaining', string.format('%.0f', remaining - unsettled), 'unsettled', string.format('%.0f', unsettled),
	'applied', string.format('%.0f', seq), 'limit', string.format('%.0f', limit), 'epoch', string.format('%.0f', epoch), 'generation', token, unpack(sent))
redis.call('DEL', KEYS[1])
return 'ok'
