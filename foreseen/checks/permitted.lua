-- Try every command that the protocol's scripts use, on a key of this check's own, and remove it; but for those on tags,
-- which are producers' alone.
--
-- KEYS[1]  the key; under the namespace, so that what is allowed there is allowed here
-- ARGV[1]  the channel; likewise
-- ARGV[2]  the life of the key, should the last command be refused, in ms
--
-- Returns the refusals: command, reason, command, reason, …
local key, channel, life_ms = KEYS[1], ARGV[1], ARGV[2]
local refused = {}

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = command
    refused[#refused + 1] = reply.err
  end
end

try('TIME')
try('SET', key, '1', 'PX', life_ms)
try('GET', key)
try('MGET', key)
try('EXISTS', key)
try('SETRANGE', key, 0, '2')
try('PEXPIRE', key, life_ms)
try('PTTL', key)
try('TTL', key)
try('DEL', key)
try('HSET', key, 'field', '1')
try('PEXPIRE', key, life_ms)
try('HSETNX', key, 'field', '1')
try('HINCRBY', key, 'field', 1)
try('HGET', key, 'field')
try('HMGET', key, 'field')
try('HGETALL', key)
try('HLEN', key)
try('HEXISTS', key, 'field')
try('HDEL', key, 'field')
try('DEL', key)
try('PUBLISH', channel, '')
try('PUBSUB', 'NUMSUB', channel)
return refused
