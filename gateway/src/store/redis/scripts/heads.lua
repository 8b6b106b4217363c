#!lua flags=allow-oom
-- KEYS: own   ARGV: token, sequence, count, bytes, queue, now, the hand-out from which on a job comes by itself, '1' if such a one may come
-- Answers id, value, id, value, ... of the first jobs of lines that are due, and behind them when the next line is due, '' if none is. If this
-- sequence was applied before: what it took, and now.
local own = redis.call('HMGET', KEYS[1], 't', 's')
if own[1] ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#jobs
local taken, ready = base .. 'tq', base .. 'q:' .. ARGV[5]
local found = {}
if tonumber(own[2] or '0') >= tonumber(ARGV[2]) then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', taken, ARGV[2], ARGV[2])) do
    found[#found + 1] = id
    found[#found + 1] = redis.call('HGET', jobs, id)
  end
  found[#found + 1] = ARGV[6]
  return found
end
local bytes, limit = 0, tonumber(ARGV[4])
for _, line in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', ARGV[6], 'LIMIT', 0, ARGV[3])) do
  local id = redis.call('ZRANGE', line_key(ARGV[5], line), 0, 0)[1]
  local value = redis.call('HGET', jobs, id)
  local size = size_of(value)
  local _, restored = counted(place_of(value))
  local is_suspect = restored + 1 >= tonumber(ARGV[7])
  if is_suspect and #found == 0 and ARGV[8] ~= '1' then return redis.error_reply('SUSPECT it comes to who may take one') end
  if #found > 0 and (is_suspect or bytes + size > limit) then break end
  bytes = bytes + size
  redis.call('ZADD', taken, ARGV[2], id)
  redis.call('ZREM', ready, line)
  fewer(ARGV[5])
  found[#found + 1] = id
  found[#found + 1] = value
  if is_suspect then break end
end
found[#found + 1] = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')[2] or ''
redis.call('HSET', KEYS[1], 's', ARGV[2])
return found
