#!lua flags=allow-oom
-- KEYS: queued bytes, unfinished, jobs, dead letters   ARGV: tenant   Answers how many bytes of it are queued.
-- A shard with no work left has none queued, whatever was counted: entries may have been lost, or finished by who does not count.
local bytes = redis.call('HGET', KEYS[1], ARGV[1])
if not bytes then return 0 end
for _, entries in ipairs(redis.call('HVALS', KEYS[2])) do
  if tonumber(entries) > 0 then return tonumber(bytes) end
end
if redis.call('HLEN', KEYS[3]) > redis.call('ZCARD', KEYS[4]) then return tonumber(bytes) end
redis.call('DEL', KEYS[1])
return 0
