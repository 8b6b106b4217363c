#!lua
-- KEYS: heads, copies, bytes   ARGV: name, head, copy, most bookmarks, most bytes   Answers what became of it.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return known == ARGV[2] and 'kept' or 'taken' end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 'too_many' end
local bytes = tonumber(redis.call('GET', KEYS[3]) or 0) + #ARGV[3]
if bytes > tonumber(ARGV[5]) then return 'too_large' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('SET', KEYS[3], string.format('%.0f', bytes))
return 'kept'
