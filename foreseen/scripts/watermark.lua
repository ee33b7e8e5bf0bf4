-- Raise a queue's watermark: what was sent by then has begun, or was dropped; and note that something began.
-- include: bucket
--
-- Returns how long ago that was sent (ms)
local watermark_key = KEYS[1]
local sent = tonumber(ARGV[1])                           -- when the message was sent (ms, server's clock)
local keep_ms = tonumber(ARGV[2])

local now = now_ms()
local passed = tonumber(redis.call('HGET', watermark_key, 'passed') or 0)
redis.call('HSET', watermark_key, 'passed', math.max(passed, math.min(sent, now)), 'began', now)
redis.call('PEXPIRE', watermark_key, keep_ms)
return now - sent
