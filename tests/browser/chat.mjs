/**
 * Two people chat on the demo page, three in a group, one of them later: what the README promises, seen in a browser.
 *
 * Needs a running gateway with the demo page. Environment:
 * - `BASE_URL`  its HTTP address, such as http://127.0.0.1:7080
 * - `LINKS`     the printed log-in links as JSON, [{"user": "alice", "link": "http://..."}, ...]; who has none uses the form
 * - `OUT_DIR`   where screenshots go; a new directory below the system's temporary one by default
 * - `CHROMIUM`  the browser; /usr/bin/chromium by default
 *
 * Prints `ok - name` for each check. Stops at the first that fails, with `not ok - name` and screenshots, and exits 1.
 */

import assert from 'node:assert/strict';
import { mkdtemp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const DEADLINE_MS = 15_000;
const baseUrl = (process.env.BASE_URL ?? '').replace(/\/$/, '');
if (!baseUrl) {
  console.error('BASE_URL is missing: the HTTP address of a running gateway, such as http://127.0.0.1:7080');
  process.exit(2);
}
const links = new Map(JSON.parse(process.env.LINKS ?? '[]').map(({ user, link }) => [user, link]));
const outDir = process.env.OUT_DIR ?? (await mkdtemp(join(tmpdir(), 'corelane-browser-')));
await mkdir(outDir, { recursive: true });

// Names of this run only, so that it can be repeated on the same data.
const run = Date.now().toString(36);
const group = `team-${run}`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
    '--disable-sync',
  ],
});
const context = await browser.newContext({ viewport: { width: 1100, height: 760 } });
context.setDefaultTimeout(DEADLINE_MS);
const problems = [];
/** @type {Map<string, import('playwright-core').Page>} */
const tabs = new Map();

async function tab(name) {
  const page = await context.newPage();
  tabs.set(name, page);
  page.on('pageerror', (error) => problems.push(`${name}: ${error.message}`));
  page.on('console', (line) => line.type() === 'error' && problems.push(`${name}: ${line.text()}`));
  page.on('request', (request) => {
    const { hostname, protocol } = new URL(request.url());
    if (protocol !== 'data:' && hostname !== new URL(baseUrl).hostname) problems.push(`${name}: asked for ${request.url()}`);
  });
  return page;
}

const at = (page, testId, more = '') => page.locator(`[data-testid="${testId}"]${more}`);
const row = (page, title) => at(page, 'conversation').filter({ has: at(page, 'conversation-name').getByText(title, { exact: true }) });
const bubbles = (page, text) => at(page, 'message').filter({ has: at(page, 'message-text').getByText(text, { exact: true }) });
const texts = (page) => at(page, 'message-text').allTextContents();

/** Waits until `read` gives what `expected` says, and says what it gave last if it never does. */
async function eventually(read, expected, what) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const seen = await read();
    try {
      assert.deepEqual(seen, expected);
      return;
    } catch (error) {
      if (Date.now() > end) throw new Error(`${what}: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function login(user) {
  const page = await tab(user);
  const link = links.get(user);
  await page.goto(link ?? `${baseUrl}/`);
  if (!link) {
    await at(page, 'login-user').fill(user);
    await at(page, 'login-submit').click();
  }
  await online(page);
  return page;
}

async function online(page) {
  await at(page, 'connection', '[data-state="online"]').waitFor();
}

async function openChat(page, user) {
  await at(page, 'new-chat').click();
  await at(page, 'new-chat-user').fill(user);
  await at(page, 'new-chat-submit').click();
  await at(page, 'peer').getByText(user, { exact: true }).waitFor();
}

async function say(page, text) {
  await at(page, 'composer').fill(text);
  await at(page, 'composer').press('Enter');
  await stored(page, text);
}

async function stored(page, text) {
  const states = () => bubbles(page, text).last().getAttribute('data-state');
  const end = Date.now() + DEADLINE_MS;
  while (!['stored', 'read'].includes(await states())) {
    if (Date.now() > end) throw new Error(`${JSON.stringify(text)} is ${await states()} on the sender's page, not stored`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function sees(page, text) {
  await bubbles(page, text).last().waitFor();
}

async function unread(page, title) {
  const badge = at(row(page, title), 'conversation-unread');
  return (await badge.count()) === 0 ? 0 : Number(await badge.textContent());
}

async function shoot(name) {
  const shots = [];
  for (const [user, page] of tabs) {
    const path = join(outDir, `${name}-${user}.png`);
    await page.screenshot({ path }).then(() => shots.push(path), () => {});
  }
  return shots;
}

async function check(name, body) {
  try {
    await body();
    console.log(`ok - ${name}`);
  } catch (error) {
    const shots = await shoot('failed');
    console.log(`not ok - ${name}\n${error.message}\nscreenshots: ${shots.join(' ')}`);
    if (problems.length > 0) console.log(`said by the pages:\n${problems.join('\n')}`);
    await browser.close();
    process.exit(1);
  }
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
await shoot('direct');

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
await shoot('later');

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
await shoot('group');

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
  const conversation = await tab('dora');
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
  await carol.screenshot({ path: join(outDir, 'narrow-chat.png') });
  await at(carol, 'back').click();
  await at(carol, 'conversations').waitFor();
  assert.ok(!(await at(carol, 'composer').isVisible()));
  await carol.screenshot({ path: join(outDir, 'narrow-list.png') });
});

await check('every control has a name', async () => {
  const unnamed = await alice.evaluate(() =>
    [...document.querySelectorAll('button, input, textarea')]
      .filter((each) => each.checkVisibility() && !(each.getAttribute('aria-label') || each.textContent.trim() || (each.id && document.querySelector(`label[for="${each.id}"]`))))
      .map((each) => each.outerHTML));
  assert.deepEqual(unnamed, []);
});

await check('no page reported an error or asked another host', async () => assert.deepEqual(problems, []));

console.log(`screenshots: ${outDir}`);
await browser.close();
