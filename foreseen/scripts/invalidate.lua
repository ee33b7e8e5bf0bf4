-- Forget the entry of one key, and let nothing that began before now become its entry.
-- include: bucket
--
-- Keeps: an invalidation wins over computations that began before it: the order mark outlives the longest of them, and
-- a running flight is left to those who joined it; the next submission opens a new one.
-- Returns 1 there was an entry | 0
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], invalidated = KEYS[5]}
local nonce = ARGV[1]                                    -- 16 hex digits
local keep_ms = tonumber(ARGV[2])
local fence_ms = tonumber(ARGV[3])                       -- longer than any computation takes

local now = now_ms()
local _, last = generation_of(redis.call('GET', keys.generation), keys.generation, keys.clock, nonce, keep_ms, now)
redis.call('SET', keys.invalidated, next_order(keys.clock, last, now), 'PX', fence_ms)
if redis.call('HGET', keys.flight, 'state') == 'running' then redis.call('HSET', keys.flight, 'generation', '') end
return redis.call('DEL', keys.entry)
