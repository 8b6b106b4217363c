#!lua flags=allow-oom
-- KEYS: use   ARGV: tenant, plugin (or nothing: all of the tenant's), count   Answers how many entries it took away, and 1 for what else.
local tenant, plugin, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local base = string.sub(KEYS[1], 1, -4 - #tenant)
--#tables
local tables = tables_of(base, tenant)
if plugin ~= '' then
  local gone = tables.drop(plugin, most)
  tables.settle()
  return gone
end
local gone = 0
for _, field in ipairs(redis.call('HKEYS', tables.use)) do
  if gone < most and #field == 32 then gone = gone + tables.drop(field, most - gone) end
end
tables.settle()
if gone > 0 then return gone end
redis.call('ZREM', base .. 'ke', tenant)
return redis.call('UNLINK', tables.use, tables.ends, base .. 'km:' .. tenant, base .. 'ka:' .. tenant)
