-- Take a flight to compute it, or learn why not.
-- include: bucket entry flight
--
-- Keeps: one live holder per key and generation; what is done, unwanted or ended is not computed; an evicted flight is
-- opened again from its message.
-- Returns {0} settled: ack | {1, token, generation, order} run | {2, lease_left_ms, token} a live holder runs it: send a copy
--   due then, and ack | {3, …as 1} its deadline passed | {4, …as 1} tried too often | {5} run it in a message alone
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5],
  outcomes = KEYS[6], ends = KEYS[7], attempts = KEYS[8]}
local fresh = ARGV[1]
local key_text = ARGV[2]
local token = ARGV[3]                                    -- the flight that the message was sent for
local opened = tonumber(ARGV[4])                         -- order of that flight's opening
local deadline = tonumber(ARGV[5])                       -- as the message knows it (ms); 0 = none
local priority = tonumber(ARGV[6])
local holder = ARGV[7]                                   -- nonce of this run
local delivery = ARGV[8]                                 -- id of the message
local alone = ARGV[9] == '1'                             -- it is the only item of its message
local lease_ms = tonumber(ARGV[10])
local flight_ms = tonumber(ARGV[11])
local keep_ms = tonumber(ARGV[12])
local mark_ms = tonumber(ARGV[13])                       -- how long an end mark stands
local push_limit = tonumber(ARGV[14])                    -- bytes
local max_attempts = tonumber(ARGV[15])
local copies = tonumber(ARGV[16])                        -- number of the message among its copies; 0 = the first

local now = now_ms()
local generation = generation_of(keys.generation, keys.clock, fresh, keep_ms)
local flight = load_flight(keys.flight)

local function is_late()
  local latest = tonumber(flight.deadline)
  return latest > 0 and latest <= now
end

local function code()
  if is_late() then return 3 end
  return tonumber(redis.call('GET', keys.attempts) or 0) >= max_attempts and 4 or 1
end

local live = flight and flight.running and flight.lease > now
if live and flight.holder == holder then                 -- the reply to this very call was lost
  local read = flight.generation ~= '' and flight.generation or string.rep('\0', 8)   -- invalidated since: matches none
  return {code(), flight.token, read, tonumber(flight.begun)}
end

local mark = redis.call('HGET', keys.ends, token)
if mark and tonumber(string.match(mark, '^%d+')) > now then return {0} end
local entry = redis.call('GET', keys.entry)
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
  open_flight(keys.flight, nil, '', token, opened, generation, now, deadline, priority, flight_ms)
  redis.call('HSET', keys.flight, 'd:', '0:0')           -- for whoever submitted it, detached; nobody to push to
  flight = load_flight(keys.flight)
end
if flight.suspect and not alone then return {5} end

local verdict = code()
if verdict == 1 then count(keys.statistics, 'begun', keep_ms) end
local begun = next_order(keys.clock)
-- Whoever asks once a flight was found late opens another one: that failure is not theirs.
redis.call('HSET', keys.flight, 'state', 'running', 'holder', holder, 'begun', begun, 'lease', now + lease_ms,
  'generation', verdict == 3 and '' or generation, 'published', '1')
redis.call('PEXPIRE', keys.flight, flight_ms)
return {verdict, flight.token, generation, begun}
