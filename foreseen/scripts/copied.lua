-- Remember which message now stands in for a delivery that met a live holder.
--
-- Keeps: it is called once that message is published, by token, since a late note would else stand for messages of a
-- successor; and only for a flight that answers to the message's own token, since the end mark of another would settle the
-- copy, and the delivery that had relied on it was acked. Of two with one number the first stays, since the second's own
-- delivery may have been settled by it.
-- Returns 1 noted | 0 that flight is over or replaced, or not the message's, or a copy as high is known
local flight_key = KEYS[1]
local token = ARGV[1]
local copy = ARGV[2]
local number = tonumber(ARGV[3])
local own = ARGV[4]                                      -- of the flight that the message was sent for

local known = redis.call('HMGET', flight_key, 'token', 'replaced')
if known[1] ~= token then return 0 end
if own ~= token and not string.find(known[2] or '', own, 1, true) then return 0 end
if number <= tonumber(redis.call('HGET', flight_key, 'copies') or 0) then return 0 end
redis.call('HSET', flight_key, 'copy', copy, 'copies', number)
return 1
