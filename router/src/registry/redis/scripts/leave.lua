-- Takes sessions out, each if it is still that one.
-- KEYS: two per session: routes of its user, index of its boot
-- ARGV: per session: field, how its value begins, connection, how its entry in the index begins, its claim if a late
--       repeat must not bring it back (else empty)
-- Answers: done, then per session 1 if it was held, else 0
local sessions = take_list()
local answer = {'done'}
local end_with_it = {}
local function begins(text, with) return text and string.sub(text, 1, #with) == with end

for i = 1, #sessions, 5 do
  local field, value, conn, entry, claim = unpack(sessions, i, i + 4)
  local key = 4 + (i - 1) / 5 * 2
  local routes, index = KEYS[key], KEYS[key + 1]
  if begins(redis.call('HGET', routes, field), value) then
    redis.call('HDEL', routes, field)
    table.insert(answer, '1')
  else
    table.insert(answer, '0')
  end
  if begins(redis.call('HGET', index, conn), entry) then redis.call('HDEL', index, conn) end
  if claim ~= '' then table.insert(end_with_it, claim) end
end
ended(end_with_it)
changed()
return answer
