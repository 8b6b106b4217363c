#!lua flags=allow-oom
-- KEYS: own   ARGV: token, tenant, '1' if nothing is left of it, then for each of its jobs: id, place, field that counts it
-- Leaves what is in hand or has moved.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#jobs
for i = 4, #ARGV, 3 do
  local id = ARGV[i]
  local value = redis.call('HGET', jobs, id)
  local taken = redis.call('ZSCORE', base .. 'tr', id) or redis.call('ZSCORE', base .. 'tq', id)
  if value and not taken and place_of(value) == ARGV[i + 1] then
    count(ARGV[2], -leave(id))
    redis.call('HDEL', jobs, id)
    redis.call('HINCRBY', base .. 'pu:' .. ARGV[2], ARGV[i + 2], 1)
  end
end
if ARGV[3] ~= '' then redis.call('HSET', base .. 'pu:' .. ARGV[2], 'done', ARGV[3]) end
if ARGV[3] == '1' then redis.call('HDEL', base .. 'qb', ARGV[2]) end
return redis.call('HMGET', base .. 'pu:' .. ARGV[2], 'events', 'given_up', 'dead_letters', 'done')
