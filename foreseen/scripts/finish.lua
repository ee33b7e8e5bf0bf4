-- Keep an outcome, tell everyone who joined, end the flight; or learn that it no longer counts.
-- include: bucket entry flight holder ending
--
-- Keeps: a success counts under any holder, if its computation began in this generation and not before the flight was
-- opened or the key invalidated; the first one wins. A failure, or an outdated success, counts only under the current
-- holder. What the server refuses to store is still told.
-- Returns {0} settled, nothing changed: ack | {1} kept | {2} told, not kept
--   | {3, lease_left_ms, token} another holder runs it: send a copy due then, and ack | {4} send the message again, and ack
--   | {5} somebody asked by the bare name, and `named` is told to nobody else: nothing changed
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5],
  outcomes = KEYS[6], ends = KEYS[7], deaths = KEYS[8], invalidated = KEYS[9]}
local key_text = ARGV[1]
local kind = ARGV[2]                                     -- 'R' result, 'F' failure
local holder = ARGV[3]
local generation_then = ARGV[4]                          -- what begin read
local begun = tonumber(ARGV[5])
local body = ARGV[6]                                     -- checksum and payload
local fresh_ms = tonumber(ARGV[7])                       -- 0: not kept
local cost_us = tonumber(ARGV[8])                        -- of the computation, per item
local delivery = ARGV[9]
local mark_ms = tonumber(ARGV[10])
local outcome_ms = tonumber(ARGV[11])                    -- how long an outcome that is not kept stays readable
local push_limit = tonumber(ARGV[12])
local keep_ms = tonumber(ARGV[13])
local copies = tonumber(ARGV[15])                        -- number of the message among its copies; 0 = the first
local token = ARGV[14]                                   -- of the flight that begin took
local stale_ms = tonumber(ARGV[16])                      -- how long it answers past its fresh life, while it is refreshed
local early_ms = tonumber(ARGV[17])                      -- how early it is refreshed, on the scale of the XFetch rule
local codec = tonumber(ARGV[18])                         -- of the payload
local named = ARGV[19] == '1'                            -- only for those who named the version
local expiry_ms = fresh_ms > 0 and fresh_ms + stale_ms or 0

local now = now_ms()
local flight = load_flight(keys.flight)
local found = redis.call('MGET', keys.generation, keys.invalidated, keys.entry)
local generation, fence, current = found[1], tonumber(found[2] or 0), found[3]
if not order_of(current, generation) then current = nil end
local holds = flight and flight.holder == holder
local valid = generation == generation_then and begun >= fence
  and not (holds and flight.generation ~= generation_then)   -- invalidated; the mark may have been evicted
local success = kind == 'R'
local entry = pack_entry(kind, codec, generation_then, begun, now, fresh_ms, stale_ms, early_ms, cost_us, body)

local function store()
  if expiry_ms <= 0 then return false end
  local reply = redis.pcall('SET', keys.entry, entry, 'PX', expiry_ms)
  if reply.err then count(keys.statistics, 'refused', keep_ms) end
  return not reply.err
end

local function count_outcome()
  count(keys.statistics, success and 'computed' or 'failed', keep_ms)
  count(keys.statistics, 'spent_us', keep_ms, cost_us)
  if success and fresh_ms <= 0 then count(keys.statistics, 'unkept', keep_ms) end
end

local counts = success and valid and (not flight or begun >= flight.order)
if named and holds and flight.bare == '1' then return {5} end
if counts and not flight then
  if current and is_result(current) then return {0} end
  if not store() then return {0} end
  count_outcome()
  return {1}
elseif counts or holds then
  local kept = valid and (success or not (current and is_result(current))) and store()
  redis.call('DEL', keys.flight, success and keys.deaths or keys.flight)   -- first: at the memory limit it frees some
  -- An entry that ends before a waiter looks again tells him nothing, should his push be lost.
  if not kept or expiry_ms < outcome_ms then keep_outcome(keys.outcomes, flight, entry, now, outcome_ms) end
  if not kept or expiry_ms < mark_ms then leave_end_marks(keys.ends, flight, now, mark_ms) end
  if not success and current and is_result(current) and is_refreshed(current) then
    -- A refresh that fails leaves the good entry, and the next is not tried at once; SETRANGE keeps its expiry.
    redis.pcall('SETRANGE', keys.entry, HELD_UNTIL, struct.pack('>I8', now + fresh_ms))
  end
  push(flight, key_text, entry, push_limit)
  count_outcome()
  return {kept and 1 or 2}
elseif not flight then
  -- Ended, which left a mark or an entry; or lost with the cache's data, and then it is still owed to who submitted it.
  if current or redis.call('HEXISTS', keys.ends, token) == 1 then return {0} end
  return {4}
elseif flight.running and flight.lease > now then
  if has_copy_out(flight, delivery, copies) then return {0} end
  return {3, flight.lease - now, flight.token}
elseif flight.running or flight.published == '0' then
  return {4}
end
return {0}
