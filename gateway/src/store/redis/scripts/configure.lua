#!lua
-- KEYS: revision, records   ARGV: expected revision, next revision, number of sets, key value..., deleted keys...
local present = redis.call('GET', KEYS[1]) or '0'
if present ~= ARGV[1] then return {0, present} end
local sets = tonumber(ARGV[3])
local i = 4
for _ = 1, sets do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  i = i + 2
end
while i <= #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  i = i + 1
end
redis.call('SET', KEYS[1], ARGV[2])
return {1, ARGV[2]}
