#!lua flags=allow-oom
-- KEYS: own, token   ARGV: token   What has watched the token does not take place.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
redis.call('SET', KEYS[2], ARGV[1])
return 1
