#!lua flags=allow-oom
-- KEYS: own, lane   ARGV: token, ids
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
return redis.call('XCLAIM', KEYS[2], 'g', 'o', '0', unpack(ARGV, 2))
