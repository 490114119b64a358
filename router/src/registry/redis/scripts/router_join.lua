-- Puts a router into the list and starts its lease, in the place of one of its node whose lease ran out.
-- KEYS: 1 routers, 2 their leases, 3 version of the list, 4 drained versions
-- ARGV: 1 boot, 2 node, 3 entry (begins with the node and a tab), 4 how long a lease is (ms), 5 a version that the new
--       one must be above
-- Answers: joined, version | taken, boot, entry, end of its lease (ms)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[3]
local begins = ARGV[2] .. '\t'
local routers = redis.call('HGETALL', KEYS[1])
for i = 1, #routers, 2 do
  local boot, entry = routers[i], routers[i + 1]
  if boot ~= ARGV[1] and string.sub(entry, 1, #begins) == begins then
    local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], boot) or 0)
    if until_ms >= now_ms then return {'taken', boot, entry, string.format('%.0f', until_ms)} end
    redis.call('HDEL', KEYS[1], boot)
    redis.call('ZREM', KEYS[2], boot)
    redis.call('HDEL', KEYS[4], boot)
    known = false
  end
end
local version = tonumber(redis.call('GET', KEYS[3]) or 0)
if not known then
  -- Above all earlier ones, also where the registry forgot them.
  version = math.max(version + 1, now_ms, ARGV[5] + 1)
  redis.call('SET', KEYS[3], string.format('%.0f', version))
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('HDEL', KEYS[4], ARGV[1])
end
redis.call('ZADD', KEYS[2], now_ms + ARGV[4], ARGV[1])
return {'joined', string.format('%.0f', version)}
