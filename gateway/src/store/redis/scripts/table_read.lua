#!lua flags=no-writes
-- KEYS: use   ARGV: tenant, plugin, now, keys   Answers each value, or nothing.
local tenant, plugin, now = ARGV[1], ARGV[2], ARGV[3]
--#tables
local tables = tables_of(string.sub(KEYS[1], 1, -4 - #tenant), tenant)
local answers = {}
for i = 4, #ARGV do
  local value, has_ended = tables.look(plugin, ARGV[i], now)
  answers[#answers + 1] = not has_ended and value
end
return answers
