#!lua flags=allow-oom
-- KEYS: own   ARGV: token, count   Answers how many it put back: fewer than count means that all are back.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#jobs
local back = 0
for _, name in ipairs({'tr', 'tq'}) do
  for _, id in ipairs(redis.call('ZRANGE', base .. name, 0, tonumber(ARGV[2]) - back - 1)) do
    local value = redis.call('HGET', jobs, id)
    redis.call('ZREM', base .. name, id)
    if value then
      local place, restored = counted(place_of(value))
      redis.call('HSET', jobs, id, move(value, string.format('%s|%d', place, restored + 1)))
      if name == 'tr' then
        redis.call('ZADD', base .. 'rt', due_of(place), id)
      elseif string.sub(place, 1, 1) == 'o' then
        local _, queue, line = spot_of(place)
        redis.call('HINCRBY', base .. 'qs', queue, 1)
        front(queue, line)
      else
        local sequence, queue = queue_of(place)
        redis.call('ZADD', base .. 'q:' .. queue, sequence, id)
        redis.call('HINCRBY', base .. 'qs', queue, 1)
      end
    end
    back = back + 1
  end
  if back >= tonumber(ARGV[2]) then break end
end
return back
