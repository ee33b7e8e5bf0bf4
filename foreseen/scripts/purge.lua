-- Replace the generation of one bucket: every entry in it is a miss from now on.
-- include: bucket
--
-- Returns the order of the purge
local generation_key, clock_key = KEYS[1], KEYS[2]
local fresh = ARGV[1]
local keep_ms = tonumber(ARGV[2])

generation_of(generation_key, clock_key, fresh, keep_ms)
redis.call('HSET', clock_key, 'generation', fresh)
redis.call('SET', generation_key, fresh, 'PX', keep_ms)
return next_order(clock_key)
