#!lua flags=no-writes
-- KEYS: jobs, schedule, taken from it, dead letters, unfinished, finished   ARGV: the lanes' names
local depth = {redis.call('HLEN', KEYS[1])}
for i = 2, 4 do depth[i] = redis.call('ZCARD', KEYS[i]) end
for i = 5, 6 do depth[i] = redis.call('HMGET', KEYS[i], unpack(ARGV)) end
return depth
