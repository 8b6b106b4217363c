#!lua flags=allow-oom
-- KEYS: own   ARGV: token, bucket, length seen, bytes gone, number of pieces left, pieces..., then operations:
--   'x' lane count ids...   delete entries        'i' tenant 2 old new   replace a page of a tenant's index ('': by nothing)
--   'u' tenant 1 events     count them as purged
-- Answers 0 and changes nothing if the bucket has grown since it was read.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
local base = string.sub(KEYS[1], 1, -4)
local bucket = base .. 'h:' .. ARGV[2]
if redis.call('LLEN', bucket) ~= tonumber(ARGV[3]) then return 0 end
local left = tonumber(ARGV[5])
redis.call('DEL', bucket)
for i = 6, 5 + left do redis.call('RPUSH', bucket, ARGV[i]) end
if left == 0 then redis.call('ZREM', base .. 'hb', ARGV[2]) end
redis.call('DECRBY', base .. 'hs', ARGV[4])
local i = 6 + left
while i <= #ARGV do
  local count = tonumber(ARGV[i + 2])
  if ARGV[i] == 'x' then
    redis.call('XDEL', base .. 'in:' .. ARGV[i + 1], unpack(ARGV, i + 3, i + 2 + count))
  elseif ARGV[i] == 'u' then
    redis.call('HINCRBY', base .. 'pu:' .. ARGV[i + 1], 'events', ARGV[i + 3])
  else
    redis.call('ZREM', base .. 'ix:' .. ARGV[i + 1], ARGV[i + 3])
    if ARGV[i + 4] ~= '' then redis.call('ZADD', base .. 'ix:' .. ARGV[i + 1], 0, ARGV[i + 4]) end
  end
  i = i + 3 + count
end
return 1
