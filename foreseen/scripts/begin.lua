-- Take a flight to compute it, or learn why not.
-- include: bucket entry flight opening holder ending
--
-- Keeps: one live holder per key and generation; what is done, unwanted or ended is not computed; an evicted flight is
-- opened again from its message.
-- Returns {0} settled: ack | {1, token, generation, order, deadline_left_ms} run; 0 = no deadline
--   | {2, lease_left_ms, token} a live holder runs it: send a copy due then, and ack | {3, token, generation, order} its
--   deadline passed | {4, token, generation, order, deaths, how the last came} tried too often | {5} run it in a message
--   alone | {6} run it alone in its worker
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5],
  outcomes = KEYS[6], ends = KEYS[7], deaths = KEYS[8]}
local key_text = ARGV[1]
local token = ARGV[2]                                    -- the flight that the message was sent for
local opened = tonumber(ARGV[3])                         -- order of that flight's opening
local deadline = tonumber(ARGV[4])                       -- as the message knows it (ms); 0 = none
local priority = tonumber(ARGV[5])
local holder = ARGV[6]                                   -- nonce of this run
local delivery = ARGV[7]                                 -- id of the message
local alone = tonumber(ARGV[8])                          -- 1: the only item of its message; 2: and of its worker
local lease_ms = tonumber(ARGV[9])
local flight_ms = tonumber(ARGV[10])
local keep_ms = tonumber(ARGV[11])
local mark_ms = tonumber(ARGV[12])                       -- how long an end mark stands
local push_limit = tonumber(ARGV[13])                    -- bytes
local max_attempts = tonumber(ARGV[14])
local copies = tonumber(ARGV[15])                        -- number of the message among its copies; 0 = the first
local worker = ARGV[16]                                  -- channel that the holder's worker listens to while it lives

local now = now_ms()
local found = redis.call('MGET', keys.generation, keys.entry)
local generation, last = generation_of(found[1], keys.generation, keys.clock, holder, keep_ms, now)
local flight = load_flight(keys.flight)
local is_marked = redis.call('EXISTS', keys.ends, keys.deaths) > 0   -- mostly neither is there, which one look tells

local function is_late()
  local latest = tonumber(flight.deadline)
  return latest > 0 and latest <= now
end

-- The reply for who holds the flight now.
local function verdict(flight_token, read, begun)
  if is_late() then return {3, flight_token, read, begun} end
  local deaths = is_marked and redis.call('HMGET', keys.deaths, 'count', 'last') or {}
  local count = tonumber(deaths[1] or 0)
  if count >= max_attempts then return {4, flight_token, read, begun, count, deaths[2]} end
  local latest = tonumber(flight.deadline)
  return {1, flight_token, read, begun, latest > 0 and latest - now or 0}
end

local live = flight and flight.running and flight.lease > now
if live and flight.holder == holder then                 -- the reply to this very call was lost
  local read = flight.generation ~= '' and flight.generation or string.rep('\0', 8)   -- invalidated since: matches none
  return verdict(flight.token, read, tonumber(flight.begun))
end

local mark = is_marked and redis.call('HGET', keys.ends, token)
if mark and tonumber(string.match(mark, '^%d+')) > now then return {0} end
local entry = found[2]
local order = order_of(entry, generation)
if order and order >= opened then
  if flight and not flight.running and flight.generation == generation and flight.order <= order then
    push(flight, key_text, entry, push_limit)
    redis.call('DEL', keys.flight)
  end
  return {0}
end
if live then
  if has_copy_out(flight, delivery, copies) then return {0} end
  return {2, flight.lease - now, flight.token}
end
if flight and not is_late() and not is_wanted(flight, now) then   -- who is late is told so
  leave_end_marks(keys.ends, flight, now, mark_ms)
  redis.call('DEL', keys.flight)
  count(keys.statistics, 'unwanted', keep_ms)
  if string.find(tokens_of(flight), token, 1, true) then return {0} end
  flight = nil                                           -- the message was sent for another one, which was evicted
end
if not flight then
  -- For whoever submitted it, detached, and nobody knows whether by the bare name; nobody to push to.
  flight = open_flight(keys.flight, nil, '', token, opened, generation, now, deadline, priority, flight_ms, true, 'd:', '0:0')
end
if flight.running then                                   -- its holder is silent
  take_from_silent(keys.flight, keys.deaths, flight, mark_ms)
  count(keys.statistics, 'lapsed', keep_ms)
  is_marked = true                                       -- it may have died of it just now
end
if alone < suspicion(flight) then return {5 + alone} end

local reply = verdict(flight.token, generation, next_order(keys.clock, last, now))
if reply[1] == 1 then count(keys.statistics, 'begun', keep_ms) end
-- Whoever asks once a flight was found late opens another one: that failure is not theirs. Its expiry is as its opening,
-- or whoever joined last, has set it: the holder renews it with its lease.
redis.call('HSET', keys.flight, 'state', 'running', 'holder', holder, 'begun', reply[4], 'lease', now + lease_ms,
  'generation', reply[1] == 3 and '' or generation, 'published', '1', 'alone', alone, 'worker', worker)
return reply
