/**
 * Two people chat on the demo page, three in a group, one of them later: what the README promises, seen in a browser.
 *
 * Needs a running gateway with the demo page. Environment: `BASE_URL`, its HTTP address, such as http://127.0.0.1:7080;
 * `LINKS`, the printed log-in links as JSON, [{"user": "alice", "link": "http://..."}, ...]; and what `page.mjs` takes.
 * Who has no link uses the form.
 */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { at, Browser, bubbles, eventually, online, openChat, row, say, sees, stored, texts, unread } from './page.mjs';

const baseUrl = (process.env.BASE_URL ?? '').replace(/\/$/, '');
if (!baseUrl) {
  console.error('BASE_URL is missing: the HTTP address of a running gateway, such as http://127.0.0.1:7080');
  process.exit(2);
}
const links = new Map(JSON.parse(process.env.LINKS ?? '[]').map(({ user, link }) => [user, link]));
const browser = await Browser.start(baseUrl);
const check = (name, body) => browser.check(name, body);

// Names of this run only, so that it can be repeated on the same data.
const run = Date.now().toString(36);
const group = `team-${run}`;

async function login(user) {
  const link = links.get(user);
  if (!link) return browser.login(user);
  const page = await browser.tab(user);
  await page.goto(link);
  await online(page);
  return page;
}

const hello = `hello bob ${run}`;
const answer = `hello alice ${run}`;
const markup = `<img src=x onerror="document.title='broken'"> & <b>bold</b> ${run}`;
let alice;
let bob;
let carol;

await check('two printed links log two users in', async () => {
  alice = await login('alice');
  bob = await login('bob');
  assert.equal(await at(alice, 'me').textContent(), 'alice');
  assert.equal(await at(bob, 'me').textContent(), 'bob');
});

await check('the token leaves the address bar', async () => {
  for (const page of [alice, bob]) assert.ok(!page.url().includes('token='), page.url());
});

await check('a link that takes over a tab says whose session it is', async () => {
  const page = await browser.tab('taken');
  const link = async (user, tokenOf) => `${baseUrl}/?user=${user}-${run}&token=${await browser.token(`${tokenOf}-${run}`)}`;
  await page.goto(await link('gina', 'gina'));
  await online(page);
  assert.ok(!(await at(page, 'notice').isVisible()), 'nobody was here before');
  await page.goto(await link('hank', 'hank'));
  await at(page, 'notice-text').getByText(`as hank-${run}. Before, this tab was logged in as gina-${run}`).waitFor();
  await at(page, 'notice-close').click();
  assert.ok(!(await at(page, 'notice').isVisible()));
  await page.goto(await link('hank', 'mallory'));
  await at(page, 'notice-text').getByText(`You are logged in as mallory-${run}`).waitFor();
  await browser.shoot('taken');
  assert.equal(await at(page, 'me').textContent(), `mallory-${run}`);
  await page.goto(`${baseUrl}/?token=${await browser.token('ivan')}`);
  await online(page);
  assert.ok(!page.url().includes('token='), page.url());
  assert.equal(await at(page, 'me').textContent(), `mallory-${run}`);
  await page.close();
});

await check('a first message reaches the other tab and counts as unread there', async () => {
  const before = await unread(bob, 'alice');
  await openChat(alice, 'bob');
  await say(alice, hello);
  await row(bob, 'alice').waitFor();
  await eventually(() => unread(bob, 'alice'), before + 1, 'unread of alice at bob');
  assert.equal(await at(row(bob, 'alice'), 'conversation-last').textContent(), hello);
});

await check('opening the conversation shows it, clears the count and tells the sender', async () => {
  await row(bob, 'alice').click();
  await sees(bob, hello);
  await eventually(() => unread(bob, 'alice'), 0, 'unread of alice at bob');
  await eventually(() => bubbles(alice, hello).getAttribute('data-state'), 'read', 'state of the message at alice');
});

await check('the answer comes back', async () => {
  await say(bob, answer);
  await sees(alice, answer);
});

await check('emoji from the picker go both ways', async () => {
  for (const [from, to, emoji] of [[alice, bob, '🚀'], [bob, alice, '❤️']]) {
    const before = await bubbles(to, emoji).count();
    await at(from, 'emoji-toggle').click();
    await at(from, 'emoji', `[data-emoji="${emoji}"]`).click();
    await from.keyboard.press('Escape');
    await at(from, 'send').click();
    await eventually(() => bubbles(to, emoji).count(), before + 1, `${emoji} on the other page`);
  }
  await say(alice, `mixed 👩‍👩‍👧‍👦 e\u0301 日本語 ${run}`);
  await sees(bob, `mixed 👩‍👩‍👧‍👦 e\u0301 日本語 ${run}`);
});

await check('markup is text', async () => {
  await say(alice, markup);
  await sees(bob, markup);
  assert.equal(await at(bob, 'messages').locator('img, b').count(), 0);
  assert.ok(!(await bob.title()).includes('broken'));
});

await check('many messages from both sides at once stand in the same order on both pages', async () => {
  const typed = async (page, name) => {
    for (let i = 0; i < 15; i++) {
      await at(page, 'composer').fill(`${name} ${i} ${run}`);
      await at(page, 'composer').press('Enter');
    }
  };
  await Promise.all([typed(alice, 'a'), typed(bob, 'b')]);
  const these = async (page) => (await texts(page)).filter((text) => new RegExp(`^[ab] \\d+ ${run}$`).test(text));
  await eventually(async () => (await these(alice)).length, 30, 'messages at alice');
  await eventually(async () => await these(bob), await these(alice), 'order at bob');
  for (const name of ['a', 'b']) {
    const own = (await these(alice)).filter((text) => text.startsWith(name));
    assert.deepEqual(own, Array.from({ length: 15 }, (_, i) => `${name} ${i} ${run}`));
  }
});
await browser.shoot('direct');

await check('a group of three is created, the third being offline', async () => {
  await at(alice, 'new-group').click();
  await at(alice, 'new-group-name').fill(group);
  await at(alice, 'new-group-members').fill('bob, carol');
  await at(alice, 'new-group-submit').click();
  await at(alice, 'peer').getByText(group, { exact: true }).waitFor();
  await say(alice, `first of ${run}`);
  await row(bob, group).waitFor();
  await row(bob, group).click();
  await sees(bob, `first of ${run}`);
  await say(bob, `second of ${run}`);
  await sees(alice, `second of ${run}`);
  await say(alice, `third of ${run} 🎉`);
  await sees(bob, `third of ${run} 🎉`);
});

await check('messages to the one who is offline are stored', async () => {
  await openChat(alice, 'carol');
  await say(alice, `are you there, ${run}?`);
  await say(alice, `write me later, ${run}`);
});

await check('the third logs in later and sees her unread counts', async () => {
  carol = await login('carol');
  await row(carol, group).waitFor();
  await eventually(() => unread(carol, group), 3, 'unread of the group at carol');
  assert.equal(await at(row(carol, group), 'conversation-last').textContent(), `alice: third of ${run} 🎉`);
  assert.ok((await unread(carol, 'alice')) >= 2);
  assert.match(await carol.title(), /^\(\d+\)/);
});
await browser.shoot('later');

await check('she gets everything, in order', async () => {
  await row(carol, group).click();
  const own = async () => (await texts(carol)).filter((text) => text.includes(run));
  await eventually(own, [`first of ${run}`, `second of ${run}`, `third of ${run} 🎉`], 'messages of the group at carol');
  await row(carol, 'alice').click();
  await sees(carol, `are you there, ${run}?`);
  await sees(carol, `write me later, ${run}`);
});

await check('reading clears the counts, also for her next login', async () => {
  for (const title of [group, 'alice']) await eventually(() => unread(carol, title), 0, `unread of ${title} at carol`);
  await carol.reload();
  await online(carol);
  await row(carol, group).waitFor();
  for (const title of [group, 'alice']) await eventually(() => unread(carol, title), 0, `unread of ${title} at carol after a reload`);
});

await check('she answers in the group and both others see it', async () => {
  await row(carol, group).click();
  await say(carol, `here I am, ${run}`);
  await row(alice, group).click();
  await sees(alice, `here I am, ${run}`);
  await sees(bob, `here I am, ${run}`);
});
await browser.shoot('group');

await check('a reload keeps the history, each message once', async () => {
  await row(alice, 'bob').click();
  await sees(alice, markup);
  await alice.reload();
  await online(alice);
  await at(alice, 'peer').getByText('bob', { exact: true }).waitFor();
  await sees(alice, markup);
  const own = async () => (await texts(alice)).filter((text) => text.includes(run) && !/^[ab] \d+ /.test(text));
  await eventually(own, [hello, answer, `mixed 👩‍👩‍👧‍👦 e\u0301 日本語 ${run}`, markup], 'history at alice');
});

await check('scrolling up loads what is older', async () => {
  const conversation = await browser.tab('dora');
  await conversation.goto(`${baseUrl}/`);
  await at(conversation, 'login-user').fill(`dora-${run}`);
  await at(conversation, 'login-submit').click();
  await online(conversation);
  await openChat(conversation, `emil-${run}`);
  for (let i = 1; i <= 120; i++) {
    await at(conversation, 'composer').fill(`line ${i}`);
    await at(conversation, 'composer').press('Enter');
  }
  await stored(conversation, 'line 120');
  await conversation.reload();
  await sees(conversation, 'line 120');
  assert.ok((await at(conversation, 'message').count()) < 120, 'the first screen is not the whole history');
  await eventually(async () => {
    await at(conversation, 'scroller').evaluate((element) => (element.scrollTop = 0));
    return texts(conversation);
  }, Array.from({ length: 120 }, (_, i) => `line ${i + 1}`), 'history after scrolling up');
});

await check('a narrow screen shows the list or the conversation', async () => {
  await carol.setViewportSize({ width: 390, height: 780 });
  assert.ok(await at(carol, 'composer').isVisible());
  assert.ok(!(await at(carol, 'conversations').isVisible()));
  await carol.screenshot({ path: join(browser.outDir, 'narrow-chat.png') });
  await at(carol, 'back').click();
  await at(carol, 'conversations').waitFor();
  assert.ok(!(await at(carol, 'composer').isVisible()));
  await carol.screenshot({ path: join(browser.outDir, 'narrow-list.png') });
});

await check('every control has a name', async () => {
  const unnamed = await alice.evaluate(() =>
    [...document.querySelectorAll('button, input, textarea')]
      .filter((each) => each.checkVisibility() && !(each.getAttribute('aria-label') || each.textContent.trim() || (each.id && document.querySelector(`label[for="${each.id}"]`))))
      .map((each) => each.outerHTML));
  assert.deepEqual(unnamed, []);
});

await check('no page reported an error or asked another host', async () => assert.deepEqual(browser.problems, []));

await browser.end();
