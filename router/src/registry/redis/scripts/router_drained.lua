-- Notes up to which version of the list a router has drained, if it is in the list.
-- KEYS: 1 routers, 2 drained versions. ARGV: 1 boot, 2 version. Answers: 1 or 0
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
-- A call that was sent again may come after a later one.
local noted = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if noted < tonumber(ARGV[2]) then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
return 1
