-- Opening a flight, and joining one.

-- Open a flight, over an older one if there is one: joiners, deadline and priority come along, its token is listed so
-- that those who joined it are answered; whether a message is out does not come along. `field` and `value` are of who opens
-- it. Returns the flight, as `load_flight` would.
local function open_flight(flight_key, older, opener, token, order, generation, now, deadline, priority, keep_ms, field, value)
  local flight = older or {}
  if older then
    deadline = later(tonumber(older.deadline), deadline)
    priority = math.max(tonumber(older.priority), priority)
  end
  local fields = {'layout', FLIGHT_LAYOUT, 'opener', opener, 'sender', opener, 'replaced', older and tokens_of(older) or '',
    'token', token, 'state', 'queued', 'generation', generation, 'order', order, 'begun', '0', 'holder', '', 'lease', '0',
    'published', '0', 'sent', now, 'probes', '0', 'copy', '', 'copies', '0', 'deadline', deadline, 'priority', priority,
    field, value}
  redis.call('HSET', flight_key, unpack(fields))
  redis.call('PEXPIRE', flight_key, keep_ms)
  for i = 1, #fields, 2 do flight[fields[i]] = fields[i + 1] end
  flight.lease, flight.running = 0, false
  return flight
end

-- A joiner's field and value, added or renewed. A later serial of the same inbox stands for the earlier ones too.
local function joiner_of(flight, kind, inbox, serial, stamp)
  local field = kind .. ':' .. inbox
  local old_serial, old_stamp = string.match(flight and flight[field] or '', '^(%d+):(%d+)$')
  if old_serial then
    serial = math.max(serial, tonumber(old_serial))
    stamp = kind == 'd' and later(stamp, tonumber(old_stamp)) or math.max(stamp, tonumber(old_stamp))
  end
  return field, string.format('%.0f:%.0f', serial, stamp)
end
