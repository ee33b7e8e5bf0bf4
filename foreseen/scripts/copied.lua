-- Remember which message now stands in for a delivery that met a live holder. Called once that message is published.
--
-- Keeps: of all deliveries that meet a live holder only the latest copy makes another one.
-- Returns 1 | 0 there is no flight any more
local flight_key = KEYS[1]
local copy = ARGV[1]

if redis.call('EXISTS', flight_key) == 0 then return 0 end
redis.call('HSET', flight_key, 'copy', copy)
return 1
