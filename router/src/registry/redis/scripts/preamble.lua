-- Begins every script that changes routes of a slot group. A change is applied if the group remembers what this writer
-- changed last: the number of its last change, or of one whose answer it did not get. Otherwise the registry forgot.
-- KEYS: 1 birth of the group, 2 last change of this writer in it, 3 ended claims of the group, 4... of the script
-- ARGV: incarnation, number of this change, floor (ms), count and numbers that may be the last one, then the script's
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

local incarnation, change, floor_ms = take(), take(), take()
local before = take_list()
local last = redis.call('GET', KEYS[2]) or '0'
local remembered = last == change
for _, each in ipairs(before) do remembered = remembered or last == each end
if not remembered or redis.call('GET', KEYS[1]) ~= incarnation then return {'forgot'} end

local function changed()
  redis.call('SET', KEYS[2], change, 'PX', floor_ms)
end

-- Remembers claims that ended, so that a late repeat is known as such: for ten minutes, the newest 4,096 of a group.
local function ended(claims)
  if #claims == 0 then return end
  local time = redis.call('TIME')
  for _, claim in ipairs(claims) do redis.call('ZADD', KEYS[3], time[1], claim) end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', time[1] - 600)
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -4097)
  redis.call('EXPIRE', KEYS[3], 600)
end
