#!lua flags=allow-oom
-- KEYS: own, the lanes   ARGV: token, the lanes' names
-- Makes the groups that are missing, from the first entry on. Entries which history calls finished are then read again: up to
-- the last of them the owner looks at history before it hands them out. Answers for each lane how far that is, or ''.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
local answer = {}
for i = 2, #KEYS do
  local field = 'again:' .. ARGV[i]
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[i], 'g', '0', 'MKSTREAM', 'ENTRIESREAD', '0')
  if type(made) == 'table' and made.err then
    if not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
  else
    local last = redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
    if last[1] then redis.call('HSET', KEYS[1], field, last[1][1]) end
  end
  answer[#answer + 1] = redis.call('HGET', KEYS[1], field) or ''
end
return answer
