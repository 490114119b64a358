/** A cursor that outlives the page never stands behind a message that was not shown. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeWorld, convState, message, pullPage } from './fake.js';

class Storage {
  saved = null;
  saves = [];
  load = () => this.saved;
  save = (saved) => {
    this.saved = saved;
    this.saves.push(saved?.cursor ?? null);
  };
}

const team = (headSeq, readSeq) => convState(headSeq, readSeq, { conv: 'g:team', last: null });

test('the cursor is saved when what its sync told of was shown, once', async () => {
  const world = new FakeWorld();
  const storage = new Storage();
  const client = world.client({ storage });
  await world.login(client, { conversations: [convState(5, 2), team(1, 0)] });
  assert.equal(storage.saved, null);
  const [first, ofTeam] = world.take('pull');
  await world.say(pullPage(first, [message(3), message(4)], 5, 5));
  await world.say(pullPage(ofTeam, [message(1, { conv: 'g:team' })], 1));
  assert.equal(storage.saved, null, 'one place is missing');
  const [second] = world.take('pull');
  await world.say(pullPage(second, [message(5)], 5));
  assert.deepEqual(client.shown(), [3, 4, 1, 5]);
  assert.deepEqual(storage.saved, { cursor: 'Y3Vyc29y', epoch: '00000000000000aa' });
  await world.say(message(6));
  await world.advance(1000);
  assert.deepEqual(storage.saves.filter(Boolean).length, 1);
});

test('a reload between sync and pull gets everything again', async () => {
  const world = new FakeWorld();
  const storage = new Storage();
  await world.login(world.client({ storage }), { conversations: [convState(2, 2)] });
  assert.equal(storage.saved.cursor, 'Y3Vyc29y');
  await world.closeWith(1006);
  await world.advance(30_000);
  await world.settle();
  world.socket.onopen();
  await world.say({
    type: 'welcome', session: '1', user: 'alice', epoch: '00000000000000aa', window: 4, payload_bytes_max: 65536, heartbeat_ms: 60_000, server_time_ms: 0,
  });
  const [sync] = world.take('sync');
  await world.say({ type: 'sync_page', ref: sync.ref, cursor: 'bGF0ZXI=', more: false, conversations: [convState(4, 2)] });
  assert.equal(world.take('pull').length, 1);
  // The page is loaded again before the pull was answered.
  const again = world.client({ storage });
  const repeated = await world.login(again, { conversations: [convState(4, 2)] });
  assert.equal(repeated.cursor, 'Y3Vyc29y');
  const [pull] = world.take('pull');
  await world.say(pullPage(pull, [message(3), message(4)], 4));
  assert.deepEqual(again.shown(), [3, 4]);
});

test('a gap that a lost connection left is pulled after the next login although the sync does not tell of it', async () => {
  const world = new FakeWorld();
  const storage = new Storage();
  const client = world.client({ storage });
  await world.login(client, { conversations: [convState(4, 2)] });
  await world.closeWith(1006);
  await world.advance(30_000);
  await world.login(client, { conversations: [] });
  assert.equal(storage.saved, null);
  const [pull] = world.take('pull');
  assert.deepEqual([pull?.from_seq, pull?.to_seq], [3, 4]);
  await world.say(pullPage(pull, [message(3), message(4)], 4));
  assert.equal(storage.saved.cursor, 'Y3Vyc29y');
});

test('a pull that is refused for now is asked again after a pause', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(4, 2)] });
  const [pull] = world.take('pull');
  await world.say({ type: 'error', ref: pull.ref, code: 'overloaded', retryable: true, text: 'later' });
  await world.advance(499);
  assert.deepEqual(world.take('pull'), []);
  await world.advance(1501);
  const [again, ...more] = world.take('pull');
  assert.deepEqual([again.from_seq, again.to_seq, more.length], [3, 4, 0]);
  await world.say(pullPage(again, [message(3), message(4)], 4));
  assert.deepEqual(client.shown(), [3, 4]);
});
