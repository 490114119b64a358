/**
 * What a user sees when the gateway dies, drains, or takes a login elsewhere: the page says so, comes back by itself when
 * it should and stays away when it should, and what was written meanwhile arrives once.
 *
 * Starts and ends a gateway of its own. Environment: `CORELANE_BIN_DIR`, where its binary is, and what `page.mjs` takes.
 */

import assert from 'node:assert/strict';
import { Gateway } from './gateway.mjs';
import { at, Browser, bubbles, eventually, online, openChat, row, say, sees, stored, texts, write } from './page.mjs';

const gateway = new Gateway(process.env.CORELANE_BIN_DIR ?? '../../target/ci');
await gateway.start();
// A browser reports every connection that it could not make.
const browser = await Browser.start(gateway.baseUrl, /WebSocket connection to .* failed|ERR_CONNECTION_REFUSED/);
const check = (name, body) => browser.check(name, body);

/** WebSockets that a page opens, each as the types of the frames it got. */
function sockets(page) {
  const opened = [];
  page.on('websocket', (socket) => {
    const frames = [];
    opened.push(frames);
    socket.on('framereceived', ({ payload }) => frames.push(JSON.parse(String(payload)).type));
  });
  return opened;
}

const state = (page) => at(page, 'connection').getAttribute('data-state');
const banner = (page) => at(page, 'banner-text');
/** A page that was loaded again forgets this. */
const mark = (page) => page.evaluate(() => (window.loadedOnce = true));
/** The page notes the states of its connection from now on. */
const noteStates = (page) =>
  page.evaluate(() => {
    window.states = [];
    const connection = document.getElementById('connection');
    new MutationObserver(() => window.states.push(connection.dataset.state)).observe(connection, { attributes: true });
  });
const loadedOnce = (page) => page.evaluate(() => window.loadedOnce === true);

const sofar = ['before', 'on its way', 'written while away', 'I got it'];
let alice;
let bob;
let twin;
let aliceSockets;

await check('two users chat', async () => {
  alice = await browser.login('alice');
  bob = await browser.login('bob');
  await openChat(alice, 'bob');
  await say(alice, 'before');
  await row(bob, 'alice').click();
  await sees(bob, 'before');
  for (const page of [alice, bob]) await mark(page);
});

await check('when the gateway is killed the pages say that they reconnect', async () => {
  gateway.pause();
  await write(alice, 'on its way');
  await eventually(() => bubbles(alice, 'on its way').getAttribute('data-state'), 'sending', 'state of the message');
  await gateway.kill();
  for (const page of [alice, bob]) {
    await banner(page).waitFor();
    await eventually(async () => /^Connection lost\./.test(await banner(page).textContent()), true, 'text of the banner');
    assert.ok(['waiting', 'connecting'].includes(await state(page)), await state(page));
  }
});

await check('a message that is written meanwhile waits, and so does a draft', async () => {
  await write(alice, 'written while away');
  await eventually(() => bubbles(alice, 'written while away').getAttribute('data-state'), 'sending', 'state of the message');
  await at(alice, 'composer').fill('a draft');
  await browser.shoot('lost');
});

await check('they come back without being loaded again', async () => {
  await gateway.start();
  for (const page of [alice, bob]) {
    await online(page);
    assert.ok(!(await at(page, 'banner').isVisible()));
    assert.ok(await loadedOnce(page));
  }
  assert.equal(await at(alice, 'composer').inputValue(), 'a draft');
});

await check('what was on its way and what was written while away arrives, once and in order', async () => {
  await stored(alice, 'on its way');
  await stored(alice, 'written while away');
  await sees(bob, 'written while away');
  await say(bob, 'I got it');
  await sees(alice, 'I got it');
  for (const page of [alice, bob]) assert.deepEqual(await texts(page), sofar);
  await browser.shoot('back');
});

await check('a login with the same device elsewhere signs the first page out, which says so', async () => {
  aliceSockets = sockets(alice);
  const session = await alice.evaluate(() => sessionStorage.getItem('corelane-demo-session'));
  twin = await browser.tab('alice-again');
  await twin.addInitScript((text) => sessionStorage.setItem('corelane-demo-session', text), session);
  await twin.goto(`${gateway.baseUrl}/`);
  await online(twin);
  await eventually(() => state(alice), 'closed', 'state of the first page');
  assert.equal(await banner(alice).textContent(), 'Signed out: you logged in somewhere else.');
  assert.ok(await at(alice, 'composer').isDisabled(), 'nothing can be written that would not be sent');
  await browser.shoot('elsewhere');
});

await check('a gateway that drains tells the pages, and they leave before it ends', async () => {
  // Only the sockets that a page opens from now on show their frames.
  const bobSockets = sockets(bob);
  // The moment to leave is random within the window: not at its very end here.
  await bob.addInitScript(() => (Math.random = () => 0.25));
  await bob.reload();
  await online(bob);
  await row(bob, 'alice').click();
  await mark(bob);
  await noteStates(bob);
  const frames = bobSockets.at(-1);
  await gateway.drain();
  assert.ok(frames.includes('go_away'), frames.join(' '));
  // Who leaves looks for another gateway at once; who is left waits first.
  assert.equal((await bob.evaluate(() => window.states))[0], 'connecting');
  await write(bob, 'written while it was away');
  await gateway.start();
  for (const page of [bob, twin]) await online(page);
  assert.ok(await loadedOnce(bob));
  await stored(bob, 'written while it was away');
  await row(twin, 'bob').click();
  await sees(twin, 'written while it was away');
  await say(twin, 'welcome back');
  await sees(bob, 'welcome back');
  const all = [...sofar, 'written while it was away', 'welcome back'];
  for (const page of [bob, twin]) assert.deepEqual(await texts(page), all);
});

await check('the page that was signed out did not come back while the others did', async () => {
  assert.equal(await state(alice), 'closed');
  assert.deepEqual(aliceSockets, []);
  assert.deepEqual(await texts(alice), sofar);
});

await check('it comes back when its user says so, and the other is signed out', async () => {
  await at(alice, 'banner-action').click();
  await online(alice);
  await eventually(() => state(twin), 'closed', 'state of the second page');
  await sees(alice, 'welcome back');
  assert.ok(!(await at(alice, 'composer').isDisabled()));
  await say(alice, 'here again');
  await sees(bob, 'here again');
});

await check('no page reported an error', async () => assert.deepEqual(browser.problems, []));

await browser.end();
await gateway.stop();
