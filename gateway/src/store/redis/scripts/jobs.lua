-- A job's value: a byte with the length of its place, its place, 8 hex digits with the size of its request, the job.
-- Places: 'r' due | 'q' sequence '|' queue | 'o' due '|' queue '|' line '|' place | 'd' time (8 bytes) tenant (32 hex digits). Behind all but the last,
-- after a '|', how often the job was restored, if it was.
local base = string.sub(KEYS[1], 1, -4)
local jobs = base .. 'j'

local function place_of(value)
  return string.sub(value, 2, 1 + string.byte(value, 1))
end

local function size_of(value)
  local from = 2 + string.byte(value, 1)
  return tonumber(string.sub(value, from, from + 7), 16)
end

local function move(value, place)
  return string.char(#place) .. place .. string.sub(value, 2 + string.byte(value, 1))
end

local function due_of(place)
  return string.match(place, '^r(%d+)')
end

local function queue_of(place)
  return string.match(place, '^q(%d*)|([^|]+)')
end

-- A place in a line: when it is due, the queue, the line, the number in the line.
local function spot_of(place)
  return string.match(place, '^o(%d+)|([^|]+)|([^|]+)|([^|]+)')
end

local COUNTED = {r = '^(r%d+)|?(%d*)$', q = '^(q%d*|[^|]+)|?(%d*)$', o = '^(o%d+|[^|]+|[^|]+|[^|]+)|?(%d*)$'}

-- A place without its count, and the count.
local function counted(place)
  local bare, restored = string.match(place, COUNTED[string.sub(place, 1, 1)])
  return bare, tonumber(restored) or 0
end

local function line_key(queue, line)
  return base .. 'l:' .. queue .. ':' .. line
end

-- Says by when the first of a line is due, unless it is taken.
local function front(queue, line)
  local first = redis.call('ZRANGE', line_key(queue, line), 0, 0)[1]
  if first and not redis.call('ZSCORE', base .. 'tq', first) then
    local due = spot_of(place_of(redis.call('HGET', jobs, first)))
    redis.call('ZADD', base .. 'q:' .. queue, due, line)
  else
    redis.call('ZREM', base .. 'q:' .. queue, line)
  end
end

local function fewer(queue)
  if redis.call('HINCRBY', base .. 'qs', queue, -1) <= 0 then redis.call('HDEL', base .. 'qs', queue) end
end

local function unqueue(queue, id)
  local gone = redis.call('ZREM', base .. 'q:' .. queue, id)
  if gone == 1 then fewer(queue) end
  return gone
end

-- Takes the job out of wherever it stands. Answers how many bytes are queued no more: a dead letter was not.
local function leave(id)
  local value = redis.call('HGET', jobs, id)
  if not value then return 0 end
  local place = place_of(value)
  local kind = string.sub(place, 1, 1)
  if kind == 'r' then
    if redis.call('ZREM', base .. 'rt', id) == 0 then redis.call('ZREM', base .. 'tr', id) end
  elseif kind == 'q' then
    local _, queue = queue_of(place)
    if unqueue(queue, id) == 0 then redis.call('ZREM', base .. 'tq', id) end
  elseif kind == 'o' then
    local _, queue, line = spot_of(place)
    redis.call('ZREM', line_key(queue, line), id)
    if redis.call('ZREM', base .. 'tq', id) == 0 then fewer(queue) end
    front(queue, line)
  else
    local at, tenant = string.sub(place, 2, 9), string.sub(place, 10)
    redis.call('ZREM', base .. 'dl', at .. id .. tenant)
    redis.call('ZREM', base .. 'dl:' .. tenant, at .. id)
    return 0
  end
  return size_of(value)
end

-- Puts the job at a place that it names; `rest` is its size and itself. A line's place is that of an output: of an event that stands at
-- another place of the line, or, after a '+', at its end. Answers how many bytes more are queued.
local function put(id, place, rest)
  local queued = tonumber(string.sub(rest, 1, 8), 16)
  local before = leave(id)
  local kind = string.sub(place, 1, 1)
  if kind == 'r' then
    redis.call('ZADD', base .. 'rt', due_of(place), id)
  elseif kind == 'q' then
    local _, queue = queue_of(place)
    local sequence = redis.call('INCR', base .. 'sq')
    redis.call('ZADD', base .. 'q:' .. queue, sequence, id)
    redis.call('HINCRBY', base .. 'qs', queue, 1)
    place = string.format('q%d|%s', sequence, queue)
  elseif kind == 'o' then
    local due, queue, line, at = spot_of(place)
    if string.sub(at, 1, 1) == '+' then
      at = string.format('%d', redis.call('INCR', base .. 'sq') * 4096 + tonumber(string.sub(at, 2)))
    end
    redis.call('ZADD', line_key(queue, line), at, id)
    redis.call('HINCRBY', base .. 'qs', queue, 1)
    place = string.format('o%s|%s|%s|%s', due, queue, line, at)
    redis.call('HSET', jobs, id, string.char(#place) .. place .. rest)
    front(queue, line)
    return queued - before
  else
    local at, tenant = string.sub(place, 2, 9), string.sub(place, 10)
    redis.call('ZADD', base .. 'dl', 0, at .. id .. tenant)
    redis.call('ZADD', base .. 'dl:' .. tenant, 0, at .. id)
    queued = 0
  end
  redis.call('HSET', jobs, id, string.char(#place) .. place .. rest)
  return queued - before
end

-- Adds to what is queued of a tenant. Never below nothing: what was queued before it was counted is in no count.
local function count(tenant, bytes)
  if bytes ~= 0 and redis.call('HINCRBY', base .. 'qb', tenant, string.format('%d', bytes)) <= 0 then
    redis.call('HDEL', base .. 'qb', tenant)
  end
end

local function keep_history(bucket, bytes, piece)
  redis.call('RPUSH', base .. 'h:' .. bucket, piece)
  redis.call('ZADD', base .. 'hb', bucket, bucket)
  redis.call('INCRBY', base .. 'hs', bytes)
end
