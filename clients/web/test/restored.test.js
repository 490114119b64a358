/** A conversation whose log went back, because a backup was restored, is pulled anew; one that only seems to is not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONV, FakeWorld, convState, message, pullPage } from './fake.js';

const resets = (client) => client.log.filter((entry) => entry.type === 'reset').map((entry) => entry.conv);

async function shownUpTo5(world) {
  const client = world.client();
  await world.login(client, { conversations: [convState(2, 2)] });
  for (const seq of [3, 4, 5]) await world.say(message(seq));
  await world.closeWith(1006);
  await world.advance(30_000);
  return client;
}

test('a head below what was shown is doubted, and a log that ends before it is begun anew', async () => {
  const world = new FakeWorld();
  const client = await shownUpTo5(world);
  await world.login(client, { conversations: [convState(3, 2)] });
  const [doubt, ...more] = world.take('pull');
  assert.deepEqual([doubt?.from_seq, more.length], [6, 0]);
  await world.say({ type: 'error', ref: doubt.ref, code: 'ahead', retryable: false, text: 'ends at 3' });
  assert.deepEqual(resets(client), [CONV]);
  // Others may have gone back, too, and changed before the cursor: everything is asked again.
  const [sync] = world.take('sync');
  assert.equal(sync.cursor, '');
  await world.say({ type: 'sync_page', ref: sync.ref, cursor: 'Yw==', more: false, conversations: [convState(3, 2)] });
  const [pull] = world.take('pull');
  assert.deepEqual([pull.from_seq, pull.to_seq], [3, 3]);
  await world.say(pullPage(pull, [message(3)], 3));
  await world.say(message(4));
  assert.deepEqual(client.shown(), [3, 4, 5, 3, 4]);
});

test('a message that overtakes the page of a sync resets nothing', async () => {
  const world = new FakeWorld();
  const client = await shownUpTo5(world);
  await world.settle();
  world.socket.onopen();
  await world.say({
    type: 'welcome', session: '1', user: 'alice', epoch: '00000000000000aa', window: 4, payload_bytes_max: 65536, heartbeat_ms: 60_000, server_time_ms: 0,
  });
  const [sync] = world.take('sync');
  await world.say(message(6));
  await world.say({ type: 'sync_page', ref: sync.ref, cursor: 'Yw==', more: false, conversations: [convState(5, 2)] });
  const [doubt] = world.take('pull');
  assert.equal(doubt.from_seq, 7);
  await world.say(pullPage(doubt, [], 6));
  await world.say(message(7));
  assert.deepEqual(client.shown(), [3, 4, 5, 6, 7]);
  assert.deepEqual(resets(client), []);
});

test('a message that answers the doubt is shown', async () => {
  const world = new FakeWorld();
  const client = await shownUpTo5(world);
  await world.login(client, { conversations: [convState(4, 2)] });
  const [doubt] = world.take('pull');
  await world.say(pullPage(doubt, [message(6)], 6));
  assert.deepEqual(client.shown(), [3, 4, 5, 6]);
  assert.deepEqual(resets(client), []);
});

test('a doubt that is confirmed between two pages of a sync asks from the beginning after it', async () => {
  const world = new FakeWorld();
  await shownUpTo5(world);
  await world.settle();
  world.socket.onopen();
  await world.say({
    type: 'welcome', session: '1', user: 'alice', epoch: '00000000000000aa', window: 4, payload_bytes_max: 65536, heartbeat_ms: 60_000, server_time_ms: 0,
  });
  const [first] = world.take('sync');
  await world.say({ type: 'sync_page', ref: first.ref, cursor: 'cGFnZQ==', more: true, conversations: [convState(3, 2)] });
  const [doubt, second] = world.take();
  await world.say({ type: 'error', ref: doubt.ref, code: 'ahead', retryable: false, text: 'ends at 3' });
  await world.say({ type: 'sync_page', ref: second.ref, cursor: 'ZW5k', more: false, conversations: [] });
  assert.deepEqual(world.take('sync').map((sync) => sync.cursor), ['']);
});
