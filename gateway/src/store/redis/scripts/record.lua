#!lua flags=allow-oom
-- KEYS: own   ARGV: token, sequence, then operations:
--   'a' lane count ids...   finish entries       'x' id               a job is done with
--   'p' id place rest       put a job somewhere  'h' bucket bytes piece   keep history
--   't' tenant bytes        so much of its entries is finished; the jobs up to the next are its own
local own = redis.call('HMGET', KEYS[1], 't', 's')
if own[1] ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
if tonumber(own[2] or '0') >= tonumber(ARGV[2]) then return 0 end
--#jobs
local tenant, queued = nil, {}
local i = 3
while i <= #ARGV do
  local op = ARGV[i]
  if op == 'a' then
    local ids = tonumber(ARGV[i + 2])
    local acked = redis.call('XACK', base .. 'in:' .. ARGV[i + 1], 'g', unpack(ARGV, i + 3, i + 2 + ids))
    redis.call('HINCRBY', base .. 'n', ARGV[i + 1], -acked)
    redis.call('HINCRBY', base .. 'f', ARGV[i + 1], acked)
    i = i + 3 + ids
  elseif op == 'h' then
    keep_history(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    i = i + 4
  elseif op == 't' then
    tenant = ARGV[i + 1]
    queued[tenant] = (queued[tenant] or 0) - tonumber(ARGV[i + 2])
    i = i + 3
  elseif op == 'p' then
    queued[tenant] = queued[tenant] + put(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    i = i + 4
  else
    queued[tenant] = queued[tenant] - leave(ARGV[i + 1])
    redis.call('HDEL', jobs, ARGV[i + 1])
    i = i + 2
  end
end
for whose, bytes in pairs(queued) do count(whose, bytes) end
redis.call('HSET', KEYS[1], 's', ARGV[2])
return 1
