// @ts-check
/**
 * Corelane in a browser: logs in over a WebSocket (subprotocol `corelane.json.v1`), stays logged in, sends and shows.
 *
 *     const client = connect({ url, token, device: 'tab-1' });
 *     client.addEventListener('message', ({ detail }) => show(detail.message));
 *     const { clientMsgId, done } = client.send({ user: 'bob' }, { payload: 'hello' });
 *
 * Owns the connection, the outbox (`outbox.js`) and what is known of each conversation (`timeline.js`). Never shows a
 * message twice or out of order; what it missed it pulls. Bounds: the outbox refuses a message when full, unread messages
 * are fetched by itself up to `catchUpMax` per conversation (older ones are there for `history`), four pulls at a time.
 *
 * Events (`detail`):
 * - `state` {@link StateDetail}: connecting, online, waiting (for the next attempt), closed (given up or `close()`)
 * - `message` `{message, live}`: once each and in order per conversation, one's own from here and elsewhere included
 * - `conversation` `{conv}`: head, read mark or last message changed; look at `conversations`
 * - `synced`: the list of conversations is complete for this login
 * - `reset` `{conv}`: forget what was shown of it (`null`: of all); the log changed, or too much was missed
 * - `ack` `{conv, seq, n, timeMs, clientMsgId}` and `sendfailed` `{conv, clientMsgId, code, text}`
 * - `read` `{conv, whose, seq}`, `typing` `{conv, from, on}`, `call` `{conv, from, callId, step, body}`
 * - `error` `{code, text}`: a refusal that belongs to nothing else
 */

import { GIVE_UP_REASONS, backoffMs, mayReconnect } from './backoff.js';
import { directConv, plainId, uuidV7Source } from './ids.js';
import { Outbox } from './outbox.js';
import { Timeline } from './timeline.js';

export { directConv, groupConv, isId, parseConv, peerOf } from './ids.js';

/** @typedef {import('./timeline.js').Message} Message */
/** @typedef {{user: string} | {conv: string}} Target */
/** @typedef {'connecting' | 'online' | 'waiting' | 'closed'} State */

/**
 * @typedef {object} StateDetail
 * @property {State} state
 * @property {string} reason why it waits or was closed; empty otherwise
 * @property {number} code the close code; 0 if there was none
 * @property {number} retryInMs when the next attempt starts; 0 unless waiting
 */

/**
 * Where a cursor outlives the page. Keep the conversations beside it: the next sync tells only what changed since.
 * @typedef {object} CursorStorage
 * @property {() => ({cursor: string, epoch: string} | null)} load
 * @property {(saved: {cursor: string, epoch: string} | null) => void} save
 */

/**
 * The world outside; tests bring their own.
 * @typedef {object} Environment
 * @property {new (url: string, protocols: string[]) => any} WebSocket
 * @property {(run: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} now ms since 1970
 * @property {() => number} random in [0, 1)
 * @property {(count: number) => Uint8Array} randomBytes
 */

/**
 * @typedef {object} Options
 * @property {string} url of the gateway, `ws://host:7070/ws`
 * @property {string | (() => string | Promise<string>)} token a function is asked again when a token expired
 * @property {string} [terminal] class of the terminal, `web` by default
 * @property {string} [device] one session per (user, terminal, device)
 * @property {CursorStorage} [storage] memory by default
 * @property {number} [catchUpMax] most missed messages per conversation that are fetched unasked; 500 by default
 * @property {Partial<Environment>} [environment]
 */

/** A frame that was refused, or could not be sent. */
export class CorelaneError extends Error {
  /**
   * @param {string} code a code of the `Error` frame, or `disconnected`, `closed`, `queue_full`
   * @param {string} text
   * @param {boolean} retryable
   */
  constructor(code, text, retryable = false) {
    super(`${code}: ${text}`);
    this.code = code;
    this.text = text;
    this.retryable = retryable;
  }
}

const SUBPROTOCOL = 'corelane.json.v1';
const RECONNECT_BASE_MS = 500;
const RECONNECT_CAP_MS = 30_000;
/** A connection that is not welcomed, or an answer that does not come, within this time is taken for dead. */
const ANSWER_MS_MAX = 20_000;
const PULLS_MAX = 4;
const PULL_LIMIT = 200;
const SYNC_LIMIT = 200;
/** An ack may overtake messages of others that are on their way: a gap is pulled when it is older than this. */
const GAP_GRACE_MS = 200;
/** Messages of conversations not known yet, waiting for the sync that tells of them. */
const STRANGERS_MAX = 1000;
const RETRYABLE = new Set(['retry', 'overloaded', 'gate_closed', 'rate_limited', 'unavailable']);

/**
 * Connects and stays connected.
 * @param {Options} options
 */
export function connect(options) {
  const client = new CorelaneClient(options);
  client.open();
  return client;
}

export class CorelaneClient extends EventTarget {
  #options;
  /** @type {Environment} */
  #env;
  #newId;
  /** @type {State} */
  #state = 'closed';
  /** @type {any} */
  #socket = null;
  /** Counts dials, so that one overtaken by another notices. */
  #attempt = 0;
  /** Attempts that failed since the last Welcome. */
  #failures = 0;
  #nextRef = 1;
  /** @type {Map<number, {resolve: (frame: any) => void, reject: (error: CorelaneError) => void}>} */
  #requests = new Map();
  /** Timers that end with the connection. @type {Set<any>} */
  #timers = new Set();
  /** @type {any} */
  #reconnectTimer = null;
  #lastHeardMs = 0;
  #oldestUnansweredMs = 0;
  /** Times in ms since 1970 between which this gateway wants its clients back elsewhere. @type {{from: number, to: number} | null} */
  #goAway = null;
  #expiredTwice = false;
  #token = '';
  #user = '';
  #epoch = '';
  #cursor = '';
  /** @type {Map<string, Timeline>} */
  #timelines = new Map();
  /** @type {Map<string, Message[]>} */
  #strangers = new Map();
  #strangerCount = 0;
  /** @type {Set<string>} */
  #filling = new Set();
  /** Timelines whose gap will be looked at. @type {Set<Timeline>} */
  #gapTimers = new Set();
  #syncing = false;
  #syncAgain = false;
  /** Read marks not yet confirmed. @type {Map<string, number>} */
  #marks = new Map();
  #outbox;
  /** Failed messages that can be sent again. @type {Map<string, import('./outbox.js').Item>} */
  #failed = new Map();
  /** @type {Map<string, {resolve: (ack: any) => void, reject: (error: CorelaneError) => void}>} */
  #settle = new Map();
  /** Sends made before the first Welcome named the user. @type {{target: Target, item: import('./outbox.js').Item}[]} */
  #beforeWelcome = [];
  /** @type {Map<string, number>} */
  #typingSaidMs = new Map();

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#options = { terminal: 'web', device: '', catchUpMax: 500, ...options };
    this.#env = {
      WebSocket: /** @type {any} */ (globalThis.WebSocket),
      setTimeout: (run, ms) => setTimeout(run, ms),
      clearTimeout: (timer) => clearTimeout(timer),
      now: () => Date.now(),
      random: () => Math.random(),
      randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
      ...options.environment,
    };
    this.#newId = uuidV7Source(this.#env);
    const saved = options.storage?.load();
    if (saved) ({ cursor: this.#cursor, epoch: this.#epoch } = saved);
    this.#outbox = new Outbox({
      transmit: (frame) => this.#transmit(frame),
      after: (ms, run) => {
        const timer = this.#env.setTimeout(run, ms);
        return () => this.#env.clearTimeout(timer);
      },
      random: this.#env.random,
      acked: (item, ack) => this.#acked(item, ack),
      failed: (item, error) => this.#sendFailed(item, error),
    });
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** The user that the token named; empty before the first login. */
  get user() {
    return this.#user;
  }

  /** Everything known of the conversations, by id. @returns {ReadonlyMap<string, Timeline>} */
  get conversations() {
    return this.#timelines;
  }

  /** Sends not yet acknowledged. */
  get unacknowledged() {
    return this.#outbox.size + this.#beforeWelcome.length;
  }

  /** Connects, at once; also cuts a wait short. Does nothing while connecting or online. */
  open() {
    if (this.#state === 'connecting' || this.#state === 'online') return;
    this.#env.clearTimeout(this.#reconnectTimer);
    this.#dial();
  }

  /** Ends the session for good; what was not acknowledged fails. */
  close() {
    this.#giveUp('closed by the user', 1000);
  }

  /**
   * Sends a message. It is sent again after any interruption, under the same id, until it was acknowledged or refused
   * for good. Within a conversation messages keep their order.
   * @param {Target} target
   * @param {{payload: unknown, kind?: string | number, contentType?: string | number, flags?: number, refSeq?: number}} message
   *   a string is text, bytes are base64 on the wire, anything else is JSON
   * @returns {{clientMsgId: string, conv: string | null, done: Promise<{conv: string, seq: number, n: number, timeMs: number}>}}
   */
  send(target, { payload, kind = 'text', contentType, flags = 0, refSeq = 0 }) {
    const clientMsgId = this.#newId();
    const bytes = payload instanceof Uint8Array;
    const type = contentType ?? (bytes ? 'bytes' : typeof payload === 'string' ? 'text' : 'json');
    const frame = {
      type: 'send', target, kind, flags, ref_seq: refSeq, client_msg_id: clientMsgId, content_type: type,
      payload: bytes ? toBase64(payload) : payload,
    };
    const item = { conv: '', clientMsgId, frame, attempts: 0 };
    const done = new Promise((resolve, reject) => this.#settle.set(clientMsgId, { resolve, reject }));
    // Who listens to events only must not be told of an unhandled rejection.
    done.catch(() => {});
    this.#enqueue(target, item);
    return { clientMsgId, conv: item.conv || null, done };
  }

  /**
   * Sends a failed message again, under its id. False if it is not known (any more).
   * @param {string} clientMsgId
   */
  resend(clientMsgId) {
    const item = this.#failed.get(clientMsgId);
    if (!item) return false;
    this.#failed.delete(clientMsgId);
    item.attempts = 0;
    this.#enqueue(/** @type {Target} */ (item.frame.target), item);
    return true;
  }

  /**
   * Older messages, in order, that end before `beforeSeq`. They come by the promise, not as events.
   * @param {string} conv
   * @param {number} beforeSeq
   * @param {number} limit 1 to 200
   * @returns {Promise<{messages: Message[], more: boolean}>}
   */
  async history(conv, beforeSeq, limit = 50) {
    const floor = this.#timelines.get(conv)?.floorSeq ?? 0;
    const to = beforeSeq - 1;
    const from = Math.max(1, floor + 1, to - limit + 1);
    if (to < from) return { messages: [], more: false };
    const messages = await this.pull(conv, from, to);
    return { messages, more: from > Math.max(1, (this.#timelines.get(conv)?.floorSeq ?? 0) + 1) };
  }

  /**
   * All messages of a range, in order.
   * @param {string} conv
   * @param {number} fromSeq
   * @param {number} toSeq
   * @returns {Promise<Message[]>}
   */
  async pull(conv, fromSeq, toSeq) {
    const messages = [];
    for (let from = fromSeq; from <= toSeq; ) {
      const limit = Math.min(PULL_LIMIT, toSeq - from + 1);
      const page = await this.#request({ type: 'pull', conv, from_seq: from, to_seq: toSeq, limit });
      messages.push(...page.messages.map(toMessage));
      this.#timelines.get(conv)?.head(page.head_seq, page.head_n);
      if (!(page.next_seq > from)) break;
      from = page.next_seq;
    }
    return messages;
  }

  /**
   * The user has read up to `seq` (all that was shown, if left out). Kept and sent again until confirmed.
   * @param {string} conv
   * @param {number} [seq]
   */
  markRead(conv, seq) {
    const timeline = this.#timelines.get(conv);
    const upto = seq ?? timeline?.headSeq ?? 0;
    if (upto <= (timeline?.readSeq ?? 0) || upto <= (this.#marks.get(conv) ?? 0)) return;
    this.#marks.set(conv, upto);
    if (timeline && upto >= timeline.headSeq && timeline.read(upto, timeline.headN)) this.#changed(conv);
    this.#sendMark(conv);
  }

  /**
   * Tells the others that the user is typing; at most once in three seconds, and not at all while offline.
   * @param {Target} target
   * @param {boolean} on
   */
  typing(target, on = true) {
    if (this.#state !== 'online') return;
    const key = JSON.stringify(target);
    const now = this.#env.now();
    if (on && now - (this.#typingSaidMs.get(key) ?? 0) < 3000) return;
    if (!on && !this.#typingSaidMs.has(key)) return;
    if (on) this.#typingSaidMs.set(key, now);
    else this.#typingSaidMs.delete(key);
    this.#transmit({ type: 'typing', target, on });
  }

  /**
   * A step of a call, passed on to the others in it.
   * @param {Target} target
   * @param {{callId: string, step: number, body?: unknown}} step
   */
  call(target, { callId, step, body }) {
    if (this.#state !== 'online') throw new CorelaneError('disconnected', 'not connected', true);
    this.#transmit({ type: 'call', target, call_id: callId, step, ...(body === undefined ? {} : { body }) });
  }

  /**
   * Which terminals of these users are online?
   * @param {string[]} users 1 to 100
   * @returns {Promise<{user: string, online: string[]}[]>}
   */
  async presence(users) {
    return (await this.#request({ type: 'presence_query', users })).users;
  }

  // ---- connection ----------------------------------------------------------------------------------------------

  async #dial() {
    this.#setState('connecting');
    const { token: given, url, terminal, device } = this.#options;
    const attempt = ++this.#attempt;
    let token;
    try {
      token = typeof given === 'function' ? await given() : given;
    } catch (error) {
      if (this.#attempt === attempt && this.#state === 'connecting') this.#retry(`no token: ${/** @type {Error} */ (error).message}`, 0);
      return;
    }
    if (this.#attempt !== attempt || this.#state !== 'connecting') return;
    this.#token = token;
    let socket;
    try {
      socket = new this.#env.WebSocket(url, [SUBPROTOCOL]);
    } catch (error) {
      this.#giveUp(`bad address: ${/** @type {Error} */ (error).message}`, 0);
      return;
    }
    this.#socket = socket;
    const mine = () => this.#socket === socket;
    socket.onopen = () => {
      if (mine()) this.#transmit({ type: 'hello', token, terminal, device, epoch: this.#epoch || '0' });
    };
    socket.onmessage = (/** @type {{data: any}} */ event) => {
      if (mine()) this.#heard(event.data);
    };
    socket.onclose = (/** @type {{code: number, reason: string}} */ event) => {
      if (mine()) this.#closed(event.code, event.reason);
    };
    this.#after(ANSWER_MS_MAX, () => {
      if (mine() && this.#state === 'connecting') this.#drop('no welcome in time');
    });
  }

  /**
   * The connection ended; decides whether to come back, and when.
   * @param {number} code
   * @param {string} reason
   */
  #closed(code, reason) {
    if (!mayReconnect(code)) {
      this.#giveUp(reason || GIVE_UP_REASONS[/** @type {keyof typeof GIVE_UP_REASONS} */ (code)] || `closed with ${code}`, code);
      return;
    }
    if (code === 4005) {
      // The same token twice will expire a third time.
      if (this.#expiredTwice && typeof this.#options.token !== 'function') {
        this.#giveUp('token expired', code);
        return;
      }
      this.#expiredTwice = true;
    }
    this.#retry(reason || `connection lost (${code})`, code);
  }

  /**
   * @param {string} reason
   * @param {number} code
   */
  #retry(reason, code) {
    this.#disconnected();
    const failures = this.#failures++;
    let ms = backoffMs(failures, { baseMs: RECONNECT_BASE_MS, capMs: RECONNECT_CAP_MS, random: this.#env.random });
    if (this.#goAway) {
      const { from, to } = this.#goAway;
      ms = Math.max(0, from - this.#env.now()) + this.#env.random() * Math.max(0, to - Math.max(from, this.#env.now()));
      this.#goAway = null;
    }
    this.#setState('waiting', { reason, code, retryInMs: ms });
    this.#reconnectTimer = this.#env.setTimeout(() => this.#dial(), ms);
  }

  /**
   * @param {string} reason
   * @param {number} code
   */
  #giveUp(reason, code) {
    this.#env.clearTimeout(this.#reconnectTimer);
    this.#attempt += 1;
    this.#disconnected();
    for (const { item } of this.#beforeWelcome.splice(0)) this.#sendFailed(item, { code: 'closed', text: reason });
    this.#outbox.abandon({ code: 'closed', text: reason });
    this.#setState('closed', { reason, code });
  }

  /**
   * Takes the connection for dead.
   * @param {string} reason
   */
  #drop(reason) {
    this.#retry(reason, 0);
  }

  /** Lets go of the socket and of all that was waiting for its answers. */
  #disconnected() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      try {
        socket.close(1000);
      } catch {
        // A socket that cannot be closed is closed.
      }
    }
    for (const timer of this.#timers) this.#env.clearTimeout(timer);
    this.#timers.clear();
    this.#outbox.offline();
    this.#syncing = this.#syncAgain = false;
    this.#filling.clear();
    this.#gapTimers.clear();
    this.#typingSaidMs.clear();
    this.#oldestUnansweredMs = 0;
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const { reject } of requests) reject(new CorelaneError('disconnected', 'the connection ended', true));
  }

  /** @param {any} data */
  #heard(data) {
    this.#lastHeardMs = this.#env.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      this.#drop('the server does not speak JSON');
      return;
    }
    if (this.#state === 'connecting' && frame.type !== 'welcome' && frame.type !== 'error' && frame.type !== 'go_away') return;
    this.#handle(frame);
  }

  /** @param {any} frame */
  #handle(frame) {
    switch (frame.type) {
      case 'welcome':
        return this.#welcomed(frame);
      case 'send_ack':
      case 'error':
        return this.#answered(frame);
      case 'message':
        return this.#arrived(toMessage(frame), true);
      case 'read_up_to':
        this.#readUpTo(frame);
        return this.#resolve(frame);
      case 'sync_page':
      case 'pull_page':
      case 'presence':
        return this.#resolve(frame);
      case 'pull_required':
        return this.#pullRequired(frame);
      case 'resync':
        return this.#after(this.#env.random() * frame.spread_ms, () => this.#sync());
      case 'go_away':
        return this.#goingAway(frame);
      case 'typing':
        return this.#emit('typing', { conv: this.#convOf(frame.target, frame.from), from: frame.from, on: frame.on });
      case 'call':
        return this.#emit('call', {
          conv: this.#convOf(frame.target, frame.from), from: frame.from, callId: plainId(frame.call_id), step: frame.step, body: frame.body,
        });
      default:
      // Pongs are heard; kinds made later are skipped.
    }
  }

  /** @param {any} frame */
  #welcomed(frame) {
    if (this.#state !== 'connecting') return;
    this.#failures = 0;
    this.#expiredTwice = false;
    this.#goAway = null;
    const userChanged = this.#user !== '' && this.#user !== frame.user;
    this.#user = frame.user;
    if (this.#epoch !== frame.epoch || userChanged) {
      const known = this.#epoch !== '';
      this.#epoch = frame.epoch;
      this.#forgetCursor();
      if (known && this.#timelines.size > 0) this.#forgetAll();
    }
    this.#setState('online');
    const half = frame.heartbeat_ms / 2;
    const beat = () => {
      const now = this.#env.now();
      if (now - this.#lastHeardMs > frame.heartbeat_ms) return this.#drop('the server went silent');
      if (this.#oldestUnansweredMs > 0 && now - this.#oldestUnansweredMs > Math.max(ANSWER_MS_MAX, half)) {
        return this.#drop('a message was not answered');
      }
      this.#transmit({ type: 'ping', time_ms: Math.floor(now) });
      this.#after(half, beat);
    };
    this.#after(half, beat);
    this.#sync();
    for (const { target, item } of this.#beforeWelcome.splice(0)) this.#enqueue(target, item);
    this.#outbox.online(frame.window);
    this.#clockUnanswered();
    for (const conv of this.#marks.keys()) this.#sendMark(conv);
    this.#scheduleRefresh();
  }

  /** @param {{after_ms: number, window_ms: number}} frame */
  #goingAway({ after_ms, window_ms }) {
    const from = this.#env.now() + after_ms;
    this.#goAway = { from, to: from + window_ms };
    this.#after(after_ms + this.#env.random() * window_ms, () => {
      this.#goAway = null;
      this.#disconnected();
      this.#dial();
    });
  }

  /** A token that says when it expires is replaced a minute before, if there is somebody to ask for a new one. */
  #scheduleRefresh() {
    const { token: ask } = this.#options;
    const expMs = expiryMs(this.#token);
    if (typeof ask !== 'function' || expMs === null) return;
    const ms = Math.max(5000, expMs - this.#env.now() - 60_000);
    // A browser's timers end at 2^31 ms; no connection lasts that long.
    if (ms >= 2 ** 31) return;
    this.#after(ms, async () => {
      const socket = this.#socket;
      try {
        this.#token = await ask();
      } catch {
        // The token in use expires, and the reconnect after that asks again.
        return;
      }
      if (this.#socket !== socket || this.#state !== 'online') return;
      this.#transmit({ type: 'refresh_token', token: this.#token });
      this.#scheduleRefresh();
    });
  }

  /** @param {Record<string, unknown>} frame */
  #transmit(frame) {
    const ref = this.#nextRef;
    this.#nextRef = ref >= 0xffff_ffff ? 1 : ref + 1;
    this.#socket?.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }

  /**
   * @param {Record<string, unknown>} frame
   * @returns {Promise<any>}
   */
  #request(frame) {
    if (this.#state !== 'online') return Promise.reject(new CorelaneError('disconnected', 'not connected', true));
    return new Promise((resolve, reject) => {
      const ref = this.#transmit(frame);
      this.#requests.set(ref, { resolve, reject });
      this.#after(ANSWER_MS_MAX, () => {
        if (this.#requests.has(ref)) this.#drop('a request was not answered');
      });
    });
  }

  /** @param {any} frame */
  #resolve(frame) {
    const request = this.#requests.get(frame.ref);
    this.#requests.delete(frame.ref);
    request?.resolve(frame);
  }

  /** @param {any} frame a send_ack or an error */
  #answered(frame) {
    const retryable = frame.type === 'error' && (frame.retryable ?? RETRYABLE.has(frame.code));
    if (this.#outbox.answered(frame.ref, frame, retryable)) {
      this.#oldestUnansweredMs = 0;
      this.#clockUnanswered();
      return;
    }
    if (frame.type !== 'error') return;
    const request = this.#requests.get(frame.ref);
    if (request) {
      this.#requests.delete(frame.ref);
      request.reject(new CorelaneError(frame.code, frame.text, retryable));
    } else {
      this.#emit('error', { code: frame.code, text: frame.text });
    }
  }

  #clockUnanswered() {
    if (this.#outbox.unanswered > 0) this.#oldestUnansweredMs ||= this.#env.now();
    else this.#oldestUnansweredMs = 0;
  }

  // ---- sending -------------------------------------------------------------------------------------------------

  /**
   * @param {Target} target
   * @param {import('./outbox.js').Item} item
   */
  #enqueue(target, item) {
    if (this.#state === 'closed') {
      queueMicrotask(() => this.#sendFailed(item, { code: 'closed', text: 'the session is closed' }));
      return;
    }
    if (!this.#user) {
      this.#beforeWelcome.push({ target, item });
      if (this.#beforeWelcome.length <= 100) return;
      this.#beforeWelcome.pop();
    } else {
      item.conv = this.#convOf(target, this.#user);
      if (this.#outbox.push(item)) {
        this.#clockUnanswered();
        return;
      }
    }
    queueMicrotask(() => this.#sendFailed(item, { code: 'queue_full', text: 'too many messages wait to be sent' }));
  }

  /**
   * @param {import('./outbox.js').Item} item
   * @param {any} ack
   */
  #acked(item, ack) {
    const detail = { conv: ack.conv, seq: ack.seq, n: ack.n, timeMs: ack.time_ms };
    this.#settle.get(item.clientMsgId)?.resolve(detail);
    this.#settle.delete(item.clientMsgId);
    this.#emit('ack', { ...detail, clientMsgId: item.clientMsgId });
    // The gateway does not send a message back to the connection it came from: here it is made from the ack.
    const { kind, flags, ref_seq, content_type, payload } = item.frame;
    this.#arrived(
      toMessage({
        conv: ack.conv, seq: ack.seq, n: ack.n, sender: this.#user, kind, flags, ref_seq, origin_terminal: this.#options.terminal,
        origin_device: this.#options.device, client_msg_id: item.clientMsgId, time_ms: ack.time_ms, content_type, payload,
      }),
      true,
    );
  }

  /**
   * @param {import('./outbox.js').Item} item
   * @param {{code: string, text: string}} error
   */
  #sendFailed(item, { code, text }) {
    this.#failed.set(item.clientMsgId, item);
    if (this.#failed.size > 200) this.#failed.delete(/** @type {string} */ (this.#failed.keys().next().value));
    this.#settle.get(item.clientMsgId)?.reject(new CorelaneError(code, text));
    this.#settle.delete(item.clientMsgId);
    this.#emit('sendfailed', { conv: item.conv, clientMsgId: item.clientMsgId, code, text });
  }

  // ---- receiving -----------------------------------------------------------------------------------------------

  /**
   * @param {Message} message
   * @param {boolean} live
   */
  #arrived(message, live) {
    let timeline = this.#timelines.get(message.conv);
    if (!timeline) {
      if (message.seq !== 1) return this.#stranger(message);
      timeline = this.#begin(message.conv, 0);
    }
    this.#show(timeline, timeline.offer(message), live);
    if (message.sender === this.#user && message.originTerminal) timeline.read(message.seq, message.n);
    this.#changed(message.conv);
    if (!timeline.gap || this.#gapTimers.has(timeline)) return;
    this.#gapTimers.add(timeline);
    this.#after(GAP_GRACE_MS, () => {
      this.#gapTimers.delete(timeline);
      this.#fill(timeline);
    });
  }

  /**
   * A message in the middle of a conversation that is not known here: the sync tells where to begin.
   * @param {Message} message
   */
  #stranger(message) {
    if (this.#strangerCount >= STRANGERS_MAX) return this.#sync();
    this.#strangerCount += 1;
    const waiting = this.#strangers.get(message.conv);
    if (waiting) waiting.push(message);
    else this.#strangers.set(message.conv, [message]);
    this.#sync();
  }

  /**
   * @param {string} conv
   * @param {number} shownSeq
   */
  #begin(conv, shownSeq) {
    const timeline = new Timeline(conv, shownSeq);
    this.#timelines.set(conv, timeline);
    const waiting = this.#strangers.get(conv) ?? [];
    this.#strangers.delete(conv);
    this.#strangerCount -= waiting.length;
    for (const message of waiting.sort((a, b) => a.seq - b.seq)) this.#arrived(message, true);
    return timeline;
  }

  /**
   * @param {Timeline} timeline
   * @param {Message[]} messages
   * @param {boolean} live
   */
  #show(timeline, messages, live) {
    for (const message of messages) {
      if (timeline === this.#timelines.get(message.conv)) this.#emit('message', { message, live });
    }
  }

  /** Asks what changed since the cursor; once more if asked while asking. */
  async #sync() {
    if (this.#state !== 'online') return;
    if (this.#syncing) {
      this.#syncAgain = true;
      return;
    }
    this.#syncing = true;
    const socket = this.#socket;
    try {
      for (let cursor = this.#cursor; ; ) {
        const page = await this.#request({ type: 'sync', cursor, limit: SYNC_LIMIT });
        for (const state of page.conversations) this.#take(state);
        cursor = page.cursor;
        if (page.more) continue;
        this.#cursor = cursor;
        this.#options.storage?.save({ cursor, epoch: this.#epoch });
        break;
      }
      for (const [conv, waiting] of [...this.#strangers]) {
        this.#begin(conv, Math.min(...waiting.map((message) => message.seq)) - 1);
      }
      this.#emit('synced', {});
    } catch (error) {
      const { code, text, retryable } = /** @type {CorelaneError} */ (error);
      if (this.#socket !== socket) return;
      if (code === 'ahead') {
        this.#forgetCursor();
        this.#forgetAll();
        this.#syncAgain = true;
      } else if (retryable) {
        this.#after(1000 + this.#env.random() * 2000, () => this.#sync());
      } else {
        this.#emit('error', { code: code ?? 'internal', text: text ?? String(error) });
      }
    } finally {
      if (this.#socket === socket) {
        this.#syncing = false;
        if (this.#syncAgain) {
          this.#syncAgain = false;
          this.#sync();
        }
      }
    }
  }

  /** @param {any} state a conversation of a sync page */
  #take(state) {
    const { conv, head_seq, head_n, floor_seq, read_seq, read_n, last } = state;
    const catchUpMax = /** @type {number} */ (this.#options.catchUpMax);
    const timeline = this.#timelines.get(conv) ?? this.#begin(conv, Math.max(read_seq, floor_seq, head_seq - catchUpMax));
    timeline.head(head_seq, head_n);
    timeline.read(read_seq, read_n);
    timeline.floorSeq = Math.max(timeline.floorSeq, floor_seq);
    if (last && (!timeline.last || last.seq > timeline.last.seq)) timeline.last = toMessage(last);
    if (timeline.headSeq - timeline.shownSeq > catchUpMax) {
      timeline.restart(timeline.headSeq - catchUpMax);
      this.#emit('reset', { conv });
    }
    this.#changed(conv);
    this.#fill(timeline);
  }

  /**
   * Pulls what is missing until nothing is.
   * @param {Timeline} timeline
   */
  async #fill(timeline) {
    const { conv } = timeline;
    if (this.#filling.has(conv) || !timeline.gap || this.#state !== 'online') return;
    // Those that find no place are taken up when one is free.
    if (this.#filling.size >= PULLS_MAX) return;
    this.#filling.add(conv);
    const socket = this.#socket;
    try {
      for (let gap = timeline.gap; gap; gap = timeline.gap) {
        const page = await this.#request({
          type: 'pull', conv, from_seq: gap.from, to_seq: gap.to, limit: Math.min(PULL_LIMIT, gap.to - gap.from + 1),
        });
        if (this.#timelines.get(conv) !== timeline) return;
        timeline.head(page.head_seq, page.head_n);
        timeline.floorSeq = Math.max(timeline.floorSeq, page.floor_seq);
        for (const each of page.messages.map(toMessage)) this.#show(timeline, timeline.offer(each), false);
        // The answer is the last word about its range: what is not in it (below the floor, before one joined) is not there.
        const complete = page.next_seq > gap.from ? page.next_seq - 1 : gap.to;
        this.#show(timeline, timeline.skipTo(Math.max(Math.min(page.floor_seq, gap.to), complete)), false);
        this.#changed(conv);
      }
    } catch (error) {
      if (this.#socket !== socket || this.#timelines.get(conv) !== timeline) return;
      const { code, text, retryable } = /** @type {CorelaneError} */ (error);
      if (retryable) {
        this.#after(500 + this.#env.random() * 1500, () => this.#fill(timeline));
      } else if (code === 'ahead') {
        this.#timelines.delete(conv);
        this.#emit('reset', { conv });
        this.#forgetCursor();
        this.#sync();
      } else {
        this.#show(timeline, timeline.skipTo(timeline.headSeq), false);
        this.#emit('error', { code: code ?? 'internal', text: `${conv}: ${text ?? error}` });
      }
    } finally {
      if (this.#socket === socket) {
        this.#filling.delete(conv);
        this.#fillNext();
      }
    }
  }

  /** Gives the free places to conversations that still miss something. */
  #fillNext() {
    for (const timeline of this.#timelines.values()) {
      if (this.#filling.size >= PULLS_MAX) return;
      if (timeline.gap && !this.#filling.has(timeline.conv)) this.#after(0, () => this.#fill(timeline));
    }
  }

  /** @param {{upto: {conv: string, seq: number}[]}} frame */
  #pullRequired({ upto }) {
    let pulled = false;
    for (const { conv, seq } of upto) {
      const timeline = this.#timelines.get(conv);
      if (!timeline) continue;
      timeline.head(seq, 0);
      pulled ||= timeline.gap !== null && !this.#filling.has(conv) && this.#filling.size < PULLS_MAX;
      this.#fill(timeline);
    }
    // The gateway sends live again after the next Sync or Pull: one of them must go out from here on in any case.
    if (!pulled || upto.some(({ conv }) => !this.#timelines.has(conv))) this.#sync();
  }

  /** @param {{conv: string, whose: string, seq: number, n: number}} frame */
  #readUpTo({ conv, whose, seq, n }) {
    const timeline = this.#timelines.get(conv);
    if (!timeline) return;
    if (whose === this.#user) {
      if (timeline.read(seq, n)) this.#changed(conv);
    } else if (seq > timeline.peerReadSeq) {
      timeline.peerReadSeq = seq;
      this.#emit('read', { conv, whose, seq });
    }
  }

  /** @param {string} conv */
  #sendMark(conv) {
    const seq = this.#marks.get(conv);
    if (seq === undefined || this.#state !== 'online') return;
    this.#request({ type: 'read', conv, seq }).then(
      () => {
        if (this.#marks.get(conv) === seq) this.#marks.delete(conv);
      },
      (error) => {
        // Lost connections send the marks again at the next login.
        if (error.code === 'disconnected') return;
        if (error.retryable) this.#after(1000 + this.#env.random() * 2000, () => this.#sendMark(conv));
        else this.#marks.delete(conv);
      },
    );
  }

  #forgetCursor() {
    this.#cursor = '';
    this.#options.storage?.save(null);
  }

  #forgetAll() {
    this.#timelines.clear();
    this.#strangers.clear();
    this.#strangerCount = 0;
    this.#marks.clear();
    this.#emit('reset', { conv: null });
  }

  // ---- small things --------------------------------------------------------------------------------------------

  /**
   * The conversation that a target means when `from` names it.
   * @param {any} target
   * @param {string} from
   */
  #convOf(target, from) {
    if ('conv' in target) return target.conv;
    return directConv(from, target.user);
  }

  /** @param {string} conv */
  #changed(conv) {
    this.#emit('conversation', { conv });
  }

  /**
   * Runs later, unless the connection ends before.
   * @param {number} ms
   * @param {() => void} run
   */
  #after(ms, run) {
    const timer = this.#env.setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
  }

  /**
   * @param {State} state
   * @param {{reason?: string, code?: number, retryInMs?: number}} detail
   */
  #setState(state, { reason = '', code = 0, retryInMs = 0 } = {}) {
    this.#state = state;
    this.#emit('state', { state, reason, code, retryInMs });
  }

  /**
   * @param {string} type
   * @param {object} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * @param {any} frame a `message` frame
 * @returns {Message}
 */
function toMessage(frame) {
  return {
    conv: frame.conv,
    seq: frame.seq,
    n: frame.n,
    sender: frame.sender,
    kind: frame.kind,
    flags: frame.flags ?? 0,
    refSeq: frame.ref_seq ?? 0,
    originTerminal: frame.origin_terminal ?? '',
    originDevice: frame.origin_device ?? '',
    clientMsgId: plainId(frame.client_msg_id ?? ''),
    timeMs: frame.time_ms,
    contentType: frame.content_type,
    payload: frame.content_type === 'text' || frame.content_type === 'json' ? frame.payload : fromBase64(frame.payload),
  };
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/**
 * When a JWT expires, in ms since 1970; `null` if it does not say.
 * @param {string} token
 */
function expiryMs(token) {
  try {
    const claims = JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')));
    return typeof claims.exp === 'number' ? claims.exp * 1000 : null;
  } catch {
    return null;
  }
}
