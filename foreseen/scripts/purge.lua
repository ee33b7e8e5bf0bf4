-- Replace the generation of one bucket: every entry in it is a miss from now on.
-- include: bucket
--
-- Keeps: no two runs make the same generation, not even when a call is sent twice: another purge may lie between the
-- two, and what it purged would be current again.
-- Returns the order of the purge
local generation_key, clock_key = KEYS[1], KEYS[2]
local fresh = ARGV[1]
local keep_ms = tonumber(ARGV[2])

local _, order = renew_generation(generation_key, clock_key, fresh, keep_ms)
return order
