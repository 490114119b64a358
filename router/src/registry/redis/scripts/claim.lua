-- Puts a session into its user's hash if the hash is what the caller judged by; what gives way goes in the same step.
-- KEYS: 4 routes of the user, 5 index of the session's boot, 6... indexes of the boots of those who give way
-- ARGV: the claim; what the hash held: field, value...; who gives way: field, connection, number of the key of its
--       index...; claims that end; then of the session: field, value, connection, entry of the index
-- Answers: done | ended | changed, field, value...
local claim = take()
local held = take_list()
local give_way = take_list()
local end_with_it = take_list()
local field, value, conn, entry = take(), take(), take(), take()

if redis.call('ZSCORE', KEYS[3], claim) then return {'ended'} end
local same = redis.call('HLEN', KEYS[4]) * 2 == #held
for i = 1, #held, 2 do same = same and redis.call('HGET', KEYS[4], held[i]) == held[i + 1] end
if not same then
  local answer = redis.call('HGETALL', KEYS[4])
  table.insert(answer, 1, 'changed')
  return answer
end

for i = 1, #give_way, 3 do
  redis.call('HDEL', KEYS[4], give_way[i])
  redis.call('HDEL', KEYS[tonumber(give_way[i + 2])], give_way[i + 1])
end
redis.call('HSET', KEYS[4], field, value)
redis.call('PEXPIRE', KEYS[4], floor_ms)
redis.call('HSET', KEYS[5], conn, entry)
redis.call('PEXPIRE', KEYS[5], floor_ms)
ended(end_with_it)
changed()
return {'done'}
