-- Answer from the entry, or join the flight of a key, or open one: the first step of every submission.
--
-- Keeps: at most one flight per key and generation; whoever joins it is in its joiners before anybody can end it.
-- Returns the entry | {1, led, publish, token, order, wait_ms, now_ms, deadline_ms, priority} | {2} nothing is known
if ARGV[1] == '0' then                                   -- a hit, which is most calls, comes before all definitions
  local found = redis.call('MGET', KEYS[1], KEYS[3])     -- generation and entry
  local entry = found[2]
  if entry and found[1] and string.byte(entry) == 1 and string.sub(entry, 4, 11) == found[1] then return entry end
end

-- include: bucket flight joining
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5]}
                                                         -- ARGV[1], above: 1 = compute anew even if there is an entry
local fresh = ARGV[2]                                    -- nonce of a new generation, should there be none
local may_open = ARGV[3] == '1'                          -- 0: attach to what is there, never enqueue
local keep_ms = tonumber(ARGV[4])                        -- how long bucket keys are kept
local call = {
  token = ARGV[5],                                       -- of the flight, if this call opens one
  inbox = ARGV[6], serial = tonumber(ARGV[7]), kind = ARGV[8],
  waiter_ms = tonumber(ARGV[9]),                         -- how long a waiter counts without a sign of life
  lease_ms = tonumber(ARGV[10]), flight_ms = tonumber(ARGV[11]), keep_ms = keep_ms, may_open = may_open,
  priority = tonumber(ARGV[12]), deadline_ms = tonumber(ARGV[13]),   -- deadline from now; 0 = none
}
local generation = generation_of(keys.generation, keys.clock, fresh, keep_ms)
local flight = load_flight(keys.flight)
if not may_open and not (flight and flight.generation == generation) then return {2} end
return enter(keys, call, generation, flight, now_ms())
