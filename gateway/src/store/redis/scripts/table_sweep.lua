#!lua flags=allow-oom
-- KEYS: own   ARGV: token, now, count   Answers how many entries that had ended it took away.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
--#tables
local base, most, gone = string.sub(KEYS[1], 1, -4), tonumber(ARGV[3]), 0
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', base .. 'ke', '-inf', ARGV[2], 'LIMIT', 0, 64)) do
  if gone >= most then break end
  local tables = tables_of(base, tenant)
  gone = gone + tables.sweep(ARGV[2], most - gone)
  tables.settle()
  local first = redis.call('ZRANGE', tables.ends, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', base .. 'ke', first[2], tenant) else redis.call('ZREM', base .. 'ke', tenant) end
end
return gone
