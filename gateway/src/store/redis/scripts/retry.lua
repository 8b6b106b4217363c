#!lua
-- KEYS: own   ARGV: due ms, tenant, then for each of its jobs: id, old place, rest, bucket, bytes, piece
-- Answers how many still were where they were seen.
--#jobs
local moved = 0
for i = 3, #ARGV, 6 do
  local value = redis.call('HGET', jobs, ARGV[i])
  if value and place_of(value) == ARGV[i + 1] then
    count(ARGV[2], put(ARGV[i], 'r' .. ARGV[1], ARGV[i + 2]))
    keep_history(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    moved = moved + 1
  end
end
return moved
