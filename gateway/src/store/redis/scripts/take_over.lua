#!lua flags=allow-oom
-- KEYS: own, token   ARGV: expected token, expected heartbeat, incarnation, node, ttl ms
-- The shard's holder must still be as it was seen: nobody ('' for both), or this token with this heartbeat.
local own = redis.call('HMGET', KEYS[1], 't', 'h', 'e')
if (own[1] or '') ~= ARGV[1] or (own[2] or '') ~= ARGV[2] then return false end
local epoch = string.format('%d', tonumber(own[3] or '0') + 1)
redis.call('HSET', KEYS[1], 't', epoch .. ':' .. ARGV[3], 'h', '0', 'e', epoch, 'n', ARGV[4], 'l', ARGV[5], 's', '0')
redis.call('SET', KEYS[2], epoch .. ':' .. ARGV[3])
return epoch
