#!lua flags=allow-oom
-- KEYS: own, token   ARGV: token, 'renew' or 'release'
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
if ARGV[2] == 'renew' then
  redis.call('HINCRBY', KEYS[1], 'h', 1)
else
  redis.call('HSET', KEYS[1], 't', '', 'h', '', 'n', '')
  redis.call('SET', KEYS[2], '')
end
return 1
