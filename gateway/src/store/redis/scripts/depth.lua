#!lua flags=no-writes
-- KEYS: jobs, schedule, taken from it, dead letters, unfinished   ARGV: the lanes' names
local depth = {redis.call('HLEN', KEYS[1])}
for i = 2, 4 do depth[i] = redis.call('ZCARD', KEYS[i]) end
depth[5] = redis.call('HMGET', KEYS[5], unpack(ARGV))
return depth
