-- Hand a flight back, for its current holder only: its process died, or shuts down before it has computed.
-- include: flight holder
--
-- Keeps: the next delivery can begin at once. Only the death of a process that computed nothing else counts against the
-- input; another makes it a suspect, which then runs alone.
-- Returns 1 handed back | 0 it is no longer this holder's
local flight_key, deaths_key = KEYS[1], KEYS[2]
local holder = ARGV[1]
local died = tonumber(ARGV[2])                           -- 0 nothing, 1 the process
local reason = ARGV[3]                                   -- how it died, for people
local deaths_ms = tonumber(ARGV[4])                      -- how long deaths are remembered

local flight = load_flight(flight_key)
if not flight or flight.holder ~= holder then return 0 end
hand_back(flight_key, deaths_key, flight, died, reason, deaths_ms)
return 1
