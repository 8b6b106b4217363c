#!lua
-- KEYS: own   ARGV: tenant, then for each of its jobs: id, old place, new place, rest, bucket, bytes, piece
-- Answers how many still were where they were seen.
--#jobs
local moved = 0
for i = 2, #ARGV, 7 do
  local value = redis.call('HGET', jobs, ARGV[i])
  if value and place_of(value) == ARGV[i + 1] then
    count(ARGV[1], put(ARGV[i], ARGV[i + 2], ARGV[i + 3]))
    keep_history(ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
    moved = moved + 1
  end
end
return moved
