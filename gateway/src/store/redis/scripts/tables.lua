-- A tenant's tables. What changes of their size is gathered, and written by `settle`.
local function tables_of(base, tenant)
  local self = {use = base .. 'ku:' .. tenant, ends = base .. 'kx:' .. tenant}
  local OVERHEAD = 128
  local changed = {b = 0, n = 0}

  function self.rows(plugin) return base .. 'kv:' .. tenant .. ':' .. plugin end
  function self.index(plugin) return base .. 'kk:' .. tenant .. ':' .. plugin end

  function self.entry(key, value) return #key + #value + OVERHEAD end

  function self.count(plugin, bytes, entries)
    changed.b = changed.b + bytes
    changed.n = changed.n + entries
    changed[plugin] = (changed[plugin] or 0) + entries
  end

  function self.grown() return changed.b end

  function self.remove(plugin, key, value)
    redis.call('HDEL', self.rows(plugin), key)
    redis.call('ZREM', self.index(plugin), key)
    redis.call('ZREM', self.ends, plugin .. key)
    self.count(plugin, -self.entry(key, value), -1)
  end

  -- The value and whether it has ended.
  function self.look(plugin, key, now)
    local value = redis.call('HGET', self.rows(plugin), key)
    if not value then return false, false end
    local last = redis.call('ZSCORE', self.ends, plugin .. key)
    return value, last and tonumber(last) <= tonumber(now)
  end

  -- Removes what has ended, at most so many. Answers how many.
  function self.sweep(now, most)
    local ended = redis.call('ZRANGEBYSCORE', self.ends, '-inf', now, 'LIMIT', 0, most)
    for _, member in ipairs(ended) do
      local plugin, key = string.sub(member, 1, 32), string.sub(member, 33)
      local value = redis.call('HGET', self.rows(plugin), key)
      if value then self.remove(plugin, key, value) else redis.call('ZREM', self.ends, member) end
    end
    return #ended
  end

  -- Removes entries of a plugin, whatever they are, at most so many. Answers how many.
  function self.drop(plugin, most)
    local keys = redis.call('ZRANGE', self.index(plugin), 0, most - 1)
    for _, key in ipairs(keys) do
      self.remove(plugin, key, redis.call('HGET', self.rows(plugin), key) or '')
    end
    return #keys
  end

  function self.settle()
    for field, by in pairs(changed) do
      if by ~= 0 and redis.call('HINCRBY', self.use, field, string.format('%d', by)) <= 0 then
        redis.call('HDEL', self.use, field)
      end
    end
  end

  return self
end
