-- A bucket: the slot that holds 1/256 of a model's entries and flights, with one generation and one counter.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The next number of the counter, given the last. It is never behind the clock: a replica that becomes master has not
-- heard of the last ones that the lost one gave out, and is not to give out those, or smaller ones, for what comes after.
local function next_order(clock_key, last, now)
  local order = math.max(tonumber(last or 0) + 1, now)
  redis.call('HSET', clock_key, 'order', order)
  return order
end

-- Give the bucket a new generation, which purges it: half of it is of the caller's nonce, in hex digits, and half is the
-- order, so that no two runs make the same one, not even of one call sent twice. Returns it, and the order of the purge.
local function renew_generation(generation_key, clock_key, nonce, keep_ms, now)
  local drawn = tonumber(string.sub(nonce, 1, 8), 16)
  if not drawn then error({err = 'ERR a nonce is 16 hex digits'}) end
  local order = next_order(clock_key, redis.call('HGET', clock_key, 'order'), now)
  local generation = struct.pack('>I4I4', drawn, order % 2 ^ 32)
  redis.call('HSET', clock_key, 'generation', generation, 'until', now + keep_ms)
  redis.call('PEXPIRE', clock_key, keep_ms)
  redis.call('SET', generation_key, generation, 'PX', keep_ms)
  return generation, order
end

-- The bucket's generation, given what its key holds, and the last number of its counter. They are lost together: if
-- either is missing, both are made anew, which purges the bucket.
local function generation_of(generation, generation_key, clock_key, nonce, keep_ms, now)
  local clock = generation and redis.call('HMGET', clock_key, 'generation', 'until', 'order')
  if clock and clock[1] == generation then
    if tonumber(clock[2] or 0) - now < keep_ms / 2 then
      redis.call('PEXPIRE', generation_key, keep_ms)
      redis.call('PEXPIRE', clock_key, keep_ms)
      redis.call('HSET', clock_key, 'until', now + keep_ms)
    end
    return generation, clock[3]
  end
  return renew_generation(generation_key, clock_key, nonce, keep_ms, now)
end

-- Statistics: what a full server refuses of them stops nothing.
local function count(statistics_key, event, keep_ms, by)
  by = by or 1
  local first = redis.pcall('HINCRBY', statistics_key, event, by) == by
  if first and redis.call('TTL', statistics_key) == -1 then redis.call('PEXPIRE', statistics_key, keep_ms) end
end
