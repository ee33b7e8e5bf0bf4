-- Take a joiner out of a flight, and end the flight if nobody wants it any more and nobody runs it.
-- include: bucket flight ending
--
-- Keeps: a leave undoes the join it names and none that came later; nobody else's flight is ended. What runs goes on in
-- any case: whoever asks meanwhile joins it, and would else have it computed twice at once.
-- Returns 1 the flight was ended | 0
local keys = {flight = KEYS[1], ends = KEYS[2], statistics = KEYS[3]}
local inbox = ARGV[1]
local serial = tonumber(ARGV[2])                         -- of the latest join that this undoes
local kind = ARGV[3]
local mark_ms = tonumber(ARGV[4])
local keep_ms = tonumber(ARGV[5])

local field = kind .. ':' .. inbox
local flight = load_flight(keys.flight)
local stands = flight and flight[field]
if not stands or tonumber(string.match(stands, '^%d+')) > serial then return 0 end
redis.call('HDEL', keys.flight, field)
flight[field] = nil
local now = now_ms()
if is_wanted(flight, now) or (flight.running and flight.lease > now) then return 0 end
leave_end_marks(keys.ends, flight, now, mark_ms)
redis.call('DEL', keys.flight)
count(keys.statistics, 'unwanted', keep_ms)
return 1
