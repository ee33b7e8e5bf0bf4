-- Extend the lease of a running flight, for its current holder only.
--
-- Returns 1 renewed | 0 it is no longer this holder's
local flight_key = KEYS[1]
local holder = ARGV[1]
local lease_ms = tonumber(ARGV[2])
local flight_ms = tonumber(ARGV[3])
local waits = ARGV[4] == '1'                             -- it only waits: should it die, that is nobody's fault

if redis.call('HGET', flight_key, 'holder') ~= holder then return 0 end
local time = redis.call('TIME')
redis.call('HSET', flight_key, 'lease', time[1] * 1000 + math.floor(time[2] / 1000) + lease_ms)
if waits then redis.call('HSET', flight_key, 'worker', '') end
redis.call('PEXPIRE', flight_key, flight_ms)
return 1
