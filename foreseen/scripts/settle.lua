-- End the doubt on keys of a tag, once their entries were forgotten, which may have escaped an invalidation.
--
-- Keeps: only the doubt that the caller was told of ends: one that has come up since then, as the index was lost again,
-- is of what came after.
-- Returns nothing
local index = KEYS[1]
local packed = ARGV[1]                                   -- 'key=time since which it is doubted (ms)', comma-separated

for key, since in string.gmatch(packed, '([^,]+)=(%d+)') do
  if tonumber(redis.call('ZSCORE', index, key)) == since + 0.5 then redis.call('ZADD', index, since, key) end
end
