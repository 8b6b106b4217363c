#!lua flags=allow-oom
-- KEYS: own, lane   ARGV: token, claims, ids
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return redis.error_reply('FENCED another owner has the shard') end
local command = {'XCLAIM', KEYS[2], 'g', 'o', '0', unpack(ARGV, 3)}
for _, word in ipairs({'RETRYCOUNT', ARGV[2], 'JUSTID'}) do command[#command + 1] = word end
return redis.call(unpack(command))
