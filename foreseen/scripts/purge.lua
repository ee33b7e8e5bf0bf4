-- Replace the generation of one bucket: every entry in it is a miss from now on.
-- include: bucket
--
-- Keeps: no two runs make the same generation, not even when a call is sent twice: another purge may lie between the
-- two, and what it purged would be current again.
-- Returns the order of the purge
local generation_key, clock_key = KEYS[1], KEYS[2]
local nonce = ARGV[1]                                    -- 16 hex digits
local keep_ms = tonumber(ARGV[2])

local _, order = renew_generation(generation_key, clock_key, nonce, keep_ms, now_ms())
return order
