/** Ids must be the same as the server's, byte for byte, or a message goes astray. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { directConv, isId, parseConv, peerOf, plainId, uuidV7Source } from '../ids.js';

test('a direct conversation is the same from both sides, ordered by bytes, its length in bytes', () => {
  assert.equal(directConv('bob', 'alice'), 'u:5:alice:bob');
  assert.equal(directConv('alice', 'bob'), 'u:5:alice:bob');
  assert.equal(directConv('ünal', 'zoe'), 'u:3:zoe:ünal');
  assert.equal(directConv('ünal', '\u{1f600}'), 'u:5:ünal:\u{1f600}');
  // UTF-16 order would put the emoji first.
  assert.equal(directConv('\u{1f600}', '\uff21'), 'u:3:\uff21:\u{1f600}');
});

test('names with colons and other scripts come back whole', () => {
  for (const [a, b] of [['a:b', 'c'], ['李', 'ünal'], ['x', 'x'], ['a', 'a:1:b']]) {
    const conv = directConv(a, b);
    assert.deepEqual(new Set(parseConv(conv)?.users), new Set([a, b]));
    assert.equal(peerOf(conv, a), b);
  }
  assert.deepEqual(parseConv('g:team:1'), { type: 'group', group: 'team:1' });
  for (const none of ['', 'x', 'u:', 'u:x:a:b', 'u:9:a:b', 'u:1:ab']) assert.equal(parseConv(none), null, none);
});

test('an id has 1 to 64 bytes and no control characters', () => {
  assert.ok(isId('a') && isId('ü'.repeat(32)));
  assert.ok(!isId('') && !isId('ü'.repeat(33)) && !isId('a\nb'));
});

test('message ids are UUIDv7 and sort in the order they were made, whatever the clock does', () => {
  let now = 1_700_000_000_000;
  const next = uuidV7Source({ now: () => now, randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)) });
  const ids = [];
  for (let i = 0; i < 10_000; i++) {
    if (i === 5000) now -= 60_000;
    if (i === 9000) now += 120_000;
    ids.push(next());
  }
  for (const id of ids) assert.match(id, /^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
  assert.deepEqual([...ids].sort(), ids);
  assert.equal(new Set(ids).size, ids.length);
  assert.equal(parseInt(ids[0].slice(0, 12), 16), 1_700_000_000_000);
  assert.equal(plainId('018BCFE5-6800-7000-8000-000000000001'), '018bcfe5680070008000000000000001');
});
