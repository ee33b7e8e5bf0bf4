-- A flight: one computation of a key under way, as a hash.
--   layout      of this hash: 2, or 1, in which every field is there
--   token       names the flight;  replaced: tokens of flights it was opened over, comma-separated
--   state       'queued' or 'running'
--   generation  it was opened in, or that its begin read; '' once the key was invalidated under a running holder
--   order       of its opening;  begun: order of its latest begin
--   holder      nonce of who runs it, '' while queued;  lease: when that holder counts as dead (ms)
--   published   '1' once a message for this token is known to be in the broker;  sent: when one was last sent (ms)
--   probes      how often a sweep sent it again
--   opener      nonce of the call that opened it; sender: of the one that was last told to send a message, if that was
--               another. Sent twice, they are told the same twice
--   copy        id of the latest message known to stand in for a delivery that met a live holder
--   copies      its number: each copy is one higher than the delivery that it stands in for
--   deadline    latest of its joiners (ms), 0 = none;  priority: highest of its joiners
--   alone       how alone its holder computes it: 0 in a batch, 1 alone in its process, 2 alone in its worker
--   worker      channel that the holder's worker listens to for as long as it lives; '' if that is not known
--   suspect     how alone it is to be computed, since it was in a batch whose process died (1), or in a worker that died (2)
--   suspected   channel of the worker that was found dead; heard again, it was not
--   bare        '1' once somebody is in it, detached, who asked by the bare name, or may have: should the version have no workers
--               left, the current one owes him the answer
--   w:<inbox>   a waiter: '<serial>:<ms until which it counts>'
--   d:<inbox>   detached: '<serial>:<its deadline in ms, 0 = none>'
-- What a field would say that is not there, it says by that: fewer are written, and read, and most flights need no more.

local FLIGHT_LAYOUT = '2'
local UNSAID = {__index = {replaced = '', state = 'queued', begun = '0', holder = '', lease = '0', published = '0', probes = '0',
  copy = '', copies = '0', deadline = '0'}}

-- Two releases that run side by side leave each other's flights alone, unless one speaks the other's layout.
local function load_flight(flight_key)
  local flat = redis.call('HGETALL', flight_key)
  if #flat == 0 then return nil end
  local flight = {}
  for i = 1, #flat, 2 do flight[flat[i]] = flat[i + 1] end
  if flight.layout ~= FLIGHT_LAYOUT and flight.layout ~= '1' then error({err = 'LAYOUT ' .. tostring(flight.layout)}) end
  flight.sender = flight.sender or flight.opener
  setmetatable(flight, UNSAID)
  flight.order = tonumber(flight.order)
  flight.lease = tonumber(flight.lease)
  flight.running = flight.state == 'running'
  return flight
end

local function each_joiner(flight, visit)
  for field, value in pairs(flight) do
    if string.byte(field, 2) == 58 then                  -- a colon, which no other field has there
      local serial, stamp = string.match(value, '^(%d+):(%d+)$')
      visit(string.sub(field, 1, 1), string.sub(field, 3), tonumber(serial), tonumber(stamp), field)
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

-- The later of two deadlines; 0, none at all, is the latest.
local function later(a, b)
  if a == 0 or b == 0 then return 0 end
  return math.max(a, b)
end
