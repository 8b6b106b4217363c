#!lua
-- KEYS: buckets   ARGV: over us, then for each bucket how many us it takes to fill what was taken
-- Answers for each in how many us it will be full. It is kept a little longer than that: whoever tells next looks back that far.
local time = redis.call('TIME')
local now, over = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local answer = {}
for i, key in ipairs(KEYS) do
  local full = math.max(tonumber(redis.call('GET', key) or '0'), now - over) + ARGV[i + 1]
  -- 71 years: beyond it numbers lose some.
  full = math.min(full, now + 2 ^ 51)
  local left = math.max(full - now, 0)
  redis.call('SET', key, string.format('%d', full), 'PX', string.format('%d', math.ceil((left + over) / 1000) + 1000))
  answer[i] = left
end
return answer
