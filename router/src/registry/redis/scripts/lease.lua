-- Takes or renews a lease; not of a boot that was declared dead. Without a node it must be known.
-- KEYS: 1 dead boots, 2 nodes, 3 leases. ARGV: 1 boot, 2 node or empty, 3 how long (ms). Answers: 1 or 0
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
elseif redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return 0
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[3], now_ms + ARGV[3], ARGV[1])
return 1
