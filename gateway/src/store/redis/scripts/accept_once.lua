#!lua
-- KEYS: dedup key, lane, index, unfinished, queued bytes
-- ARGV: event id, window ms, entry, index member, lane's name, tenant, size of its request
-- Answers the id of the first event with this key: the caller's own if it is the first (or is sent again).
local first = redis.call('GET', KEYS[1])
if first then return first end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('XADD', KEYS[2], '*', 'e', ARGV[3])
redis.call('ZADD', KEYS[3], 0, ARGV[4])
redis.call('HINCRBY', KEYS[4], ARGV[5], 1)
redis.call('HINCRBY', KEYS[5], ARGV[6], ARGV[7])
return ARGV[1]
