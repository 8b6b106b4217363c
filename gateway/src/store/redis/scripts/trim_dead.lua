#!lua flags=allow-oom
-- KEYS: own   ARGV: token, upper bound (8 bytes), count   Answers how many went.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#jobs
local old = redis.call('ZRANGEBYLEX', base .. 'dl', '-', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(old) do
  local id = string.sub(member, 9, 24)
  leave(id)
  redis.call('HDEL', jobs, id)
end
return #old
