-- One half of a move of free units between two buckets of a sale. What a bucket sent to another and what it got from it are sums that only
-- rise, so each half may be lost, repeated or come late: what counts is the highest sum that was told.
--
-- KEYS  head
-- ARGV  generation (of the load: units are moved within one), the other bucket's place; then
--       "send", most     as many free units as there are, up to most, are on their way to it
--       "receive", sum   it sent so many in all: what is new of them is free here
--       "owe", sum       it got so many in all: what this bucket does not know to have sent goes now, below zero if need be
--
-- Returns "cold", "other" (another load's), or the sum that this bucket knows after it and what is free here.
local generation, place, step, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4] or '')
if not generation or #generation < 16 or not string.match(place or '', '^%d%d?$') or not number or number % 1 ~= 0 or number < 1 or number > 9007199254740991
	or not (step == 'send' or step == 'receive' or step == 'owe') then
	return redis.error_reply('ERR move: a generation, a place, "send", "receive" or "owe", and a number are needed')
end
local field = (step == 'receive' and 'in' or 'out') .. place
local head = redis.call('HMGET', KEYS[1], 'remaining', 'generation', field)
if not head[1] then
	return 'cold'
end
if head[2] ~= generation then
	return 'other'
end
local remaining, known = tonumber(head[1]), tonumber(head[3] or '0')
local sum = math.max(known, number)
if step == 'send' then
	sum = known + math.max(math.min(number, remaining), 0)
end
if sum > known then
	if step == 'receive' then
		remaining = remaining + (sum - known)
	else
		remaining = remaining - (sum - known)
	end
	redis.call('HSET', KEYS[1], 'remaining', string.format('%.0f', remaining), field, string.format('%.0f', sum))
end
return string.format('%.0f %.0f', sum, remaining)
