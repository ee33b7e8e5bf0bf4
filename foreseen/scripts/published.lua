-- Note that a message for this flight is in the broker. By token: by key alone it could mark a successor.
--
-- Returns 1 noted | 0 that flight is over or replaced
local flight_key = KEYS[1]
local token = ARGV[1]

if redis.call('HGET', flight_key, 'token') ~= token then return 0 end
redis.call('HSET', flight_key, 'published', '1')
return 1
