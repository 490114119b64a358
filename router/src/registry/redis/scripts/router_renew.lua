-- Renews the lease of a router that is in the list.
-- KEYS: 1 routers, 2 their leases. ARGV: 1 boot, 2 how long (ms). Answers: 1 or 0
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], now_ms + ARGV[2], ARGV[1])
return 1
