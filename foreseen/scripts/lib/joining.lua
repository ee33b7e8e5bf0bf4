-- What join and look share: follow a flight, or open one.
-- `call` is what the caller sent: token, inbox, serial, kind, waiter_ms, lease_ms, flight_ms, keep_ms, may_open,
-- priority, deadline_ms, bare; join.lua says what each means.

-- What a caller is told of the flight that he is in.
-- Returns {1, led, publish, token, order, wait_ms, now_ms, deadline_ms, priority}
local function told(flight, led, publish, wait, now)
  return {1, led, publish, flight.token, flight.order, wait, now, tonumber(flight.deadline), tonumber(flight.priority)}
end

-- Join a flight that stands, or renew the place in it.
local function follow(keys, call, flight, now, led, publish)
  local deadline = call.deadline_ms > 0 and now + call.deadline_ms or 0
  local priority = math.max(tonumber(flight.priority), call.priority)
  if priority > tonumber(flight.priority) and not flight.running then
    publish = 1                                          -- a queued message's priority cannot change: send a second
  end
  if flight.sender == call.token and not flight.running then
    publish = 1                                          -- the reply to an earlier attempt of this very call was lost
  end
  local field, value = joiner_of(flight, call.kind, call.inbox, call.serial, call.kind == 'w' and now + call.waiter_ms or deadline)
  flight.deadline, flight.priority = later(tonumber(flight.deadline), deadline), priority
  redis.call('HSET', keys.flight, 'deadline', flight.deadline, 'priority', priority,
    'sender', publish == 1 and call.token or flight.sender or '', field, value)
  if call.bare and flight.bare ~= '1' then redis.call('HSET', keys.flight, 'bare', '1') end
  redis.call('PEXPIRE', keys.flight, call.flight_ms)
  local wait = call.lease_ms
  if flight.running and flight.lease > now then
    wait = flight.lease - now
  elseif flight.running and call.may_open then
    wait = 1                                             -- to take it over; who cannot leaves that to others
  end
  return told(flight, led, publish, wait, now)
end

-- Open a flight, over the one there is, if there is one; the caller leads it.
local function lead(keys, call, generation, last, flight, now, deadline, priority, bare, field, value)
  -- Not the call's own nonce: sent again after this flight has ended, the call would open another under its end mark.
  local order = next_order(keys.clock, last, now)
  local token = string.sub(call.token, 1, 8) .. string.format('%08x', order % 2 ^ 32)
  flight = open_flight(keys.flight, flight, call.token, token, order, generation, now, deadline, priority, call.flight_ms, bare,
    field, value)
  return told(flight, 1, 1, call.lease_ms, now)
end

-- Follow the flight of this generation, or open one and lead it.
local function enter(keys, call, generation, last, flight, now)
  if flight and flight.opener == call.token then
    return follow(keys, call, flight, now, 1, 1)         -- the reply to an earlier attempt of this very call was lost
  elseif flight and flight.generation == generation then
    count(keys.statistics, 'joined', call.keep_ms)
    return follow(keys, call, flight, now, 0, (call.kind == 'd' and flight.published == '0') and 1 or 0)
  end
  local deadline = call.deadline_ms > 0 and now + call.deadline_ms or 0
  count(keys.statistics, 'opened', call.keep_ms)
  return lead(keys, call, generation, last, flight, now, deadline, call.priority, call.bare,
    joiner_of(flight, call.kind, call.inbox, call.serial, call.kind == 'w' and now + call.waiter_ms or deadline))
end

-- Answer with an entry that is due to be refreshed. Whoever finds no flight opens one, which is wanted whether or not
-- anybody waits, and after all others; and one whose message seems lost is sent again, ever more rarely.
local function refresh(keys, call, generation, last, flight, now, stale, entry)
  if stale == 1 then count(keys.statistics, 'stale', call.keep_ms) end
  if not call.may_open then return {3, stale, entry} end
  local reply
  if not flight or flight.generation ~= generation then
    count(keys.statistics, 'refreshed', call.keep_ms)
    reply = lead(keys, call, generation, last, flight, now, 0, 0, false, 'd:', '0:0')
  elseif not flight.running and now - tonumber(flight.sent) >= call.lease_ms * 2 ^ tonumber(flight.probes) then
    redis.call('HSET', keys.flight, 'sent', now, 'probes', tonumber(flight.probes) + 1, 'sender', call.token)
    reply = told(flight, 1, 1, call.lease_ms, now)
  elseif flight.opener == call.token or flight.sender == call.token then   -- the reply to this very call was lost
    reply = told(flight, 1, 1, call.lease_ms, now)
  else
    return {3, stale, entry}
  end
  return {3, stale, entry, unpack(reply)}
end
