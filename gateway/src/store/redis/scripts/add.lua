#!lua
-- KEYS: own   ARGV: tenant, the page of its index that lists the event, bucket, length seen, job's id, due ms, rest, bytes, piece
-- Answers whether it put the job; -1 and changes nothing if the event's history is not as it was seen.
--#jobs
if redis.call('HEXISTS', jobs, ARGV[5]) == 1 then return 0 end
local changed = redis.call('LLEN', base .. 'h:' .. ARGV[3]) ~= tonumber(ARGV[4])
if changed or not redis.call('ZSCORE', base .. 'ix:' .. ARGV[1], ARGV[2]) then return -1 end
count(ARGV[1], put(ARGV[5], 'r' .. ARGV[6], ARGV[7]))
keep_history(ARGV[3], ARGV[8], ARGV[9])
return 1
