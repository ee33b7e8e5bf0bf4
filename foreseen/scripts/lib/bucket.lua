-- A bucket: the slot that holds 1/256 of a model's entries and flights, with one generation and one counter.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The next number of the counter, which is never behind the clock: a replica that becomes master has not heard of the
-- last ones that the lost one gave out, and is not to give out those, or smaller ones, for what comes after them.
local function next_order(clock_key)
  local order, now = redis.call('HINCRBY', clock_key, 'order', 1), now_ms()
  if order < now then
    order = now
    redis.call('HSET', clock_key, 'order', now)
  end
  return order
end

-- A nonce that no two runs of a script draw, not even of one call sent twice: half of it is the order.
local function unique(fresh, order)
  return string.sub(fresh, 1, 4) .. struct.pack('>I4', order % 2 ^ 32)
end

-- Give the bucket a new generation, which purges it. Returns it, and the order of the purge.
local function renew_generation(generation_key, clock_key, fresh, keep_ms)
  local order = next_order(clock_key)
  local generation = unique(fresh, order)
  redis.call('HSET', clock_key, 'generation', generation, 'until', now_ms() + keep_ms)
  redis.call('PEXPIRE', clock_key, keep_ms)
  redis.call('SET', generation_key, generation, 'PX', keep_ms)
  return generation, order
end

-- The bucket's generation, given what its key holds. Generation and counter are lost together: if either is missing, both
-- are made anew, which purges the bucket.
local function generation_of(generation, generation_key, clock_key, fresh, keep_ms, now)
  local clock = generation and redis.call('HMGET', clock_key, 'generation', 'until')
  if clock and clock[1] == generation then
    if tonumber(clock[2] or 0) - now < keep_ms / 2 then
      redis.call('PEXPIRE', generation_key, keep_ms)
      redis.call('PEXPIRE', clock_key, keep_ms)
      redis.call('HSET', clock_key, 'until', now + keep_ms)
    end
    return generation
  end
  return (renew_generation(generation_key, clock_key, fresh, keep_ms))
end

-- Statistics: what a full server refuses of them stops nothing.
local function count(statistics_key, event, keep_ms, by)
  by = by or 1
  local first = redis.pcall('HINCRBY', statistics_key, event, by) == by
  if first and redis.call('TTL', statistics_key) == -1 then redis.call('PEXPIRE', statistics_key, keep_ms) end
end
