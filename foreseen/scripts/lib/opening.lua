-- Opening a flight, and joining one.

-- Open a flight, over an older one if there is one: joiners, deadline and priority come along, its token is listed so
-- that those who joined it are answered; whether a message is out does not come along. `bare`: see flight.lua; `field` and
-- `value` are of who opens it. Returns the flight, as `load_flight` would.
local function open_flight(flight_key, older, opener, token, order, generation, now, deadline, priority, keep_ms, bare,
  field, value)
  local flight = setmetatable(older or {}, UNSAID)
  if older then
    deadline = later(tonumber(older.deadline), deadline)
    priority = math.max(tonumber(older.priority), priority)
  end
  local fields = {'layout', FLIGHT_LAYOUT, 'opener', opener, 'token', token, 'generation', generation, 'order', order,
    'sent', now, 'priority', priority, 'deadline', deadline, field, value}
  if bare then
    fields[#fields + 1], fields[#fields + 2] = 'bare', '1'
  end
  if older then                                          -- what its fields say, this one does not
    local said = {sender = opener, replaced = tokens_of(older)}
    for name, unsaid in pairs(UNSAID.__index) do
      if name ~= 'deadline' then said[name] = said[name] or unsaid end
    end
    for name, value in pairs(said) do
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  redis.call('HSET', flight_key, unpack(fields))
  redis.call('PEXPIRE', flight_key, keep_ms)
  for i = 1, #fields, 2 do flight[fields[i]] = fields[i + 1] end
  flight.sender, flight.lease, flight.running = opener, 0, false
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
