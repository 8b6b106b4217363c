#!lua flags=allow-oom
-- KEYS: own   ARGV: token, sequence, then for each job: id, and of one in a line when it was due, when it is due again
local own = redis.call('HMGET', KEYS[1], 't', 's')
if own[1] ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
if tonumber(own[2] or '0') >= tonumber(ARGV[2]) then return 0 end
--#jobs
for i = 3, #ARGV, 3 do
  local id, value = ARGV[i], redis.call('HGET', jobs, ARGV[i])
  local place = value and place_of(value) or ''
  local due, queue, line, at = spot_of(place)
  local sequence, parked_in = queue_of(place)
  if (parked_in or due == ARGV[i + 1]) and redis.call('ZREM', base .. 'tq', id) == 1 then
    redis.call('HINCRBY', base .. 'qs', parked_in or queue, 1)
    if parked_in then
      redis.call('HSET', jobs, id, move(value, counted(place)))
      redis.call('ZADD', base .. 'q:' .. parked_in, sequence, id)
    else
      redis.call('HSET', jobs, id, move(value, string.format('o%s|%s|%s|%s', ARGV[i + 2], queue, line, at)))
      front(queue, line)
    end
  end
end
redis.call('HSET', KEYS[1], 's', ARGV[2])
return 1
