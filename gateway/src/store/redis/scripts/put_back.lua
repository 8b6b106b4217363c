#!lua flags=allow-oom
-- KEYS: own   ARGV: token, sequence, then for each first job of a line: id, when it was due, when it is due again
local own = redis.call('HMGET', KEYS[1], 't', 's')
if own[1] ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
if tonumber(own[2] or '0') >= tonumber(ARGV[2]) then return 0 end
--#jobs
for i = 3, #ARGV, 3 do
  local id, value = ARGV[i], redis.call('HGET', jobs, ARGV[i])
  local due, queue, line, at
  if value then due, queue, line, at = spot_of(place_of(value)) end
  if due == ARGV[i + 1] and redis.call('ZREM', base .. 'tq', id) == 1 then
    redis.call('HSET', jobs, id, move(value, string.format('o%s|%s|%s|%s', ARGV[i + 2], queue, line, at)))
    redis.call('HINCRBY', base .. 'qs', queue, 1)
    front(queue, line)
  end
end
redis.call('HSET', KEYS[1], 's', ARGV[2])
return 1
