-- Telling an outcome, and what stays of a flight that has ended.

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

-- Drop the fields of a hash whose own end (a leading '<ms>:') has passed; at one flight in so many, so that writes stay
-- cheap: its token tells, half of which is drawn by chance.
local function prune(hash_key, flight, now, every)
  if (tonumber(string.sub(flight.token, 1, 2), 16) or 0) * every >= 256 then return end
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
  prune(ends_key, flight, now, 64)
end

-- Keep an outcome that is not an entry readable, for a while, by those who joined.
local function keep_outcome(outcomes_key, flight, entry, now, outcome_ms)
  local stamp = string.format('%.0f:', now + outcome_ms)
  for token in string.gmatch(tokens_of(flight), '[^,]+') do
    redis.pcall('HSET', outcomes_key, token, stamp .. entry)
  end
  redis.pcall('PEXPIRE', outcomes_key, outcome_ms)
  prune(outcomes_key, flight, now, 16)
end
