/** A message that is too large harms nobody but itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeWorld } from './fake.js';

const TO_BOB = { user: 'bob' };

test('a payload above the limit is refused here, with its size and the limit', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  for (const [payload, bytes] of [['ä'.repeat(32_769), 65_538], [{ text: 'x'.repeat(65_536) }, 65_547], [new Uint8Array(65_537), 65_537]]) {
    const { done } = client.send(TO_BOB, { payload });
    await assert.rejects(done, (error) => {
      assert.equal(error.code, 'too_large');
      assert.match(error.text, new RegExp(`${bytes} bytes.* 65536`));
      return true;
    });
  }
  assert.deepEqual(world.take('send'), []);
  client.send(TO_BOB, { payload: 'x'.repeat(65_536) });
  client.send(TO_BOB, { payload: 'after' });
  assert.deepEqual(world.take('send').map((send) => send.payload.length), [65_536, 5]);
});

test('a payload that grows above the largest frame when it is escaped is refused here, too', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  const { done } = client.send(TO_BOB, { payload: '\u0001'.repeat(22_000) });
  await assert.rejects(done, (error) => error.code === 'too_large' && /132\d\d\d bytes.* 131072/.test(error.text));
  client.send(TO_BOB, { payload: '\u0001'.repeat(21_000) });
  assert.equal(world.take('send').length, 1);
});

test('what was written before the first login is measured when the limit is known', async () => {
  const world = new FakeWorld();
  const client = world.client();
  const { done } = client.send(TO_BOB, { payload: 'x'.repeat(70_000) });
  client.send(TO_BOB, { payload: 'short' });
  await world.login(client);
  await assert.rejects(done, { code: 'too_large' });
  assert.deepEqual(world.take('send').map((send) => send.payload), ['short']);
});

test('a frame that the gateway hangs up on is not sent for ever', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  const small = client.send(TO_BOB, { payload: 'small' });
  const large = client.send(TO_BOB, { payload: 'x'.repeat(10_000) });
  const other = client.send({ conv: 'g:team' }, { payload: 'other' });
  world.take();
  await world.closeWith(1009);
  await assert.rejects(large.done, (error) => error.code === 'too_large' && /10\d\d\d bytes/.test(error.text));
  assert.equal(client.state, 'waiting');
  await world.advance(30_000);
  await world.login(client);
  assert.deepEqual(world.take('send').map((send) => [send.client_msg_id, send.restart]), [[small.clientMsgId, true], [other.clientMsgId, true]]);
  assert.equal(client.unacknowledged, 2);
  await world.closeWith(1006);
  assert.equal(client.unacknowledged, 2, 'an ordinary loss fails nothing');
});

test('1009 with nothing on its way fails nothing', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  await world.closeWith(1009);
  client.send(TO_BOB, { payload: 'x' });
  await world.advance(30_000);
  await world.login(client);
  assert.equal(world.take('send').length, 1);
  assert.deepEqual(client.log.filter((entry) => entry.type === 'sendfailed'), []);
});
