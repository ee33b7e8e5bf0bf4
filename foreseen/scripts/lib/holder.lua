-- Who runs a flight: what stands in for a delivery that meets him, and what happens once he is gone.

-- Of all deliveries that meet a live holder one makes the next copy; another that is known to be out stands for the rest.
-- A copy can be delivered before it is noted: it is known by its higher number.
local function has_copy_out(flight, delivery, number)
  local known = tonumber(flight.copies)
  return number < known or (number == known and known > 0 and flight.copy ~= delivery)
end

-- Take a flight from its holder, so that the next delivery begins at once. A death counts against the input only if that
-- was alone in what died: 0 nothing, 1 a process, 2 a worker. Another makes it a suspect, which then runs that alone.
local function hand_back(flight_key, deaths_key, flight, died, reason, keep_ms)
  redis.call('HSET', flight_key, 'state', 'queued', 'holder', '', 'lease', 0)
  if died == 0 then return end
  if tonumber(flight.alone or 0) >= died then
    redis.call('HINCRBY', deaths_key, 'count', 1)
    redis.call('HSET', deaths_key, 'last', reason)
    redis.call('PEXPIRE', deaths_key, keep_ms)
  else
    flight.suspect = math.max(died, tonumber(flight.suspect or 0))
    redis.call('HSET', flight_key, 'suspect', flight.suspect)
    if died == 2 then
      flight.suspected = flight.worker
      redis.call('HSET', flight_key, 'suspected', flight.worker)
    end
  end
end

local function is_heard(worker)
  return redis.call('PUBSUB', 'NUMSUB', worker)[2] > 0
end

-- How alone a flight is to be computed. A worker that is heard again was not dead: after a failover, or a restart of the
-- server, it had not subscribed anew yet. What a process died of before that does not show any more, so alone in one.
local function suspicion(flight)
  local suspect = tonumber(flight.suspect or 0)
  return suspect == 2 and flight.suspected and is_heard(flight.suspected) and 1 or suspect
end

-- Likewise from a holder that is silent. It is dead if its worker's connection is gone too, which the system closes for
-- it; one that was stopped, or whose model does not let go of the interpreter, still has it.
local function take_from_silent(flight_key, deaths_key, flight, keep_ms)
  local worker = flight.worker or ''
  local dead = worker ~= '' and not is_heard(worker)
  hand_back(flight_key, deaths_key, flight, dead and 2 or 0, 'its worker ended', keep_ms)
end
