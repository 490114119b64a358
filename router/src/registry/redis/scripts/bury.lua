-- Declares boots dead: those that leave, or whose lease ran out. The latter only soon after the leases were looked at: a
-- command that waited in a server that stood still must not act on leases that could not be renewed meanwhile.
-- KEYS: 1 dead boots, 2 nodes, 3 leases. ARGV: 1 when the leases were looked at (ms, empty: they leave), 2 how long that
--       counts (ms), 3... boots. Answers: the boots that were declared dead now
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local leaving = ARGV[1] == ''
if not leaving then
  local age_ms = now_ms - ARGV[1]
  if age_ms < 0 or age_ms > tonumber(ARGV[2]) then return {} end
end
local answer = {}
for i = 3, #ARGV do
  local boot = ARGV[i]
  local until_ms = redis.call('ZSCORE', KEYS[3], boot)
  if leaving or (until_ms and tonumber(until_ms) < now_ms) then
    if redis.call('ZADD', KEYS[1], 'NX', now_ms, boot) == 1 then table.insert(answer, boot) end
    redis.call('HDEL', KEYS[2], boot)
    redis.call('ZREM', KEYS[3], boot)
  end
end
return answer
