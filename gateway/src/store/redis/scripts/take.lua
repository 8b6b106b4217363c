#!lua flags=allow-oom
-- KEYS: own   ARGV: token, sequence, count, bytes, 'due', now | 'queue', queue, the hand-out from which on a job comes by itself, '1' if such a one may come
-- Answers id, value, id, value, ... in the order of the schedule or queue. If this sequence was applied before: what it took.
local own = redis.call('HMGET', KEYS[1], 't', 's')
if own[1] ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#jobs
local from_schedule = ARGV[5] == 'due'
local taken = base .. (from_schedule and 'tr' or 'tq')
local found = {}
if tonumber(own[2] or '0') >= tonumber(ARGV[2]) then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', taken, ARGV[2], ARGV[2])) do
    found[#found + 1] = id
    found[#found + 1] = redis.call('HGET', jobs, id)
  end
  return found
end
local ids
if from_schedule then
  ids = redis.call('ZRANGEBYSCORE', base .. 'rt', '-inf', ARGV[6], 'LIMIT', 0, ARGV[3])
else
  ids = redis.call('ZRANGE', base .. 'q:' .. ARGV[6], 0, tonumber(ARGV[3]) - 1)
end
local bytes, limit = 0, tonumber(ARGV[4])
for _, id in ipairs(ids) do
  local value = redis.call('HGET', jobs, id)
  local size = size_of(value)
  local _, restored = counted(place_of(value))
  local is_suspect = restored + 1 >= tonumber(ARGV[7])
  if is_suspect and #found == 0 and ARGV[8] ~= '1' then return redis.error_reply('SUSPECT it comes to who may take one') end
  if #found > 0 and (is_suspect or bytes + size > limit) then break end
  bytes = bytes + size
  if from_schedule then redis.call('ZREM', base .. 'rt', id) else unqueue(ARGV[6], id) end
  redis.call('ZADD', taken, ARGV[2], id)
  found[#found + 1] = id
  found[#found + 1] = value
  if is_suspect then break end
end
redis.call('HSET', KEYS[1], 's', ARGV[2])
return found
