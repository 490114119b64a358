/** What happens to a message on its way out: once, in order, with the window kept. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONV, FakeWorld, convState } from './fake.js';

const ack = (send, seq) => ({ type: 'send_ack', ref: send.ref, conv: CONV, seq, n: seq, time_ms: 5 });
const refusal = (send, code, retryable) => ({ type: 'error', ref: send.ref, code, retryable, text: code });
const payloads = (frames) => frames.map((frame) => frame.payload);

test('an acknowledged message is shown once, at its place', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  const { clientMsgId, conv, done } = client.send({ user: 'bob' }, { payload: 'hi' });
  assert.equal(conv, CONV);
  const [send] = world.take('send');
  assert.equal(send.client_msg_id, clientMsgId);
  assert.match(clientMsgId, /^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
  await world.say(ack(send, 1));
  assert.deepEqual(await done, { conv: CONV, seq: 1, n: 1, timeMs: 5 });
  assert.deepEqual(client.shown(), [1]);
  assert.equal(client.conversations.get(CONV).unread, 0);
});

test('no more than the window is unanswered', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { window: 2 });
  for (const payload of ['a', 'b', 'c']) client.send({ user: 'bob' }, { payload });
  const [first] = world.take('send');
  assert.equal(world.socket.sent.filter((frame) => frame.type === 'send').length, 2);
  await world.say(ack(first, 1));
  assert.deepEqual(payloads(world.take('send')), ['c']);
});

test('a retryable refusal goes back to the oldest, with the restart flag, under the same ids', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  for (const payload of ['a', 'b', 'c']) client.send({ user: 'bob' }, { payload });
  const [a, b, c] = world.take('send');
  await world.say(ack(a, 1));
  await world.say(refusal(b, 'overloaded', true));
  client.send({ user: 'bob' }, { payload: 'd' });
  await world.advance(60_000 / 4);
  assert.deepEqual(world.take('send'), [], 'the lane waits until everything in flight was answered');
  await world.say(refusal(c, 'gate_closed', true));
  await world.advance(1000);
  const again = world.take('send');
  assert.deepEqual(payloads(again), ['b', 'c', 'd']);
  assert.deepEqual(again.map((frame) => frame.restart ?? false), [true, false, false]);
  assert.equal(again[0].client_msg_id, b.client_msg_id);
});

test('a refused conversation does not hold up another', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  client.send({ user: 'bob' }, { payload: 'a' });
  const [a] = world.take('send');
  await world.say(refusal(a, 'retry', true));
  client.send({ conv: 'g:team' }, { payload: 'b' });
  assert.deepEqual(payloads(world.take('send')), ['b']);
});

test('a permanent refusal takes out one message and nothing else', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  const refused = client.send({ user: 'bob' }, { payload: 'a' });
  client.send({ user: 'bob' }, { payload: 'b' });
  const [a, b] = world.take('send');
  await world.say(refusal(a, 'not_member', false));
  await assert.rejects(refused.done, { code: 'not_member' });
  await world.say(ack(b, 1));
  await world.advance(10_000);
  assert.deepEqual(world.take('send'), []);
  assert.equal(client.resend(refused.clientMsgId), true);
  const [again] = world.take('send');
  assert.equal(again.client_msg_id, a.client_msg_id);
});

test('a restart that is refused for good is said again by the next message', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  for (const payload of ['a', 'b']) client.send({ user: 'bob' }, { payload });
  const [a, b] = world.take('send');
  await world.say(refusal(a, 'retry', true));
  await world.say(refusal(b, 'gate_closed', true));
  await world.advance(1000);
  const [again] = world.take('send');
  assert.equal(again.restart, true);
  await world.say(refusal(again, 'not_member', false));
  client.send({ user: 'bob' }, { payload: 'c' });
  const [c] = world.take('send');
  assert.deepEqual([c.payload, c.restart], ['c', true]);
});

test('a lost connection sends the unacknowledged again, oldest first, and only those', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  for (const payload of ['a', 'b', 'c']) client.send({ user: 'bob' }, { payload });
  const [a, b] = world.take('send');
  await world.say(ack(a, 1));
  await world.closeWith(1006);
  client.send({ user: 'bob' }, { payload: 'd' });
  await world.advance(30_000);
  await world.login(client, { conversations: [convState(1, 1)] });
  const again = world.take('send');
  assert.deepEqual(payloads(again), ['b', 'c', 'd']);
  assert.equal(again[0].restart, true);
  assert.equal(again[0].client_msg_id, b.client_msg_id);
});

test('messages written before the first login go out after it, in order', async () => {
  const world = new FakeWorld();
  const client = world.client();
  client.send({ user: 'bob' }, { payload: 'a' });
  client.send({ conv: CONV }, { payload: 'b' });
  await world.login(client);
  assert.deepEqual(payloads(world.take('send')), ['a', 'b']);
});

test('giving up fails what was not acknowledged', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  const { done } = client.send({ user: 'bob' }, { payload: 'a' });
  await world.closeWith(4502, 'removed by an administrator');
  await assert.rejects(done, { code: 'closed' });
  const late = client.send({ user: 'bob' }, { payload: 'b' });
  await assert.rejects(late.done, { code: 'closed' });
});
