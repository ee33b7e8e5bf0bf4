-- A flight: one computation of a key under way, as a hash.
--   layout      of this hash
--   token       names the flight;  replaced: tokens of flights it was opened over, comma-separated
--   state       'queued' or 'running'
--   generation  it was opened in, or that its begin read; '' once the key was invalidated under a running holder
--   order       of its opening;  begun: order of its latest begin
--   holder      nonce of who runs it, '' while queued;  lease: when that holder counts as dead (ms)
--   published   '1' once a message for this token is known to be in the broker;  sent: when one was last sent (ms)
--   probes      how often a sweep sent it again
--   opener      nonce of the call that opened it; sender: of the one that was last told to send a message. Sent twice,
--               they are told the same twice
--   copy        id of the latest message known to stand in for a delivery that met a live holder
--   copies      its number: each copy is one higher than the delivery that it stands in for
--   deadline    latest of its joiners (ms), 0 = none;  priority: highest of its joiners
--   alone       how alone its holder computes it: 0 in a batch, 1 alone in its process, 2 alone in its worker
--   worker      channel that the holder's worker listens to for as long as it lives; '' if that is not known
--   suspect     how alone it is to be computed, since it was in a batch whose process died (1), or in a worker that died (2)
--   w:<inbox>   a waiter: '<serial>:<ms until which it counts>'
--   d:<inbox>   detached: '<serial>:<its deadline in ms, 0 = none>'

local FLIGHT_LAYOUT = '1'

-- Two releases that run side by side leave each other's flights alone, unless one speaks the other's layout.
local function load_flight(flight_key)
  local flat = redis.call('HGETALL', flight_key)
  if #flat == 0 then return nil end
  local flight = {}
  for i = 1, #flat, 2 do flight[flat[i]] = flat[i + 1] end
  if flight.layout ~= FLIGHT_LAYOUT then error({err = 'LAYOUT ' .. tostring(flight.layout)}) end
  flight.order = tonumber(flight.order)
  flight.lease = tonumber(flight.lease)
  flight.running = flight.state == 'running'
  return flight
end

local function each_joiner(flight, visit)
  for field, value in pairs(flight) do
    local kind = string.match(field, '^([wd]):')
    if kind then
      local serial, stamp = string.match(value, '^(%d+):(%d+)$')
      visit(kind, string.sub(field, 3), tonumber(serial), tonumber(stamp), field)
    end
  end
end

-- Somebody wants it: a waiter that has not lapsed, or a detached submission whose deadline has not passed.
local function is_wanted(flight, now)
  local wanted = false
  each_joiner(flight, function(kind, _, _, stamp)
    if stamp > now or (kind == 'd' and stamp == 0) then wanted = true end
  end)
  return wanted
end

local function tokens_of(flight)
  if flight.replaced == '' then return flight.token end
  return flight.token .. ',' .. flight.replaced
end

-- Of all deliveries that meet a live holder one makes the next copy; another that is known to be out stands for the rest.
-- A copy can be delivered before it is noted: it is known by its higher number.
local function has_copy_out(flight, delivery, number)
  local known = tonumber(flight.copies)
  return number < known or (number == known and known > 0 and flight.copy ~= delivery)
end

-- The later of two deadlines; 0, none at all, is the latest.
local function later(a, b)
  if a == 0 or b == 0 then return 0 end
  return math.max(a, b)
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
  end
end

-- Likewise from a holder that is silent. It is dead if its worker's connection is gone too, which the system closes for
-- it; one that was stopped, or whose model does not let go of the interpreter, still has it.
local function take_from_silent(flight_key, deaths_key, flight, keep_ms)
  local worker = flight.worker or ''
  local dead = worker ~= '' and redis.call('PUBSUB', 'NUMSUB', worker)[2] == 0
  hand_back(flight_key, deaths_key, flight, dead and 2 or 0, 'its worker ended', keep_ms)
end

-- Open a flight, over an older one if there is one: joiners, deadline and priority come along, its token is listed so
-- that those who joined it are answered; whether a message is out does not come along.
local function open_flight(flight_key, older, opener, token, order, generation, now, deadline, priority, keep_ms)
  local replaced = older and tokens_of(older) or ''
  if older then
    deadline = later(tonumber(older.deadline), deadline)
    priority = math.max(tonumber(older.priority), priority)
  end
  redis.call('HSET', flight_key, 'layout', FLIGHT_LAYOUT, 'opener', opener, 'token', token, 'replaced', replaced, 'state', 'queued',
    'generation', generation, 'order', order, 'begun', 0, 'holder', '', 'lease', 0, 'published', '0', 'sent', now,
    'probes', 0, 'copy', '', 'copies', 0, 'deadline', deadline, 'priority', priority)
  redis.call('PEXPIRE', flight_key, keep_ms)
end

-- Add or renew a joiner. A later serial of the same inbox stands for the earlier ones too.
local function add_joiner(flight_key, kind, inbox, serial, stamp)
  local field = kind .. ':' .. inbox
  local old_serial, old_stamp = string.match(redis.call('HGET', flight_key, field) or '', '^(%d+):(%d+)$')
  if old_serial then
    serial = math.max(serial, tonumber(old_serial))
    stamp = kind == 'd' and later(stamp, tonumber(old_stamp)) or math.max(stamp, tonumber(old_stamp))
  end
  redis.call('HSET', flight_key, field, string.format('%.0f:%.0f', serial, stamp))
end

-- Push an outcome to every inbox that joined: '<key> <token>,<token>\n<entry>'. Above the limit only the name travels
-- and the reader fetches, since a server drops clients whose output buffer overflows.
local function push(flight, key_text, entry, limit_bytes)
  local message = key_text .. ' ' .. tokens_of(flight) .. '\n'
  if #entry <= limit_bytes then message = message .. entry end
  local told = {}
  each_joiner(flight, function(_, inbox)
    if inbox ~= '' and not told[inbox] then
      told[inbox] = true
      redis.call('PUBLISH', inbox, message)
    end
  end)
end

-- Drop the fields of a hash whose own end (a leading '<ms>:') has passed; now and then, so that writes stay cheap.
local function prune(hash_key, now, every)
  if redis.call('HLEN', hash_key) % every ~= 0 then return end
  local flat = redis.call('HGETALL', hash_key)
  for i = 1, #flat, 2 do
    if tonumber(string.match(flat[i + 1], '^(%d+):')) < now then redis.call('HDEL', hash_key, flat[i]) end
  end
end

-- Leave an end mark for each token of the flight, so that a message still on its way is not computed for nobody.
local function leave_end_marks(ends_key, flight, now, mark_ms)
  local stamp = string.format('%.0f:', now + mark_ms)
  for token in string.gmatch(tokens_of(flight), '[^,]+') do
    redis.pcall('HSET', ends_key, token, stamp)
  end
  redis.pcall('PEXPIRE', ends_key, mark_ms)
  prune(ends_key, now, 64)
end

-- Keep an outcome that is not an entry readable, for a while, by those who joined.
local function keep_outcome(outcomes_key, flight, entry, now, outcome_ms)
  local stamp = string.format('%.0f:', now + outcome_ms)
  for token in string.gmatch(tokens_of(flight), '[^,]+') do
    redis.pcall('HSET', outcomes_key, token, stamp .. entry)
  end
  redis.pcall('PEXPIRE', outcomes_key, outcome_ms)
  prune(outcomes_key, now, 16)
end
