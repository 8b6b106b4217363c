#!lua flags=allow-oom
-- KEYS: own, lane   ARGV: token, last entry handed out, ids beyond it
-- Nobody else reads the lane, so what was read last can be given back. Sent again, it does the same.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
redis.call('XACK', KEYS[2], 'g', unpack(ARGV, 3))
redis.call('XGROUP', 'SETID', KEYS[2], 'g', ARGV[2])
return 1
