-- Add to a model's measures: how often what was measured fell into which bucket of a histogram, and the sums.
-- include: bucket
--
-- Keeps: the key expires. Sent twice it counts twice, and nothing depends on that.
-- Returns nothing
local measures_key = KEYS[1]
local keep_ms = tonumber(ARGV[1])
local measured = ARGV[2]                                 -- 'field=what to add to it', comma-separated

for field, text in string.gmatch(measured, '([^=,]+)=(%d+)') do
  count(measures_key, field, keep_ms, tonumber(text))
end
