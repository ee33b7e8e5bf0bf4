-- Read the current entry of a key; changes nothing.
-- include: entry
--
-- Returns the entry | false
local generation_key, entry_key = KEYS[1], KEYS[2]

local entry = redis.call('GET', entry_key)
local generation = entry and redis.call('GET', generation_key)
if generation and order_of(entry, generation) then return entry end
return false
