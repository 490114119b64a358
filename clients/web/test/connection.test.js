/** When the SDK comes back, and when it does not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeWorld } from './fake.js';

test('it says hello with token, terminal and device, and pings at half the heartbeat', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { heartbeatMs: 20_000 });
  assert.deepEqual(world.socket.protocols, ['corelane.json.v1']);
  const [hello] = world.take('hello');
  assert.deepEqual([hello.token, hello.terminal, hello.device, hello.epoch], ['T', 'web', 'd', '0']);
  await world.advance(9_999);
  assert.equal(world.take('ping').length, 0);
  await world.advance(2);
  assert.equal(world.take('ping').length, 1);
});

test('a silent server is left', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { heartbeatMs: 20_000 });
  const first = world.socket;
  await world.advance(31_000);
  assert.equal(first.closedWith, 1000);
  assert.notEqual(client.state, 'closed');
});

test('codes 4000 to 4499 and lost connections reconnect with a growing, random pause', async () => {
  const world = new FakeWorld();
  world.randomValue = 1;
  const client = world.client();
  await world.login(client);
  const waits = [];
  for (const code of [4000, 1006, 4007, 1011]) {
    await world.closeWith(code);
    waits.push(client.log.at(-1).retryInMs);
    assert.equal(client.state, 'waiting');
    await world.advance(waits.at(-1));
    assert.equal(client.state, 'connecting');
  }
  assert.deepEqual(waits, [500, 1000, 2000, 4000]);
  world.randomValue = 0.25;
  await world.closeWith(1006);
  assert.equal(client.log.at(-1).retryInMs, 2000);
});

test('codes 4500 to 4999 give up and say why', async () => {
  for (const code of [4500, 4501, 4502, 4503, 4504, 4505, 4999]) {
    const world = new FakeWorld();
    const client = world.client();
    await world.login(client);
    await world.closeWith(code);
    await world.advance(120_000);
    assert.equal(client.state, 'closed');
    assert.equal(world.sockets.length, 1);
    const { reason, code: told } = client.log.findLast((entry) => entry.type === 'state');
    assert.equal(told, code);
    assert.ok(reason.length > 5);
  }
});

test('an expired token is asked for again; a fixed one is given up when it expires twice', async () => {
  const fresh = new FakeWorld();
  let asked = 0;
  const client = fresh.client({ token: () => `T${++asked}` });
  await fresh.settle();
  fresh.socket.onopen();
  await fresh.closeWith(4005);
  await fresh.advance(1000);
  fresh.socket.onopen();
  assert.equal(fresh.take('hello')[0].token, 'T2');
  assert.equal(client.state, 'connecting');

  const fixed = new FakeWorld();
  const stubborn = fixed.client();
  await fixed.settle();
  await fixed.closeWith(4005);
  await fixed.advance(1000);
  await fixed.closeWith(4005);
  assert.equal(stubborn.state, 'closed');
});

test('GoAway moves the client at a random moment within the window', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  world.randomValue = 0.5;
  await world.say({ type: 'go_away', after_ms: 1000, window_ms: 4000 });
  await world.advance(2_900);
  assert.equal(world.sockets.length, 1);
  await world.advance(200);
  assert.equal(world.sockets.length, 2);
  assert.equal(client.state, 'connecting');
});

test('a gateway that closes before its GoAway window is not dialled before the window', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client);
  await world.say({ type: 'go_away', after_ms: 5000, window_ms: 1000 });
  await world.closeWith(4000);
  assert.equal(client.state, 'waiting');
  await world.advance(4_900);
  assert.equal(world.sockets.length, 1);
  await world.advance(1_200);
  assert.equal(world.sockets.length, 2);
});

test('close() is final, and open() cuts a wait short', async () => {
  const world = new FakeWorld();
  world.randomValue = 1;
  const client = world.client();
  await world.login(client);
  await world.closeWith(1006);
  client.open();
  await world.settle();
  assert.equal(world.sockets.length, 2);
  client.close();
  await world.advance(120_000);
  assert.equal(world.sockets.length, 2);
  assert.equal(client.state, 'closed');
});
