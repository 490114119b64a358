-- Leases that ran out. One that ends later than a new one would was taken before the clock was set back.
-- KEYS: 1 leases. ARGV: 1 how long a lease is (ms). Answers: the time (ms), boots...
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local latest_ms = now_ms + ARGV[1]
for _, boot in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', latest_ms), '+inf')) do
  redis.call('ZADD', KEYS[1], latest_ms, boot)
end
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now_ms))
table.insert(answer, 1, string.format('%.0f', now_ms))
return answer
