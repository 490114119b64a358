-- What a shard of a boot holds in one slot group: connection, entry...
-- KEYS: 1 index of the boot. ARGV: 1 the shard (the upper 10 bits of a connection's 64)
local index = redis.call('HGETALL', KEYS[1])
local shard = tonumber(ARGV[1])
local answer = {}
for i = 1, #index, 2 do
  if math.floor(tonumber(string.sub(index[i], 1, 3), 16) / 4) == shard then
    table.insert(answer, index[i])
    table.insert(answer, index[i + 1])
  end
end
return answer
