#!lua
-- KEYS: use
-- ARGV: tenant, plugin, now, quota, the call's name, how many ms a call is remembered, how many calls are, then for each operation:
-- kind, key, value, end. Answers a word for each, or a value.
-- A call that was done before answers what it did; what it reads is read anew.
local tenant, plugin, now, quota, name = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local base = string.sub(KEYS[1], 1, -4 - #tenant)
--#tables
local tables = tables_of(base, tenant)
local rows = tables.rows(plugin)
local calls, answered = base .. 'km:' .. tenant, base .. 'ka:' .. tenant

local function is_number(value)
  local sign, digits = string.match(value, '^(%-?)(%d+)$')
  if not digits or #digits > 19 or value == '-0' or (#digits > 1 and string.sub(digits, 1, 1) == '0') then return false end
  return #digits < 19 or digits <= (sign == '-' and '9223372036854775808' or '9223372036854775807')
end

local function get(key)
  local value, has_ended = tables.look(plugin, key, now)
  return not has_ended and value
end

local answers = {}
local known = redis.call('HGET', answered, name)
if known then
  local words = string.gmatch(known, '%S+')
  for i = 8, #ARGV, 4 do
    local answer
    if ARGV[i] == 'get' then answer = get(ARGV[i + 1]) else answer = words() end
    answers[#answers + 1] = answer
  end
  return answers
end

local used = tonumber(redis.call('HGET', tables.use, 'b') or '0')
local swept = false
tables.sweep(now, 16)

-- What is there; what has ended is taken away.
local function live(key)
  local value, has_ended = tables.look(plugin, key, now)
  if has_ended then
    tables.remove(plugin, key, value)
    return false
  end
  return value
end

local function fits(growth)
  if growth <= 0 or used + tables.grown() + growth <= quota then return true end
  if not swept then
    swept = true
    tables.sweep(now, 512)
  end
  return used + tables.grown() + growth <= quota
end

-- Whether there is room for the value in the place of the one before; then it is counted.
local function admit(key, before, value)
  local growth = tables.entry(key, value) - (before and tables.entry(key, before) or 0)
  if not fits(growth) then return false end
  if not before then redis.call('ZADD', tables.index(plugin), 0, key) end
  tables.count(plugin, growth, before and 0 or 1)
  return true
end

local function ends(key, last)
  if last == '' then
    redis.call('ZREM', tables.ends, plugin .. key)
  else
    redis.call('ZADD', tables.ends, last, plugin .. key)
    redis.call('ZADD', base .. 'ke', 'LT', last, tenant)
  end
end

local function set(key, before, value, last)
  if not admit(key, before, value) then return false end
  redis.call('HSET', rows, key, value)
  ends(key, last)
  return true
end

local done = {}

function done.set(key, value, last)
  return set(key, live(key), value, last) and 'done' or 'quota'
end

function done.add(key, value, last)
  if live(key) then return 'no' end
  return set(key, false, value, last) and 'yes' or 'quota'
end

function done.delete(key)
  local before = live(key)
  if not before then return 'no' end
  tables.remove(plugin, key, before)
  return 'yes'
end

function done.increment(key, by, last)
  local before = live(key)
  if before and not is_number(before) then return 'not_a_number' end
  -- Lua's own numbers have 53 bits.
  local sum = redis.pcall('HINCRBY', rows, key, by)
  if type(sum) == 'table' and sum.err then return 'out_of_range' end
  local value = redis.call('HGET', rows, key)
  if not admit(key, before, value) then
    if before then redis.call('HSET', rows, key, before) else redis.call('HDEL', rows, key) end
    return 'quota'
  end
  if not before then ends(key, last) end
  return value
end

local words = {}
for i = 8, #ARGV, 4 do
  local answer
  if ARGV[i] == 'get' then
    answer = live(ARGV[i + 1])
  else
    answer = done[ARGV[i]](ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    words[#words + 1] = answer
  end
  answers[#answers + 1] = answer
end
tables.settle()

redis.call('HSET', answered, name, table.concat(words, ' '))
redis.call('ZADD', calls, now, name)
local old = redis.call('ZRANGEBYSCORE', calls, '-inf', string.format('(%d', tonumber(now) - tonumber(ARGV[6])), 'LIMIT', 0, 16)
if #old == 0 and redis.call('ZCARD', calls) > tonumber(ARGV[7]) then old = redis.call('ZRANGE', calls, 0, 15) end
if #old > 0 then
  redis.call('ZREM', calls, unpack(old))
  redis.call('HDEL', answered, unpack(old))
end
redis.call('PEXPIRE', calls, ARGV[6])
redis.call('PEXPIRE', answered, ARGV[6])
return answers
