/** A row that the server cannot serve costs that message and no other. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONV, FakeWorld, convState, message, pullPage } from './fake.js';

/** Answers pulls as the router does until none is left: a read that meets a damaged row is refused as a whole. */
async function serve(world, { head, damaged }) {
  let pulls = 0;
  for (let asked = world.take('pull'); asked.length > 0; asked = world.take('pull')) {
    for (const pull of asked) {
      pulls += 1;
      const to = Math.min(pull.to_seq, pull.from_seq + pull.limit - 1, head);
      const seqs = Array.from({ length: to - pull.from_seq + 1 }, (_, i) => pull.from_seq + i);
      if (seqs.some((seq) => damaged.includes(seq))) {
        await world.say({ type: 'error', ref: pull.ref, code: 'rejected', retryable: false, text: 'store: a row is damaged' });
      } else {
        await world.say(pullPage(pull, seqs.map((seq) => message(seq)), head, to < pull.to_seq ? to + 1 : 0));
      }
    }
  }
  return pulls;
}

const without = (from, to, damaged) => Array.from({ length: to - from + 1 }, (_, i) => from + i).filter((seq) => !damaged.includes(seq));

for (const damaged of [[7], [1], [300], [2, 3, 4], [1, 150, 151, 299]]) {
  test(`of 300 messages all but the damaged ${damaged} are shown`, async () => {
    const world = new FakeWorld();
    const client = world.client();
    await world.login(client, { conversations: [convState(300, 0)] });
    const pulls = await serve(world, { head: 300, damaged });
    assert.deepEqual(client.shown(), without(1, 300, damaged));
    assert.equal(client.log.filter((entry) => entry.type === 'error').length, damaged.length);
    assert.ok(pulls <= 3 + 20 * damaged.length, `${pulls} pulls`);
    await world.say(message(301));
    assert.equal(client.shown().at(-1), 301);
  });
}

test('a table that is damaged from end to end is not asked for eight times as often', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(300, 0)] });
  const pulls = await serve(world, { head: 300, damaged: without(1, 300, []) });
  assert.deepEqual(client.shown(), []);
  assert.ok(pulls < 320, `${pulls} pulls`);
});

test('history passes over a damaged row, too', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(300, 300)] });
  const asked = client.history(CONV, 201, 50);
  await serve(world, { head: 300, damaged: [177, 178] });
  const { messages, more } = await asked;
  assert.deepEqual(messages.map((each) => each.seq), without(151, 200, [177, 178]));
  assert.equal(more, true);
  const behind = client.history(CONV, 151, 2);
  await serve(world, { head: 300, damaged: [149, 150] });
  assert.deepEqual((await behind).messages.map((each) => each.seq), [147, 148], 'a page of nothing is followed by the one before it');
});

test('a refusal of the whole conversation still skips it at once', async () => {
  const world = new FakeWorld();
  const client = world.client();
  await world.login(client, { conversations: [convState(9, 0)] });
  const [pull] = world.take('pull');
  await world.say({ type: 'error', ref: pull.ref, code: 'not_member', retryable: false, text: 'no member' });
  assert.deepEqual(world.take('pull'), []);
  await world.say(message(10));
  assert.deepEqual(client.shown(), [10]);
});
