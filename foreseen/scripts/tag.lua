-- Register keys in the index of a tag, before they are looked up: whoever invalidates the tag forgets them.
-- include: bucket
--
-- Keeps: what an index has lost is never passed over in silence. The directory lists the tags that have an index, so that
-- one that was lost is told from one that there never was. A key that is new to an index that was lost is doubted, which
-- half a millisecond in its score says, until somebody has forgotten what may have escaped an invalidation, and settles it.
-- A key that was registered within a day costs no write.
-- Returns for each key the time (ms) from which on its entries must have been written | minus the time since which it is
--   doubted
local keys = {directory = KEYS[1], index = KEYS[2]}
local tag = ARGV[1]                                      -- digest of its text
local packed = ARGV[2]                                   -- the keys, comma-separated
local keep_ms = tonumber(ARGV[3])                        -- how long a key stays registered
local again_ms = tonumber(ARGV[4])                       -- one that was registered so long ago is so anew

local now = now_ms()
local function score(key, member)                        -- nil if there is none; '' is of no tag and no key
  return tonumber(redis.call('ZSCORE', key, member))
end

local made, listed = score(keys.directory, ''), score(keys.directory, tag)
local changed = not made or not listed or listed < now - again_ms
if not made then
  made = -(now + 1)                                      -- negative, and so apart from all times of registering
  redis.call('ZADD', keys.directory, made, '')
end
local since = score(keys.index, '')
if not since then
  -- A listed tag had an index, which was lost; any other is new, as far as the directory can tell.
  since = listed and listed > now - keep_ms and -(now + 1.5) or made
  redis.call('ZADD', keys.index, since, '')
end
local was_lost = since % 1 ~= 0

local told = {}
for key in string.gmatch(packed, '[^,]+') do
  local registered = score(keys.index, key)
  local new = not registered or registered <= now - keep_ms
  local half = (new and was_lost or not new and registered % 1 ~= 0) and 0.5 or 0
  if new or registered < now - again_ms then
    registered = now + half
    redis.call('ZADD', keys.index, registered, key)
    changed = true
  end
  told[#told + 1] = half > 0 and -math.floor(registered) or math.floor(-since)
end

if changed then
  redis.call('ZADD', keys.directory, now, tag)
  for _, key in pairs(keys) do
    redis.call('PEXPIRE', key, keep_ms)
    local old = redis.call('ZRANGEBYSCORE', key, 0, now - keep_ms, 'LIMIT', 0, 1000)
    if #old > 0 then redis.call('ZREM', key, unpack(old)) end
  end
end
return told
