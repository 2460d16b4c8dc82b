-- Worker numbers of one space in one hash. A field per number, w0 and so on: "owner horizon turn node", owner "-" when it was given back.
-- "layout" is the space's, in words. "run" is the server process that wrote here last, and "rest" a tick below which no new life may begin
-- and no life may go on: set when the process changed, because what the one before had promised may be lost (no log, an old log, a
-- replica that was behind). It lies above all that can ever have been promised: no horizon is further than "most" ahead of a server's clock.
--
-- ARGV: what; layout, epoch and unit (milliseconds), most and margin (milliseconds), now (Unix milliseconds; '' for the server's clock);
-- then by what
--   take: number, turn as read, owner as read, new owner, node     raise: number, owner, horizon     free: number, owner, first     rows
-- Returns {"layout", has} for another layout; rows: {"rows", all}; take: {"won", floor} or {"lost"}; {"mute"} where the server
-- does not say which process it is; raise: {"ok", horizon, rest} or
-- {"stolen"}; free: {"ok"} or {"stolen"}.
local key, what = KEYS[1], ARGV[1]
local has = redis.call('HGET', key, 'layout')
if has and has ~= ARGV[2] then return {'layout', has} end
if what == 'rows' then return {'rows', redis.call('HGETALL', key)} end

local t = redis.call('TIME')
local unit = tonumber(ARGV[4])
local ms = (tonumber(ARGV[7]) or t[1] * 1000 + math.floor(t[2] / 1000)) - tonumber(ARGV[3])
local function tick(at) return math.floor(at / unit) end
local most = tick(ms + tonumber(ARGV[5]))
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not run then return {'mute'} end
local field = 'w' .. ARGV[8]
local row = redis.call('HGET', key, field)
local rest = tonumber(redis.call('HGET', key, 'rest') or '0')
if redis.call('HGET', key, 'run') ~= run or what == 'raise' and not row then
  rest = math.max(rest, tick(ms + tonumber(ARGV[5]) + tonumber(ARGV[6])) + 1)
  redis.call('HSET', key, 'layout', ARGV[2], 'run', run, 'rest', string.format('%.0f', rest))
end

local owner, horizon, turn, node
if row then
  owner, horizon, turn, node = string.match(row, '^(%S+) (%d+) (%d+) (.*)$')
  if not owner then return {'stolen'} end -- written by another hand
end
horizon, turn = tonumber(horizon or '0'), tonumber(turn or '0')
local function write(o, h, n)
  redis.call('HSET', key, field, string.format('%s %.0f %.0f %s', o, h, turn + 1, n))
end

if what == 'take' then
  if turn ~= tonumber(ARGV[9]) or row and owner ~= ARGV[10] then return {'lost'} end
  horizon = math.max(horizon, rest)
  write(ARGV[11], horizon, ARGV[12])
  return {'won', string.format('%.0f', horizon)}
end
if not row and what == 'raise' then
  -- Everything was lost. Nobody has taken the number since, so its owner may go on: above everything that was promised.
  horizon, node, owner = rest, '?', ARGV[9]
end
if owner ~= ARGV[9] then return {'stolen'} end
if what == 'free' then
  write('-', tonumber(ARGV[10]), node)
  return {'ok'}
end
horizon = math.max(horizon, math.min(tonumber(ARGV[10]), most))
write(owner, horizon, node)
return {'ok', string.format('%.0f', horizon), string.format('%.0f', rest)}
