-- Remember which message now stands in for a delivery that met a live holder.
--
-- Keeps: it is called once that message is published, by token, since a late note would else stand for messages of a
-- successor; of two with one number the first stays, since the second's own delivery may have been settled by it.
-- Returns 1 noted | 0 that flight is over or replaced, or a copy as high is known
local flight_key = KEYS[1]
local token = ARGV[1]
local copy = ARGV[2]
local number = tonumber(ARGV[3])

if redis.call('HGET', flight_key, 'token') ~= token then return 0 end
if number <= tonumber(redis.call('HGET', flight_key, 'copies')) then return 0 end
redis.call('HSET', flight_key, 'copy', copy, 'copies', number)
return 1
