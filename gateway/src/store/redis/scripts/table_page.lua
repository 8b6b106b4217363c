#!lua flags=no-writes
-- KEYS: use   ARGV: tenant, plugin, now, first or last place, prefix, count, the longest value that is shown
-- Answers for each entry from there on: key, size (none if it has ended), end (or none), value (or none).
local tenant, plugin, now, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
--#tables
local tables = tables_of(string.sub(KEYS[1], 1, -4 - #tenant), tenant)
local answers = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', tables.index(plugin), ARGV[4], '+', 'LIMIT', 0, ARGV[6])) do
  if string.sub(key, 1, #prefix) ~= prefix then break end
  local value, has_ended = tables.look(plugin, key, now)
  answers[#answers + 1] = key
  answers[#answers + 1] = value and not has_ended and tostring(#value)
  answers[#answers + 1] = redis.call('ZSCORE', tables.ends, plugin .. key)
  answers[#answers + 1] = value and not has_ended and #value <= tonumber(ARGV[7]) and value
end
return answers
