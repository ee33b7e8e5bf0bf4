-- Add what a producer has counted of its hits, which no script sees, and which keys they were of.
-- include: bucket
--
-- Keeps: both keys expire; of the hottest at most `most` are kept: a newcomer takes the place, and the count, of the last,
-- so that no key with more than 1 / `most` of what was noted is missing (Space-Saving: Metwally, Agrawal, El Abbadi, ICDT
-- 2005). Sent twice it counts twice, and nothing depends on that.
-- Returns nothing
local keys = {statistics = KEYS[1], hottest = KEYS[2]}
local hit = tonumber(ARGV[1])                            -- look-ups that an entry of the cache answered
local near = tonumber(ARGV[2])                           -- and one in the producer's own memory
local saved_us = tonumber(ARGV[3])                       -- what their computations had cost
local keep_ms = tonumber(ARGV[4])
local hottest_ms = tonumber(ARGV[5])                     -- how long the hottest are noted before all is begun anew
local most = tonumber(ARGV[6])
local noted = ARGV[7]                                    -- 'short digest:hits of it', comma-separated
local unreadable = tonumber(ARGV[8])                     -- entries that a producer found and could not read

if unreadable > 0 then count(keys.statistics, 'unreadable', keep_ms, unreadable) end
if hit > 0 then count(keys.statistics, 'hit', keep_ms, hit) end
if near > 0 then count(keys.statistics, 'near', keep_ms, near) end
if saved_us > 0 then count(keys.statistics, 'saved_us', keep_ms, saved_us) end

if noted == '' then return end
local counts, held = {}, 0
local flat = redis.call('HGETALL', keys.hottest)
for i = 1, #flat, 2 do
  counts[flat[i]], held = tonumber(flat[i + 1]) or 0, held + 1
end
for digest, text in string.gmatch(noted, '(%x+):(%d+)') do
  local hits = tonumber(text)
  if counts[digest] then
    hits = hits + counts[digest]
  elseif held < most then
    held = held + 1
  else
    local last
    for each, noted in pairs(counts) do
      if not last or noted < counts[last] then last = each end
    end
    hits, counts[last] = hits + counts[last], nil
    redis.call('HDEL', keys.hottest, last)
  end
  counts[digest] = hits
  redis.pcall('HSET', keys.hottest, digest, hits)        -- refused by a full server: the next tally notes it
end
if #flat == 0 then redis.call('PEXPIRE', keys.hottest, hottest_ms) end
