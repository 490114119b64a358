-- What every router must know. KEYS: 1 incarnation, 2 dead boots, 3 nodes
-- Answers: the time (ms), incarnation or empty, count of dead boots, dead boots..., boot, node...
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = redis.call('ZRANGE', KEYS[2], 0, -1)
local answer = {string.format('%.0f', now_ms), redis.call('GET', KEYS[1]) or '', tostring(#dead)}
for _, boot in ipairs(dead) do table.insert(answer, boot) end
for _, each in ipairs(redis.call('HGETALL', KEYS[3])) do table.insert(answer, each) end
return answer
