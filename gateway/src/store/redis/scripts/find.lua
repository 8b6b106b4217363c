#!lua flags=no-writes
-- KEYS: lane   ARGV: event id, from, count
-- An entry's record holds the event's id at bytes 6 to 21. Answers {id, entry}, {last id seen}, or {} at the end.
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  if string.sub(entry[2][2], 6, 21) == ARGV[1] then return {entry[1], entry[2][2]} end
end
if #entries < tonumber(ARGV[3]) then return {} end
return {entries[#entries][1]}
