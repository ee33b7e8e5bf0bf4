-- Look again, for a submission that joined and has heard nothing: the outcome, or the entry, or join once more.
-- include: bucket entry flight opening holder joining
--
-- Keeps: a waiter that still waits counts; a dead holder's flight is taken over; a lost message is sent again, but a
-- long queue never multiplies its own: only when the queue has passed it, or nothing begins, and ever more rarely.
-- Returns what join returns; the entry may be an outcome that is not kept
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5],
  outcomes = KEYS[6], deaths = KEYS[7]}
local not_before = tonumber(ARGV[1])                     -- an entry must be of this order or later; 0 = any
local may_open = ARGV[2] == '1'
local keep_ms = tonumber(ARGV[3])
local call = {
  token = ARGV[4], inbox = ARGV[5], serial = tonumber(ARGV[6]), kind = ARGV[7], waiter_ms = tonumber(ARGV[8]),
  lease_ms = tonumber(ARGV[9]), flight_ms = tonumber(ARGV[10]), keep_ms = keep_ms, may_open = may_open,
  priority = tonumber(ARGV[11]), deadline_ms = tonumber(ARGV[12]), bare = ARGV[13] == '1',
}
local tokens = ARGV[14]                                  -- of the flights joined so far, comma-separated
local passed = tonumber(ARGV[15])                        -- queue's watermark: sending time of what began last (ms)
local began = tonumber(ARGV[16])                         -- when something last began there (ms)
local deaths_ms = tonumber(ARGV[17])                     -- how long deaths are remembered

for token in string.gmatch(tokens, '[^,]+') do
  local kept = redis.call('HGET', keys.outcomes, token)
  if kept then return string.sub(kept, (string.find(kept, ':', 1, true)) + 1) end
end

local now = now_ms()
local found = redis.call('MGET', keys.generation, keys.entry)
local generation, last = generation_of(found[1], keys.generation, keys.clock, call.token, keep_ms, now)
local entry = found[2]
local order = order_of(entry, generation)
if order and order >= not_before then return entry end

local flight = load_flight(keys.flight)
if not may_open then
  if not flight then return {2} end
  return follow(keys, call, flight, now, 0, 0)
end
local joined = flight and string.find(',' .. tokens .. ',', ',' .. flight.token .. ',', 1, true)
if not flight or not (joined or flight.generation == generation) then
  return enter(keys, call, generation, last, flight, now)
end

if flight.running then
  if flight.lease > now then return follow(keys, call, flight, now, 0, 0) end
  -- The holder is dead, or as good as dead: take over.
  take_from_silent(keys.flight, keys.deaths, flight, deaths_ms)
  redis.call('HSET', keys.flight, 'published', '0', 'sent', now)
  count(keys.statistics, 'lapsed', keep_ms)
  return follow(keys, call, load_flight(keys.flight), now, 0, 1)
end
local sent, probes = tonumber(flight.sent), tonumber(flight.probes)
local lost = passed > sent + call.lease_ms
if lost or now - math.max(sent, began) >= call.lease_ms * 2 ^ probes then
  redis.call('HSET', keys.flight, 'sent', now, 'probes', lost and probes or probes + 1)
  return follow(keys, call, flight, now, 0, 1)
end
return follow(keys, call, flight, now, 0, 0)
