-- Tell a running computation whether anybody wants its outcome; changes nothing.
-- include: bucket flight
--
-- Returns 1 somebody does, or nothing is known of its flight | 0 nobody does, or somebody else computes it now
local flight_key = KEYS[1]
local holder = ARGV[1]

local flight = load_flight(flight_key)
if not flight then return 1 end
if flight.holder ~= holder then return 0 end
return is_wanted(flight, now_ms()) and 1 or 0
