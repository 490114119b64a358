-- Sets a new incarnation, by the router that holds the lock, if the old one is still what it saw.
-- KEYS: 1 incarnation, 2 lock. ARGV: 1 the lock's holder, 2 old incarnation or empty, 3 new one. Answers: 1 or 0
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local adopted = 0
if (redis.call('GET', KEYS[1]) or '') == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[3])
  adopted = 1
end
redis.call('DEL', KEYS[2])
return adopted
