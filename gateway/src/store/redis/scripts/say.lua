-- KEYS: what nodes say under a topic   ARGV: node, value, for how long in ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = now + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', last) .. ':' .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends = tonumber(string.match(all[i + 1], '^%d+'))
  if ends <= now then redis.call('HDEL', KEYS[1], all[i]) end
  if ends > last then last = ends end
end
redis.call('PEXPIREAT', KEYS[1], string.format('%d', last))
return 1
