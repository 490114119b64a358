-- What a slot group remembers: its birth, and the last change of a writer, which is kept from expiring.
-- KEYS: 1 birth of the group, 2 last change of this writer in it. ARGV: 1 floor (ms)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return {redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[2]) or '0'}
