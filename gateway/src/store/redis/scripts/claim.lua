#!lua flags=allow-oom
-- KEYS: own, lane   ARGV: token, count
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
local read = redis.call('XREADGROUP', 'GROUP', 'g', 'o', 'COUNT', ARGV[2], 'STREAMS', KEYS[2], '>')
if not read then return {} end
return read[1][2]
