-- KEYS: what nodes say under a topic   ARGV: node, value, for how long in ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = now + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', last) .. ':' .. ARGV[2])
-- Each time some of what is there, whatever that is: what has ended never becomes much of a topic, and a large one costs no more than a small one.
local some = redis.call('HRANDFIELD', KEYS[1], 16, 'WITHVALUES')
for i = 1, #some, 2 do
  if tonumber(string.match(some[i + 1], '^%d+')) <= now then redis.call('HDEL', KEYS[1], some[i]) end
end
local ends = redis.call('PEXPIRETIME', KEYS[1])
if ends == -1 or ends < last then redis.call('PEXPIREAT', KEYS[1], string.format('%d', last)) end
return 1
