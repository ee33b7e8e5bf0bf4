-- What join and look share: follow a flight, or open one.
-- `call` is what the caller sent: token, inbox, serial, kind, waiter_ms, lease_ms, flight_ms, keep_ms, may_open,
-- priority, deadline_ms; join.lua says what each means.

-- Join a flight that stands, or renew the place in it.
-- Returns {1, led, publish, token, order, wait_ms, now_ms, deadline_ms, priority}
local function follow(keys, call, flight, now, led, publish)
  local deadline = call.deadline_ms > 0 and now + call.deadline_ms or 0
  local merged = later(tonumber(flight.deadline), deadline)
  local priority = math.max(tonumber(flight.priority), call.priority)
  if priority > tonumber(flight.priority) and not flight.running then
    publish = 1                                          -- a queued message's priority cannot change: send a second
  end
  if flight.sender == call.token and not flight.running then
    publish = 1                                          -- the reply to an earlier attempt of this very call was lost
  end
  redis.call('HSET', keys.flight, 'deadline', merged, 'priority', priority,
    'sender', publish == 1 and call.token or flight.sender or '')
  redis.call('PEXPIRE', keys.flight, call.flight_ms)
  add_joiner(keys.flight, call.kind, call.inbox, call.serial, call.kind == 'w' and now + call.waiter_ms or deadline)
  local wait = call.lease_ms
  if flight.running and flight.lease > now then
    wait = flight.lease - now
  elseif flight.running and call.may_open then
    wait = 1                                             -- to take it over; who cannot leaves that to others
  end
  return {1, led, publish, flight.token, flight.order, wait, now, merged, priority}
end

-- Open a flight, over the one there is, if there is one; the caller leads it.
local function lead(keys, call, generation, flight, now, deadline, priority)
  -- Not the call's own nonce: sent again after this flight has ended, the call would open another under its end mark.
  local order = next_order(keys.clock)
  local token = string.sub(call.token, 1, 8) .. string.format('%08x', order % 2 ^ 32)
  open_flight(keys.flight, flight, call.token, token, order, generation, now, deadline, priority, call.flight_ms)
end

-- Follow the flight of this generation, or open one and lead it.
local function enter(keys, call, generation, flight, now)
  if flight and flight.opener == call.token then
    return follow(keys, call, flight, now, 1, 1)         -- the reply to an earlier attempt of this very call was lost
  elseif flight and flight.generation == generation then
    count(keys.statistics, 'joined', call.keep_ms)
    return follow(keys, call, flight, now, 0, (call.kind == 'd' and flight.published == '0') and 1 or 0)
  end
  lead(keys, call, generation, flight, now, call.deadline_ms > 0 and now + call.deadline_ms or 0, call.priority)
  count(keys.statistics, 'opened', call.keep_ms)
  return follow(keys, call, load_flight(keys.flight), now, 1, 1)
end

-- Answer with an entry that is due to be refreshed. Whoever finds no flight opens one, which is wanted whether or not
-- anybody waits, and after all others; and one whose message seems lost is sent again, ever more rarely.
local function refresh(keys, call, generation, flight, now, stale, entry)
  if stale == 1 then count(keys.statistics, 'stale', call.keep_ms) end
  if not call.may_open then return {3, stale, entry} end
  if not flight or flight.generation ~= generation then
    lead(keys, call, generation, flight, now, 0, 0)
    redis.call('HSET', keys.flight, 'd:', '0:0')
    count(keys.statistics, 'refreshed', call.keep_ms)
  elseif not flight.running and now - tonumber(flight.sent) >= call.lease_ms * 2 ^ tonumber(flight.probes) then
    redis.call('HSET', keys.flight, 'sent', now, 'probes', tonumber(flight.probes) + 1, 'sender', call.token)
  elseif flight.opener ~= call.token and flight.sender ~= call.token then   -- else the reply to this call was lost
    return {3, stale, entry}
  end
  flight = load_flight(keys.flight)
  return {3, stale, entry, 1, 1, 1, flight.token, flight.order, 0, now, tonumber(flight.deadline), tonumber(flight.priority)}
end
