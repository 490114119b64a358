/** What counts as read: what was shown, and nothing behind a gap. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONV, FakeWorld, convState, message, pullPage } from './fake.js';

test('what is still being pulled is not marked as read', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(6, 2)] });
  const [pull] = world.take('pull');
  client.markRead(CONV);
  assert.deepEqual(world.take('read'), [], 'nothing was shown');
  assert.equal(client.conversations.get(CONV).unread, 4);
  await world.say(pullPage(pull, [message(3), message(4)], 6, 5));
  client.markRead(CONV);
  assert.deepEqual(world.take('read').map((read) => read.seq), [4]);
  assert.equal(client.conversations.get(CONV).unread, 2);
});

test('a message behind a gap is not read before the gap is closed', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(2, 2)] });
  await world.say(message(3));
  await world.say(message(5));
  world.take();
  client.markRead(CONV);
  const [read] = world.take('read');
  assert.equal(read.seq, 3);
  assert.equal(client.conversations.get(CONV).unread, 2);
  await world.say({ type: 'read_up_to', ref: read.ref, conv: CONV, whose: 'alice', seq: 3, n: 3 });
  await world.say(message(4));
  client.markRead(CONV);
  assert.deepEqual(world.take('read').map((read) => read.seq), [5]);
  assert.equal(client.conversations.get(CONV).unread, 0);
});

test('marks that come faster than their confirmations are sent together', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  world.take();
  for (let seq = 1; seq <= 9; seq++) {
    await world.say(message(seq));
    client.markRead(CONV);
  }
  const [read, ...more] = world.take('read');
  assert.deepEqual([read.seq, more], [1, []]);
  assert.equal(client.conversations.get(CONV).unread, 0);
  await world.say({ type: 'read_up_to', ref: read.ref, conv: CONV, whose: 'alice', seq: 1, n: 1 });
  const [last] = world.take('read');
  assert.equal(last.seq, 9);
  await world.say({ type: 'read_up_to', ref: last.ref, conv: CONV, whose: 'alice', seq: 9, n: 9 });
  assert.deepEqual(world.take('read'), []);
});

test('reading is a watermark: it clears the count, goes out once, and again after a lost connection', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(3, 0)] });
  const [pull] = world.take('pull');
  await world.say(pullPage(pull, [message(1), message(2), message(3)], 3));
  client.markRead(CONV);
  client.markRead(CONV);
  assert.equal(client.conversations.get(CONV).unread, 0);
  assert.deepEqual(world.take('read').map((read) => read.seq), [3]);
  await world.closeWith(1006);
  await world.advance(30_000);
  await world.login(client);
  const [read] = world.take('read');
  await world.say({ type: 'read_up_to', ref: read.ref, conv: CONV, whose: 'alice', seq: 3, n: 3 });
  await world.closeWith(1006);
  await world.advance(30_000);
  await world.login(client);
  assert.deepEqual(world.take('read'), []);
});

test('a mark set elsewhere, and the one of the other, are told', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(3, 0)] });
  await world.say({ type: 'read_up_to', conv: CONV, whose: 'alice', seq: 2, n: 2 });
  assert.equal(client.conversations.get(CONV).unread, 1);
  await world.say({ type: 'read_up_to', conv: CONV, whose: 'bob', seq: 3, n: 3 });
  assert.deepEqual(client.log.at(-1), { type: 'read', conv: CONV, whose: 'bob', seq: 3 });
});
