-- Make a version of a model the one that its bare name means, and remember the one that it was.
--
-- Keeps: promoted twice, a version does not become its own predecessor, so that there is a way back.
-- Returns the version that was current | false
local current_key, previous_key = KEYS[1], KEYS[2]
local version = ARGV[1]
local keep_ms = tonumber(ARGV[2])

local was = redis.call('GET', current_key)
redis.call('SET', current_key, version, 'PX', keep_ms)
if was and was ~= version then redis.call('SET', previous_key, was, 'PX', keep_ms) end
return was
