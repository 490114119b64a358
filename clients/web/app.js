// @ts-check
/**
 * The demo page: logs in by link or form, and ties the SDK to the list and the open conversation.
 *
 * A link `/?user=alice&token=...` logs in; the token moves from the address into this tab's session storage at once, so
 * that it is neither copied nor kept in the history. Whoever made the link chose whose session that is, so the page says
 * it: the name it shows is the one that the gateway took from the token, and a link that takes the tab from another user
 * is told of. The open conversation stands in the address behind `#`.
 */

import { connect, directConv, groupConv, isId } from './corelane.js';
import { ChatPane } from './chat.js';
import { ConversationList } from './list.js';
import { avatar, byId } from './dom.js';

/** @typedef {{user: string, token: string, device: string}} Session */

const SESSION_KEY = 'corelane-demo-session';

start();

async function start() {
  const before = savedSession();
  const session = sessionFromLink(before) ?? before;
  if (session) await enter(session, before?.user ?? session.user);
  else showLogin();
}

/**
 * @param {Session | null} known
 * @returns {Session | null}
 */
function sessionFromLink(known) {
  const query = new URLSearchParams(location.search);
  const token = query.get('token');
  const user = query.get('user');
  if (token === null) return null;
  query.delete('token');
  history.replaceState(null, '', `${location.pathname}?${query}${location.hash}`);
  if (!token || !user) return null;
  const session = { user, token, device: known?.user === user ? known.device : newDevice() };
  save(session);
  return session;
}

/** @returns {Session | null} */
function savedSession() {
  try {
    return JSON.parse(sessionStorage.getItem(SESSION_KEY) ?? 'null');
  } catch {
    return null;
  }
}

/** @param {Session | null} session */
function save(session) {
  if (session) sessionStorage.setItem(SESSION_KEY, JSON.stringify(session));
  else sessionStorage.removeItem(SESSION_KEY);
}

/** Each tab is a device of its own. */
function newDevice() {
  return `tab-${Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

/**
 * Asks the API; an answer that is no success becomes an error with the server's words.
 * @param {string} path
 * @param {{body?: unknown, token?: string}} request
 * @returns {Promise<any>}
 */
async function api(path, { body, token } = {}) {
  const headers = new Headers();
  if (body !== undefined) headers.set('content-type', 'application/json');
  if (token) headers.set('authorization', `Bearer ${token}`);
  const response = await fetch(path, { method: body === undefined ? 'GET' : 'POST', headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.text ?? `the server answered ${response.status}`);
  return answer;
}

/** @param {string} user */
async function mintToken(user) {
  return (await api('/v1/demo/token', { body: { user } })).token;
}

async function gatewayUrl() {
  try {
    const { ws_url: url } = await api('/v1/demo/config');
    if (url) {
      const address = new URL(url);
      // A gateway that listens on every address is reached at the one this page came from.
      if (address.hostname === '0.0.0.0' || address.hostname === '[::]') address.hostname = location.hostname;
      return address.href;
    }
  } catch {
    // A page served by something else than an embedded gateway: the default port of the same host.
  }
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.hostname}:7070/ws`;
}

// ---- logging in -----------------------------------------------------------------------------------------------

function showLogin(problem = '') {
  byId('chat').hidden = true;
  byId('login').hidden = false;
  tell('login-error', problem);
  const input = /** @type {HTMLInputElement} */ (byId('login-user'));
  input.value = new URLSearchParams(location.search).get('user') ?? '';
  input.focus();
  byId('login-form').onsubmit = async (event) => {
    event.preventDefault();
    const user = input.value.trim();
    if (!isId(user)) return tell('login-error', 'A name has 1 to 64 characters.');
    try {
      const session = { user, token: await mintToken(user), device: newDevice() };
      save(session);
      history.replaceState(null, '', `${location.pathname}?user=${encodeURIComponent(user)}`);
      tell('login-error', '');
      await enter(session, user);
    } catch (error) {
      tell('login-error', `Could not log in: ${/** @type {Error} */ (error).message}`);
    }
  };
}

/**
 * @param {Session} session
 * @param {string} before whose tab it was
 */
async function enter(session, before) {
  byId('login').hidden = true;
  byId('chat').hidden = false;
  showUser(session.user);
  let expired = false;
  let toldWhose = false;
  const client = connect({
    url: await gatewayUrl(),
    terminal: 'web',
    device: session.device,
    token: async () => {
      if (expired) {
        session.token = await mintToken(session.user);
        save(session);
        expired = false;
      }
      return session.token;
    },
  });
  const pane = new ChatPane(client);
  const list = new ConversationList(client, (conv) => (location.hash = encodeURIComponent(conv)));

  const follow = () => {
    const conv = client.user ? conversationInAddress() : '';
    if (conv !== pane.current) pane.open(conv);
    list.select(conv);
    byId('chat').classList.toggle('conversation-open', conv !== '');
  };
  addEventListener('hashchange', follow);
  byId('back').onclick = () => (location.hash = '');
  client.addEventListener('synced', follow);
  client.addEventListener('state', (event) => {
    const detail = /** @type {CustomEvent<import('./corelane.js').StateDetail>} */ (event).detail;
    expired ||= detail.code === 4005;
    if (detail.state === 'online' && !toldWhose) {
      toldWhose = true;
      tellWhose(client.user, session, before);
    }
    showState(client, detail);
  });
  showState(client, { state: client.state, reason: '', code: 0, retryInMs: 0 });
  dialogs(client, session);
  byId('logout').onclick = () => {
    client.close();
    leave();
  };
  addEventListener('online', () => client.state === 'waiting' && client.open());
}

/** @param {string} user */
function showUser(user) {
  byId('me').textContent = user;
  byId('me-avatar').replaceChildren(avatar(user));
}

/**
 * Says so when the session is not of whom one would think.
 * @param {string} user whom the token names
 * @param {Session} session whom the link names
 * @param {string} before
 */
function tellWhose(user, session, before) {
  let text = '';
  if (user !== session.user) {
    text = `The link said ${session.user}, but its token is of ${user}. You are logged in as ${user}.`;
    session.user = user;
    save(session);
    showUser(user);
  } else if (user !== before) {
    text = `The link logged you in as ${user}. Before, this tab was logged in as ${before}.`;
  }
  tell('notice-text', text);
  byId('notice').hidden = text === '';
  byId('notice-close').onclick = () => (byId('notice').hidden = true);
}

function leave() {
  save(null);
  // A fresh page is the simplest way to hold nothing of the user.
  location.href = location.pathname;
}

function conversationInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return '';
  }
}

// ---- connection -----------------------------------------------------------------------------------------------

/** @type {ReturnType<typeof setInterval> | undefined} */
let countdown;

/** Why one is signed out, for people. @type {Record<number, string>} */
const SIGNED_OUT = {
  4500: 'your login is not accepted any more',
  4501: 'you logged in somewhere else',
  4502: 'an administrator ended your session',
  4505: 'you are logged in at too many places',
};

/**
 * @param {import('./corelane.js').CorelaneClient} client
 * @param {import('./corelane.js').StateDetail} detail
 */
function showState(client, { state, reason, code, retryInMs }) {
  clearInterval(countdown);
  const connection = byId('connection');
  connection.dataset.state = state;
  connection.textContent = { connecting: 'connecting…', online: 'online', waiting: 'reconnecting…', closed: 'signed out' }[state];
  const banner = byId('banner');
  const action = byId('banner-action');
  banner.dataset.state = state;
  banner.hidden = state === 'online' || (state === 'connecting' && banner.hidden);
  action.hidden = state === 'online' || state === 'connecting';
  if (state === 'connecting') byId('banner-text').textContent = 'Connection lost. Reconnecting…';
  if (state === 'waiting') {
    const until = Date.now() + retryInMs;
    const say = () => {
      const seconds = Math.ceil(Math.max(0, until - Date.now()) / 1000);
      byId('banner-text').textContent = `Connection lost. Next attempt in ${seconds} s.`;
    };
    say();
    countdown = setInterval(say, 500);
    action.textContent = 'Retry now';
    action.onclick = () => client.open();
  }
  if (state === 'closed') {
    byId('banner-text').textContent = `Signed out: ${SIGNED_OUT[code] ?? reason}.`;
    const again = code === 4501 || code === 4502 || code === 4505;
    action.textContent = again ? 'Log in again here' : 'Log in';
    action.onclick = () => (again ? client.open() : leave());
  }
}

// ---- dialogs --------------------------------------------------------------------------------------------------

/**
 * @param {import('./corelane.js').CorelaneClient} client
 * @param {Session} session
 */
function dialogs(client, session) {
  dialog('new-chat', 'chat-dialog', 'chat-form', 'chat-problem', async () => {
    const user = field('chat-user');
    if (!isId(user)) throw new Error('a name has 1 to 64 characters');
    location.hash = encodeURIComponent(directConv(session.user, user));
  });
  dialog('new-group', 'group-dialog', 'group-form', 'group-problem', async () => {
    const group = field('group-name');
    const others = field('group-members').split(/[\s,;]+/).filter(Boolean);
    if (!isId(group)) throw new Error('a name has 1 to 64 characters');
    const unfit = others.find((user) => !isId(user));
    if (unfit) throw new Error(`${unfit} is no user name`);
    const members = [...new Set([session.user, ...others])];
    await api('/v1/demo/groups', { body: { group, members }, token: session.token });
    location.hash = encodeURIComponent(groupConv(group));
  });
}

/**
 * @param {string} button
 * @param {string} id
 * @param {string} form
 * @param {string} problem
 * @param {() => Promise<void>} submit
 */
function dialog(button, id, form, problem, submit) {
  const element = /** @type {HTMLDialogElement} */ (byId(id));
  byId(button).onclick = () => {
    /** @type {HTMLFormElement} */ (byId(form)).reset();
    tell(problem, '');
    element.showModal();
  };
  for (const close of element.querySelectorAll('[data-close]')) close.addEventListener('click', () => element.close());
  byId(form).onsubmit = async (event) => {
    event.preventDefault();
    const button = /** @type {HTMLButtonElement} */ (element.querySelector('.primary'));
    button.disabled = true;
    try {
      await submit();
      element.close();
    } catch (error) {
      tell(problem, `That did not work: ${/** @type {Error} */ (error).message}.`);
    } finally {
      button.disabled = false;
    }
  };
}

/** @param {string} id */
function field(id) {
  return /** @type {HTMLInputElement} */ (byId(id)).value.trim();
}

/**
 * @param {string} id
 * @param {string} problem
 */
function tell(id, problem) {
  byId(id).textContent = problem;
  byId(id).hidden = problem === '';
}
