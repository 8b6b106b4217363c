-- KEYS: what nodes say under a topic   Answers what has not ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local said = {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  local ends, text = string.match(value, '^(%d+):(.*)$')
  if tonumber(ends) > now then said[#said + 1] = text end
end
return said
