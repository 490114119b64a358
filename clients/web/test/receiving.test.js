/** What a user is shown: every message once, in order, whatever was lost, doubled or late on the way. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONV, FakeWorld, convState, message, pullPage } from './fake.js';

test('messages are shown once and in order, and a gap is pulled', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  await world.say(message(1));
  await world.say(message(1));
  await world.say(message(4));
  await world.say(message(3));
  assert.deepEqual(client.shown(), [1]);
  world.take();
  await world.advance(250);
  const [pull, ...rest] = world.take('pull');
  assert.deepEqual([pull.from_seq, pull.to_seq, rest.length], [2, 2, 0]);
  await world.say(pullPage(pull, [message(2)], 4));
  assert.deepEqual(client.shown(), [1, 2, 3, 4]);
});

test('a gap that closes by itself is not pulled', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  await world.say(message(1));
  await world.say(message(3));
  await world.say(message(2));
  world.take();
  await world.advance(1000);
  assert.deepEqual(world.take('pull'), []);
  assert.deepEqual(client.shown(), [1, 2, 3]);
});

test('unread messages come at login, page by page', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(5, 2)] });
  assert.equal(client.conversations.get(CONV).unread, 3);
  const [first] = world.take('pull');
  assert.deepEqual([first.from_seq, first.to_seq], [3, 5]);
  await world.say(pullPage(first, [message(3), message(4)], 5, 5));
  const [second] = world.take('pull');
  assert.equal(second.from_seq, 5);
  await world.say(pullPage(second, [message(5)], 5));
  assert.deepEqual(client.shown(), [3, 4, 5]);
});

test('more than the catch-up bound is left to history', async () => {
  const world = new FakeWorld();
  const client = world.client({ catchUpMax: 10 });
  await world.login(client, { conversations: [convState(1000, 0)] });
  const [pull] = world.take('pull');
  assert.deepEqual([pull.from_seq, pull.to_seq], [991, 1000]);
  const older = client.history(CONV, 991, 50);
  const [history] = world.take('pull');
  assert.deepEqual([history.from_seq, history.to_seq], [941, 990]);
  await world.say(pullPage(history, [message(941)], 1000));
  assert.deepEqual((await older).messages.map((each) => each.seq), [941]);
  assert.equal((await older).more, true);
});

test('what was missed while away is pulled after the next login', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(2, 2)] });
  await world.say(message(3));
  await world.closeWith(1006);
  await world.advance(30_000);
  const sync = await world.login(client, { conversations: [convState(6, 3)] });
  assert.equal(sync.cursor, 'Y3Vyc29y');
  const [pull] = world.take('pull');
  assert.deepEqual([pull.from_seq, pull.to_seq], [4, 6]);
  await world.say(message(7));
  await world.say(pullPage(pull, [message(4), message(5), message(6)], 6));
  assert.deepEqual(client.shown(), [3, 4, 5, 6, 7]);
});

test('a place that the server has nothing for does not hold up what follows', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(1, 1)] });
  await world.say(message(4));
  world.take();
  await world.advance(250);
  const [pull] = world.take('pull');
  await world.say(pullPage(pull, [message(3)], 4));
  assert.deepEqual(client.shown(), [3, 4]);
  await world.advance(5000);
  assert.deepEqual(world.take('pull'), []);
});

test('a message of an unknown conversation waits for the sync that tells where to begin', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  world.take();
  await world.say(message(8));
  assert.deepEqual(client.shown(), []);
  const [sync] = world.take('sync');
  await world.say({ type: 'sync_page', ref: sync.ref, cursor: 'Yw==', more: false, conversations: [convState(8, 6)] });
  const [pull] = world.take('pull');
  assert.deepEqual([pull.from_seq, pull.to_seq], [7, 7]);
  await world.say(pullPage(pull, [message(7)], 8));
  assert.deepEqual(client.shown(), [7, 8]);
});

test('PullRequired pulls at once, and asks for something even when nothing is missing', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(3, 3)] });
  world.take();
  await world.say({ type: 'pull_required', upto: [{ conv: CONV, seq: 5 }] });
  assert.deepEqual(world.take('pull').map((pull) => [pull.from_seq, pull.to_seq]), [[4, 5]]);
  await world.say({ type: 'pull_required', upto: [{ conv: CONV, seq: 2 }] });
  assert.equal(world.take('sync').length, 1);
});

test('Resync syncs at a random moment within its window', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  world.take();
  world.randomValue = 0.5;
  await world.say({ type: 'resync', spread_ms: 10_000 });
  await world.advance(4_900);
  assert.equal(world.take('sync').length, 0);
  await world.advance(200);
  assert.equal(world.take('sync').length, 1);
});

test('another epoch drops the cursor and what was shown', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(3, 3)] });
  await world.closeWith(1006);
  await world.advance(30_000);
  const sync = await world.login(client, { epoch: '00000000000000bb', conversations: [convState(2, 0)] });
  assert.equal(sync.cursor, '');
  assert.ok(client.log.some((entry) => entry.type === 'reset' && entry.conv === null));
  assert.equal(client.conversations.get(CONV).headSeq, 2);
});

test('a pulled range that reaches beyond the end is complete with it', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(3, 3)] });
  const asked = client.pull(CONV, 2, 1000);
  const [pull] = world.take('pull');
  await world.say(pullPage(pull, [message(2), message(3)], 3));
  assert.deepEqual(world.take('pull'), []);
  assert.deepEqual((await asked).map((each) => each.seq), [2, 3]);
});
