-- Takes routers out of the list: those that leave, or whose lease ran out. The latter only soon after the leases were
-- looked at: a command that waited in a server that stood still must not act on leases that could not be renewed
-- meanwhile.
-- KEYS: 1 routers, 2 their leases, 3 version of the list, 4 drained versions
-- ARGV: 1 when the leases were looked at (ms, empty: they leave), 2 how long that counts (ms), 3... boots
-- Answers: 1 if any was in it, else 0
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local leaving = ARGV[1] == ''
if not leaving then
  local age_ms = now_ms - ARGV[1]
  if age_ms < 0 or age_ms > tonumber(ARGV[2]) then return 0 end
end
local count = 0
for i = 3, #ARGV do
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]) or 0)
  if leaving or until_ms < now_ms then
    count = count + redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
  end
end
if count == 0 then return 0 end
local version = math.max(tonumber(redis.call('GET', KEYS[3]) or 0) + 1, now_ms)
redis.call('SET', KEYS[3], string.format('%.0f', version))
return 1
