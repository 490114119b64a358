-- Begins the leases of boots that something waits for and that are not known: they have neither a lease, also one that ran
-- out, nor were they declared dead. They are no gateways before they join.
-- KEYS: 1 dead boots, 2 leases. ARGV: 1 how long a lease is (ms), 2... boots. Answers: the boots whose leases began now
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local answer = {}
for i = 2, #ARGV do
  local boot = ARGV[i]
  if not redis.call('ZSCORE', KEYS[1], boot) and redis.call('ZADD', KEYS[2], 'NX', until_ms, boot) == 1 then
    table.insert(answer, boot)
  end
end
return answer
