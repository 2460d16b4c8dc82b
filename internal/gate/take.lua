-- Decides on attempts in their order, in one atomic step: the key under way, the buyer's limit, the stock; and what was taken is written
-- into the log of pending takings in the same step.
--
-- KEYS  head, buyers, pending
-- ARGV  node; room (takings that the node's line still has place for); limit per buyer (0: that of the load);
--       then five for each attempt: id, buyer, quantity, hash of the idempotency key, 1 if SQL was asked for the key, else 0
-- Ids are opaque strings: a Lua number would round them.
--
-- head     remaining, unsettled, applied, limit, epoch
-- buyers   buyer -> units held, "!" if SQL has a row of his, and the ids of his pending takings after a space each
-- pending  id -> "buyer quantity key time checked node", the time in ms by this server's clock
--
-- Returns "cold", or the epoch and one digit for each attempt: see Verdict in gate.go.
local TAKEN, SOLD_OUT, KNOWN, OVER_LIMIT, RUNNING, FULL = '0', '1', '2', '3', '4', '6'

local room, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local count = (#ARGV - 3) / 5
if not ARGV[1] or #ARGV[1] < 1 or #ARGV[1] > 64 or not room or not limit or count < 1 or count > 512 or count % 1 ~= 0 then
	return redis.error_reply('ERR take: node, room, limit and five arguments for each of 1 to 512 attempts are needed')
end
local who = {}
for i = 4, #ARGV, 5 do
	local quantity = tonumber(ARGV[i + 2])
	if #ARGV[i] < 1 or #ARGV[i + 1] < 1 or #ARGV[i + 3] < 1 or not quantity or quantity < 1 or quantity > 1048576 or quantity % 1 ~= 0 then
		return redis.error_reply('ERR take: an attempt needs an id, a buyer, a quantity of 1 to 2^20 and a key')
	end
	who[#who + 1] = ARGV[i + 1]
end

local head = redis.call('HMGET', KEYS[1], 'remaining', 'unsettled', 'limit', 'epoch')
if not head[1] then
	return 'cold'
end
local remaining, unsettled = tonumber(head[1]), tonumber(head[2])
if limit < 1 then
	limit = tonumber(head[3])
end

local found = redis.call('HMGET', KEYS[2], unpack(who))
local records = {} -- of buyers, as they are after the attempts so far
for n = 1, count do
	records[who[n]] = found[n]
end

local took, order, now = {}, {}, nil -- pending takings that are new, by id
local verdicts = {}
for n = 1, count do
	local i = 5 * n - 1
	local id, buyer, quantity, key = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
	local record, held, verdict = records[buyer], 0, nil
	if record then
		held = tonumber(string.match(record, '^%-?%d+'))
		for other in string.gmatch(record, ' (%S+)') do
			if other == id then
				verdict = TAKEN -- this very attempt, again
				break
			end
			local log = took[other] or redis.call('HGET', KEYS[3], other)
			if log and string.match(log, '^%S+ %S+ (%S+)') == key then
				verdict = RUNNING
				break
			end
		end
		if not verdict and ARGV[i + 4] ~= '1' then
			verdict = KNOWN
		end
	end
	if verdict then -- decided
	elseif held + quantity > limit then
		verdict = OVER_LIMIT
	elseif remaining < quantity then
		verdict = SOLD_OUT
	elseif room < 1 then
		verdict = FULL
	else
		verdict = TAKEN
		if not now then
			local t = redis.call('TIME')
			now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
		end
		room, remaining, unsettled = room - 1, remaining - quantity, unsettled + quantity
		if record then
			records[buyer] = string.format('%d', held + quantity) .. string.match(record, '^%-?%d+(.*)') .. ' ' .. id
		else
			records[buyer] = ARGV[i + 2] .. ' ' .. id
		end
		took[id] = table.concat({buyer, ARGV[i + 2], key, now, ARGV[i + 4], ARGV[1]}, ' ')
		order[#order + 1] = n
	end
	verdicts[n] = verdict
end

if #order > 0 then
	local buyers, pending = {}, {}
	for k, n in ipairs(order) do
		local i = 5 * n - 1
		buyers[2 * k - 1], buyers[2 * k] = ARGV[i + 1], records[ARGV[i + 1]]
		pending[2 * k - 1], pending[2 * k] = ARGV[i], took[ARGV[i]]
	end
	redis.call('HSET', KEYS[3], unpack(pending))
	redis.call('HSET', KEYS[2], unpack(buyers))
	redis.call('HSET', KEYS[1], 'remaining', string.format('%.0f', remaining), 'unsettled', string.format('%.0f', unsettled))
end
return head[4] .. ' ' .. table.concat(verdicts)
