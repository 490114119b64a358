// @ts-check
/**
 * Corelane in a browser: logs in over a WebSocket (subprotocol `corelane.json.v1`), stays logged in, sends and shows.
 *
 *     const client = connect({ url, token, device: 'tab-1' });
 *     client.addEventListener('message', ({ detail }) => show(detail.message));
 *     const { clientMsgId, done } = client.send({ user: 'bob' }, { payload: 'hello' });
 *
 * Ties the connection (`connection.js`), what is on its way out (`sending.js`, `outbox.js`), what is known of each
 * conversation (`sync.js`, `pulls.js`, `timeline.js`) and how far was read (`marks.js`). Never shows a message twice or
 * out of order; what it missed it pulls. Bounds: the outbox refuses a message when full, unread messages are fetched by
 * itself up to `catchUpMax` per conversation (older ones are there for `history`), four pulls at a time.
 *
 * Events (`detail`):
 * - `state` {@link StateDetail}: connecting, online, waiting (for the next attempt), closed (given up or `close()`)
 * - `message` `{message, live}`: once each and in order per conversation, one's own from here and elsewhere included
 * - `conversation` `{conv}`: head, read mark or last message changed; look at `conversations`
 * - `synced`: the list of conversations is complete for this login
 * - `reset` `{conv}`: forget what was shown of it (`null`: of all); the log changed, or too much was missed
 * - `ack` `{conv, seq, n, timeMs, clientMsgId}` and `sendfailed` `{conv, clientMsgId, code, text}`
 * - `read` `{conv, whose, seq}`, `typing` `{conv, from, on}`, `call` `{conv, from, callId, step, body}`
 * - `error` `{code, text}`: a refusal that belongs to nothing else, or a message that the server cannot serve
 */

import { Connection } from './connection.js';
import { CorelaneError, refusal } from './error.js';
import { directConv, plainId } from './ids.js';
import { ReadMarks } from './marks.js';
import { toMessage } from './message.js';
import { Pulls } from './pulls.js';
import { Sending } from './sending.js';
import { Sync } from './sync.js';

export { CorelaneError } from './error.js';
export { directConv, groupConv, isId, parseConv, peerOf } from './ids.js';

/** @typedef {import('./message.js').Message} Message */
/** @typedef {import('./sending.js').Target} Target */
/** @typedef {import('./connection.js').State} State */
/** @typedef {import('./connection.js').StateDetail} StateDetail */

/**
 * Where a cursor outlives the page. Keep the conversations beside it: the next sync tells only what changed since. It is
 * saved when all that its sync told of was shown; what is unread then comes again as events after the next load.
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

/** Somebody is said to be typing at most once in this time. */
const TYPING_EVERY_MS = 3000;

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
  #env;
  /** @type {Connection} */
  #connection;
  /** @type {Pulls} */
  #pulls;
  /** @type {Sync} */
  #sync;
  /** @type {Sending} */
  #sending;
  /** @type {ReadMarks} */
  #marks;
  #user = '';
  /** When the others were last told, by target. @type {Map<string, number>} */
  #typingSaidMs = new Map();

  /** @param {Options} given */
  constructor(given) {
    super();
    const options = { terminal: 'web', device: '', catchUpMax: 500, ...given };
    /** @type {Environment} */
    const env = {
      WebSocket: /** @type {any} */ (globalThis.WebSocket),
      setTimeout: (run, ms) => setTimeout(run, ms),
      clearTimeout: (timer) => clearTimeout(timer),
      now: () => Date.now(),
      random: () => Math.random(),
      randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
      ...options.environment,
    };
    this.#env = env;
    const emit = (/** @type {string} */ type, /** @type {object} */ detail) => this.#emit(type, detail);
    const connection = new Connection(options, env, {
      epoch: () => this.#sync.epoch,
      unansweredSinceMs: () => this.#sending.unansweredSinceMs,
      changed: (detail) => emit('state', detail),
      welcomed: (welcome) => this.#welcomed(welcome),
      online: (welcome) => this.#online(welcome),
      frame: (frame) => this.#heard(frame),
      lost: (code) => this.#lost(code),
      gaveUp: (reason) => this.#sending.abandon(reason),
    });
    this.#connection = connection;
    const online = () => connection.state === 'online';
    const request = (/** @type {Record<string, unknown>} */ frame) => connection.request(frame);
    const after = (/** @type {number} */ ms, /** @type {() => void} */ run) => connection.after(ms, run);
    const { random } = env;
    const timeline = (/** @type {string} */ conv) => this.conversations.get(conv);
    this.#pulls = new Pulls({ timeline, request, emit });
    this.#sync = new Sync(options, this.#pulls, {
      online, request, after, random, emit, incarnation: () => connection.incarnation, forgotten: (conv) => this.#forgotten(conv),
    });
    this.#marks = new ReadMarks({
      online, request, after, random, timeline, changed: (conv) => this.#sync.changed(conv),
    });
    this.#sending = new Sending(options, env, {
      transmit: (frame) => connection.transmit(frame),
      closed: () => connection.state === 'closed',
      stored: (message) => this.#sync.arrived(message, true),
      emit,
    });
  }

  /** @returns {State} */
  get state() {
    return this.#connection.state;
  }

  /** The user that the token named; empty before the first login. */
  get user() {
    return this.#user;
  }

  /** Everything known of the conversations, by id. */
  get conversations() {
    return this.#sync.timelines;
  }

  /** Sends not yet acknowledged. */
  get unacknowledged() {
    return this.#sending.unacknowledged;
  }

  /** Connects, at once; also cuts a wait short. Does nothing while connecting or online. */
  open() {
    this.#connection.open();
  }

  /** Ends the session for good; what was not acknowledged fails. */
  close() {
    this.#connection.close();
  }

  /**
   * Sends a message. It is sent again after any interruption, under the same id, until it was acknowledged or refused
   * for good; one that is larger than the gateway takes is refused here. Within a conversation messages keep their order.
   * @param {Target} target
   * @param {{payload: unknown, kind?: string | number, contentType?: string | number, flags?: number, refSeq?: number}} message
   *   a string is text, bytes are base64 on the wire, anything else is JSON
   * @returns {{clientMsgId: string, conv: string | null, done: Promise<{conv: string, seq: number, n: number, timeMs: number}>}}
   */
  send(target, message) {
    return this.#sending.send(target, message);
  }

  /**
   * Sends a failed message again, under its id. False if it is not known (any more).
   * @param {string} clientMsgId
   */
  resend(clientMsgId) {
    return this.#sending.resend(clientMsgId);
  }

  /**
   * Older messages, in order, that end before `beforeSeq`. They come by the promise, not as events.
   * @param {string} conv
   * @param {number} beforeSeq
   * @param {number} limit 1 to 200
   * @returns {Promise<{messages: Message[], more: boolean}>}
   */
  history(conv, beforeSeq, limit = 50) {
    return this.#pulls.history(conv, beforeSeq, limit);
  }

  /**
   * All messages of a range, in order. One that the server has and cannot serve is passed over and told as `error`.
   * @param {string} conv
   * @param {number} fromSeq
   * @param {number} toSeq
   * @returns {Promise<Message[]>}
   */
  pull(conv, fromSeq, toSeq) {
    return this.#pulls.pull(conv, fromSeq, toSeq);
  }

  /**
   * The user has read up to `seq` (all that was shown, if left out; not what is still being pulled). Kept and sent
   * again until confirmed.
   * @param {string} conv
   * @param {number} [seq]
   */
  markRead(conv, seq) {
    this.#marks.set(conv, seq);
  }

  /**
   * Tells the others that the user is typing; at most once in three seconds, and not at all while offline.
   * @param {Target} target
   * @param {boolean} on
   */
  typing(target, on = true) {
    if (this.state !== 'online') return;
    const key = JSON.stringify(target);
    const now = this.#env.now();
    if (on && now - (this.#typingSaidMs.get(key) ?? 0) < TYPING_EVERY_MS) return;
    if (!on && !this.#typingSaidMs.has(key)) return;
    if (on) this.#typingSaidMs.set(key, now);
    else this.#typingSaidMs.delete(key);
    this.#connection.transmit({ type: 'typing', target, on });
  }

  /**
   * A step of a call, passed on to the others in it.
   * @param {Target} target
   * @param {{callId: string, step: number, body?: unknown}} step
   */
  call(target, { callId, step, body }) {
    if (this.state !== 'online') throw new CorelaneError('disconnected', 'not connected', true);
    this.#connection.transmit({ type: 'call', target, call_id: callId, step, ...(body === undefined ? {} : { body }) });
  }

  /**
   * Which terminals of these users are online?
   * @param {string[]} users 1 to 100
   * @returns {Promise<{user: string, online: string[]}[]>}
   */
  async presence(users) {
    return (await this.#connection.request({ type: 'presence_query', users })).users;
  }

  // ---- what the connection says --------------------------------------------------------------------------------

  /** @param {{user: string, epoch: string}} welcome */
  #welcomed(welcome) {
    this.#user = welcome.user;
    this.#sync.welcomed(welcome);
  }

  /** @param {{user: string, window: number, payload_bytes_max: number}} welcome */
  #online(welcome) {
    this.#sync.sync();
    this.#sending.online(welcome);
    this.#marks.online();
  }

  /** @param {number} code */
  #lost(code) {
    this.#sending.offline(code);
    this.#sync.lost();
    this.#marks.lost();
    this.#typingSaidMs.clear();
  }

  /** @param {string | null} conv */
  #forgotten(conv) {
    this.#marks.forget(conv);
    this.#emit('reset', { conv });
  }

  /** @param {any} frame */
  #heard(frame) {
    switch (frame.type) {
      case 'send_ack':
      case 'error':
        return this.#answered(frame);
      case 'message':
        return this.#sync.arrived(toMessage(frame), true);
      case 'read_up_to':
        return this.#readUpTo(frame);
      case 'pull_required':
        return this.#sync.pullRequired(frame);
      case 'resync':
        return this.#connection.after(this.#env.random() * frame.spread_ms, () => this.#sync.sync());
      case 'typing':
        return this.#emit('typing', { conv: convOf(frame), from: frame.from, on: frame.on });
      case 'call':
        return this.#emit('call', {
          conv: convOf(frame), from: frame.from, callId: plainId(frame.call_id), step: frame.step, body: frame.body,
        });
      default:
      // Answers find who asked, pongs are heard, kinds made later are skipped.
    }
  }

  /** @param {any} frame a send_ack or an error */
  #answered(frame) {
    const refused = frame.type === 'error';
    if (this.#sending.answered(frame, refused && refusal(frame).retryable)) return;
    if (refused) this.#emit('error', { code: frame.code, text: frame.text });
  }

  /** @param {{conv: string, whose: string, seq: number, n: number}} frame */
  #readUpTo({ conv, whose, seq, n }) {
    const timeline = this.conversations.get(conv);
    if (!timeline) return;
    if (whose === this.#user) {
      if (timeline.read(seq, n)) this.#sync.changed(conv);
    } else if (seq > timeline.peerReadSeq) {
      timeline.peerReadSeq = seq;
      this.#emit('read', { conv, whose, seq });
    }
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
 * The conversation of a frame that names its target as its sender does.
 * @param {{target: any, from: string}} frame
 */
function convOf({ target, from }) {
  return 'conv' in target ? target.conv : directConv(from, target.user);
}
