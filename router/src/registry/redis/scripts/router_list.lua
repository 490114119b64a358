-- The routers. A lease that ends later than a new one would was taken before the clock was set back.
-- KEYS: 1 routers, 2 their leases, 3 version of the list, 4 drained versions, 5 incarnation
-- ARGV: 1 how long a lease is (ms)
-- Answers: the time (ms), incarnation or empty, version, then per router: boot, entry, drained version, 1 if its lease
--          ran out, else 0
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local latest_ms = now_ms + ARGV[1]
local answer = {
  string.format('%.0f', now_ms), redis.call('GET', KEYS[5]) or '', redis.call('GET', KEYS[3]) or '0',
}
local routers = redis.call('HGETALL', KEYS[1])
for i = 1, #routers, 2 do
  local boot = routers[i]
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], boot) or 0)
  if until_ms > latest_ms then redis.call('ZADD', KEYS[2], latest_ms, boot) end
  table.insert(answer, boot)
  table.insert(answer, routers[i + 1])
  table.insert(answer, redis.call('HGET', KEYS[4], boot) or '0')
  table.insert(answer, until_ms < now_ms and '1' or '0')
end
return answer
