-- Answer from the entry, or join the flight of a key, or open one: the first step of every submission.
--
-- Keeps: at most one flight per key and generation; whoever joins it is in its joiners before anybody can end it; an
-- entry that is due to be refreshed answers all the same, and of all who meet it one sends the message.
-- Returns the entry | {1, led, publish, token, order, wait_ms, now_ms, deadline_ms, priority} | {2} nothing is known
--   | {3, stale, entry} | {3, stale, entry, what {1, …} returns} the caller is to send a message for its refresh
local found = redis.call('MGET', KEYS[1], KEYS[3])       -- generation and entry
local due, stale                                         -- an entry that is to be refreshed; it is past its fresh life
if ARGV[1] == '0' then                                   -- a hit, which is most calls, comes before all definitions
  local entry = found[2]
  if entry and found[1] and string.sub(entry, 4, 11) == found[1] then
    local layout = string.byte(entry)
    if layout == 1 then return entry end
    if layout == 2 and #entry > 51 then
      local time = redis.call('TIME')
      local now = time[1] * 1000 + math.floor(time[2] / 1000)
      local fresh_until, _, early_ms, held_until = struct.unpack('>I8I4I4I8', entry, 28)
      stale = now >= fresh_until and 1 or 0
      -- XFetch (Vattani, Chierichetti, Lowenstein, VLDB 2015); scripts draw no random numbers of their own.
      local drawn = (tonumber(string.sub(ARGV[4], 1, 8), 16) + 1) / 2 ^ 32
      if now < held_until or (stale == 0 and now - early_ms * math.log(drawn) < fresh_until) then
        if stale == 0 then return entry end
        return {3, stale, entry}
      end
      due = entry
    end
  end
end

-- include: bucket flight opening joining
local keys = {generation = KEYS[1], clock = KEYS[2], entry = KEYS[3], flight = KEYS[4], statistics = KEYS[5]}
                                                         -- ARGV[1], above: 1 = compute anew even if there is an entry
local may_open = ARGV[2] == '1'                          -- 0: attach to what is there, never enqueue
local keep_ms = tonumber(ARGV[3])                        -- how long bucket keys are kept
local call = {
  token = ARGV[4],                                       -- of the flight, if this call opens one, and of what else it makes
  inbox = ARGV[5], serial = tonumber(ARGV[6]), kind = ARGV[7],
  waiter_ms = tonumber(ARGV[8]),                         -- how long a waiter counts without a sign of life
  lease_ms = tonumber(ARGV[9]), flight_ms = tonumber(ARGV[10]), keep_ms = keep_ms, may_open = may_open,
  priority = tonumber(ARGV[11]), deadline_ms = tonumber(ARGV[12]),   -- deadline from now; 0 = none
  bare = ARGV[13] == '1',                                -- detached, and asked by the model's bare name
}
local now = now_ms()
local generation, last = generation_of(found[1], keys.generation, keys.clock, call.token, keep_ms, now)
local flight = load_flight(keys.flight)
-- Of another release's layout, or torn: of this generation, and yet no entry. It counts once, by who asks first.
if ARGV[1] == '0' and found[2] and not due and string.sub(found[2], 4, 11) == generation then
  count(keys.statistics, 'unreadable', keep_ms)
end
if due then return refresh(keys, call, generation, last, flight, now, stale, due) end
if not may_open and not (flight and flight.generation == generation) then return {2} end
return enter(keys, call, generation, last, flight, now)
