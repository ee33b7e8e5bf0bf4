-- Hand a flight back, for its current holder only: its process died, or shuts down before it has computed.
--
-- Keeps: the next delivery can begin at once. Only a death while computed alone counts as an attempt; one in company
-- makes the item a suspect, which then runs alone.
-- Returns 1 handed back | 0 it is no longer this holder's
local flight_key, attempts_key = KEYS[1], KEYS[2]
local holder = ARGV[1]
local died = ARGV[2] == '1'
local alone = ARGV[3] == '1'
local attempts_ms = tonumber(ARGV[4])                    -- how long the counter is kept

if redis.call('HGET', flight_key, 'holder') ~= holder then return 0 end
redis.call('HSET', flight_key, 'state', 'queued', 'holder', '', 'lease', 0)
if died and alone then
  redis.call('INCR', attempts_key)
  redis.call('PEXPIRE', attempts_key, attempts_ms)
elseif died then
  redis.call('HSET', flight_key, 'suspect', '1')
end
return 1
