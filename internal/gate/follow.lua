-- Follows what SQL decided: committed movements (each once by its number, in any order), takings that took nothing, and takings that were
-- overdue. One atomic step; nothing is written before everything was read and checked.
--
-- KEYS  head, buyers, pending, early (the movements that came before their turn)
-- ARGV  how many movements; for each: seq, free, how many won, how many changes; id, buyer, quantity of each that won; buyer, units of each change
--       how many lost; for each: id, 1 if SQL has a row of its buyer, else 0
--       how many resolved as won; for each: id, buyer, quantity, seq
--
-- Returns "cold", "early" (a movement is too far ahead; nothing was done), or how many units came back.
local EARLY = 65536

local at = 0
local function text()
	at = at + 1
	if not ARGV[at] or #ARGV[at] < 1 then
		error({err = 'ERR follow: argument ' .. at .. ' is missing'})
	end
	return ARGV[at]
end
local function number(least)
	local n = tonumber(text())
	if not n or n % 1 ~= 0 or n < least or n > 9007199254740991 then
		error({err = 'ERR follow: argument ' .. at .. ' is not a number in its range'})
	end
	return n
end

-- read checks the arguments and puts them into tables. Every id and buyer is noted once.
local ids, buyers, noted = {}, {}, {}
local function note(list, name, kind)
	if not noted[kind .. name] then
		noted[kind .. name] = true
		list[#list + 1] = name
	end
	return name
end
local movements, lost, resolved = {}, {}, {}
local function read()
	for m = 1, number(0) do
		local move = {seq = number(1), free = number(-9007199254740991), won = {}, changes = {}}
		local won, changes = number(0), number(0)
		for i = 1, won do
			move.won[i] = {id = note(ids, text(), 'i'), buyer = note(buyers, text(), 'b'), quantity = number(1)}
		end
		for i = 1, changes do
			move.changes[i] = {buyer = note(buyers, text(), 'b'), units = number(-1048576)}
		end
		movements[m] = move
	end
	for i = 1, number(0) do
		lost[i] = {id = note(ids, text(), 'i'), keep = text() == '1'}
	end
	for i = 1, number(0) do
		resolved[i] = {id = note(ids, text(), 'i'), buyer = note(buyers, text(), 'b'), quantity = number(1), seq = number(0)}
	end
	if at ~= #ARGV then
		error({err = 'ERR follow: ' .. #ARGV .. ' arguments, ' .. at .. ' were expected'})
	end
end
local ok, problem = pcall(read)
if not ok then
	return redis.error_reply(type(problem) == 'table' and problem.err or tostring(problem))
end

local head = redis.call('HMGET', KEYS[1], 'remaining', 'unsettled', 'applied', 'epoch')
if not head[1] then
	return 'cold'
end
local remaining, unsettled, applied, epoch = tonumber(head[1]), tonumber(head[2]), tonumber(head[3]), tonumber(head[4])
for _, m in ipairs(movements) do
	if m.seq > applied + EARLY then
		return 'early'
	end
end

local PIECE = 1000 -- unpack has a bound
local function fields(key, names, into)
	for first = 1, #names, PIECE do
		local last = math.min(first + PIECE - 1, #names)
		local values = redis.call('HMGET', key, unpack(names, first, last))
		for i = first, last do
			into[names[i]] = values[i - first + 1]
		end
	end
end

local pending = {} -- by id; false where there is none
local logs = {}
fields(KEYS[3], ids, logs)
for _, id in ipairs(ids) do
	pending[id] = false
	if logs[id] then
		local buyer, quantity = string.match(logs[id], '^(%S+) (%d+) ')
		pending[id] = {buyer = note(buyers, buyer, 'b'), quantity = tonumber(quantity)}
	end
end
local records, held = {}, {}
fields(KEYS[2], buyers, records)

local changed, ended, freed = {}, {}, 0
local function of(buyer)
	local h = held[buyer]
	if not h then
		h = {units = 0, kept = '', tail = ''}
		if records[buyer] then
			local units
			units, h.kept, h.tail = string.match(records[buyer], '^(%-?%d+)(!?)(.*)')
			h.units = tonumber(units)
		end
		held[buyer] = h
	end
	changed[buyer] = h
	return h
end

-- stop takes a taking out of the pending ones.
local function stop(id, p)
	pending[id] = false
	ended[#ended + 1] = id
	unsettled = unsettled - p.quantity
	local h, tail = of(p.buyer), {}
	for other in string.gmatch(h.tail, ' (%S+)') do
		if other ~= id then
			tail[#tail + 1] = ' ' .. other
		end
	end
	h.tail = table.concat(tail)
	return h
end
local function give_back(id, p, keep)
	local h = stop(id, p)
	remaining = remaining + p.quantity
	freed = freed + p.quantity
	h.units = h.units - p.quantity
	if keep then
		h.kept = '!'
	end
end
local function win(w, fresh)
	local p = pending[w.id]
	if p and fresh then
		-- What it took stays taken; had it taken another quantity than SQL gave, the difference moves.
		local h, d = stop(w.id, p), w.quantity - p.quantity
		remaining = remaining - d
		h.units, h.kept = h.units + d, '!'
		freed = freed + math.max(-d, 0)
	elseif p then
		-- The books that were loaded hold it already: pending, it counts twice.
		give_back(w.id, p, true)
	elseif fresh then
		-- Its taking was lost, or given up as overdue, or there was none: the units go now, below zero if need be.
		local h = of(w.buyer)
		remaining = remaining - w.quantity
		h.units, h.kept = h.units + w.quantity, '!'
	end
end

local early, arrived, removed = {}, {}, {}
local function has(seq)
	if seq <= applied then
		return true
	end
	if early[seq] == nil then
		early[seq] = redis.call('ZSCORE', KEYS[4], string.format('%.0f', seq)) ~= false
	end
	return early[seq]
end
for _, m in ipairs(movements) do
	local fresh = not has(m.seq)
	for _, w in ipairs(m.won) do
		win(w, fresh)
	end
	if fresh then
		remaining = remaining + m.free
		freed = freed + math.max(m.free, 0)
		for _, c in ipairs(m.changes) do
			local h = of(c.buyer)
			h.units, h.kept = h.units + c.units, '!' -- who gave all back stays known, because his keys still count
		end
		early[m.seq] = true
		arrived[#arrived + 1] = m.seq
		while has(applied + 1) do
			applied = applied + 1
		end
	end
end
for _, l in ipairs(lost) do
	local p = pending[l.id]
	if p then
		give_back(l.id, p, l.keep)
	end
end
for _, w in ipairs(resolved) do
	if w.seq > 0 and has(w.seq) then
		win(w, false)
	end
end
if freed > 0 then
	-- By the clock, so that an epoch that a fail-over lost is overtaken by the next one.
	local t = redis.call('TIME')
	epoch = math.max(epoch + 1, t[1] * 1000000 + t[2])
end

-- From here on it is written.
for first = 1, #ended, PIECE do
	redis.call('HDEL', KEYS[3], unpack(ended, first, math.min(first + PIECE - 1, #ended)))
end
local set, drop = {}, {}
for buyer, h in pairs(changed) do
	if h.units == 0 and h.kept == '' and h.tail == '' then
		drop[#drop + 1] = buyer -- he never held anything
	else
		set[#set + 1] = buyer
		set[#set + 1] = string.format('%.0f', h.units) .. h.kept .. h.tail
	end
end
for first = 1, #set, 2 * PIECE do
	redis.call('HSET', KEYS[2], unpack(set, first, math.min(first + 2 * PIECE - 1, #set)))
end
for first = 1, #drop, PIECE do
	redis.call('HDEL', KEYS[2], unpack(drop, first, math.min(first + PIECE - 1, #drop)))
end
for _, seq in ipairs(arrived) do
	if seq > applied then
		redis.call('ZADD', KEYS[4], string.format('%.0f', seq), string.format('%.0f', seq))
	end
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('%.0f', applied))
redis.call('HSET', KEYS[1], 'remaining', string.format('%.0f', remaining), 'unsettled', string.format('%.0f', unsettled),
	'applied', string.format('%.0f', applied), 'epoch', string.format('%.0f', epoch))
return freed
