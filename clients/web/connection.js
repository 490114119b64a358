// @ts-check
/**
 * The connection of a session: dials, says hello, notices when it is dead, and decides whether and when to come back.
 *
 * Owns the socket, the reference of every frame, the requests without an answer and the timers that end with the
 * connection; knows no message and no conversation. There is one socket at most. When it ends, all requests are refused
 * with `disconnected` and the owner is told, before the next one is dialled.
 */

import { GIVE_UP_REASONS, backoffMs, mayReconnect } from './backoff.js';
import { CorelaneError, refusal } from './error.js';

/** @typedef {'connecting' | 'online' | 'waiting' | 'closed'} State */

/**
 * @typedef {object} StateDetail
 * @property {State} state
 * @property {string} reason why it waits or was closed; empty otherwise
 * @property {number} code the close code; 0 if there was none
 * @property {number} retryInMs when the next attempt starts; 0 unless waiting
 */

/**
 * What the connection needs from its owner.
 * @typedef {object} ConnectionPorts
 * @property {() => string} epoch of the log that the owner knows; empty for none
 * @property {() => number} unansweredSinceMs since when a send waits for its answer; 0 if none does
 * @property {(detail: StateDetail) => void} changed
 * @property {(welcome: any) => void} welcomed logged in, and not yet online
 * @property {(welcome: any) => void} online frames may be sent
 * @property {(frame: any) => void} frame what the server says, but for refusals of requests
 * @property {(code: number) => void} lost the connection ended: what was sent will not be answered; the close code, or 0
 * @property {(reason: string) => void} gaveUp there will be no other connection
 */

const SUBPROTOCOL = 'corelane.json.v1';
const RECONNECT_BASE_MS = 500;
const RECONNECT_CAP_MS = 30_000;
/** A connection that is not welcomed, or an answer that does not come, within this time is taken for dead. */
const ANSWER_MS_MAX = 20_000;

export class Connection {
  #options;
  #env;
  #ports;
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
  /** Times in ms since 1970 between which this gateway wants its clients back elsewhere. @type {{from: number, to: number} | null} */
  #goAway = null;
  #expiredTwice = false;
  #token = '';

  /**
   * @param {import('./corelane.js').Options} options
   * @param {import('./corelane.js').Environment} env
   * @param {ConnectionPorts} ports
   */
  constructor(options, env, ports) {
    this.#options = options;
    this.#env = env;
    this.#ports = ports;
  }

  get state() {
    return this.#state;
  }

  /** Another one for each connection: who compares it across an await knows whether he is still on the same one. */
  get incarnation() {
    return this.#socket;
  }

  /** Connects, at once; also cuts a wait short. Does nothing while connecting or online. */
  open() {
    if (this.#state === 'connecting' || this.#state === 'online') return;
    this.#env.clearTimeout(this.#reconnectTimer);
    this.#dial();
  }

  /** Ends it for good. */
  close() {
    this.#giveUp('closed by the user', 1000);
  }

  /**
   * Sends a frame, if there is a connection; returns its reference.
   * @param {Record<string, unknown>} frame
   */
  transmit(frame) {
    const ref = this.#nextRef;
    this.#nextRef = ref >= 0xffff_ffff ? 1 : ref + 1;
    this.#socket?.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }

  /**
   * Sends a frame that is answered. Rejects with a {@link CorelaneError}.
   * @param {Record<string, unknown>} frame
   * @returns {Promise<any>}
   */
  request(frame) {
    if (this.#state !== 'online') return Promise.reject(new CorelaneError('disconnected', 'not connected', true));
    return new Promise((resolve, reject) => {
      const ref = this.transmit(frame);
      this.#requests.set(ref, { resolve, reject });
      this.after(ANSWER_MS_MAX, () => {
        if (this.#requests.has(ref)) this.#drop('a request was not answered');
      });
    });
  }

  /**
   * Runs later, unless the connection ends before.
   * @param {number} ms
   * @param {() => void} run
   */
  after(ms, run) {
    const timer = this.#env.setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
  }

  // ---- coming and going ----------------------------------------------------------------------------------------

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
      if (mine()) this.transmit({ type: 'hello', token, terminal, device, epoch: this.#ports.epoch() || '0' });
    };
    socket.onmessage = (/** @type {{data: any}} */ event) => {
      if (mine()) this.#heard(event.data);
    };
    socket.onclose = (/** @type {{code: number, reason: string}} */ event) => {
      if (mine()) this.#closed(event.code, event.reason);
    };
    this.after(ANSWER_MS_MAX, () => {
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
    this.#disconnected(code);
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
    this.#disconnected(code);
    this.#ports.gaveUp(reason);
    this.#setState('closed', { reason, code });
  }

  /**
   * Takes the connection for dead.
   * @param {string} reason
   */
  #drop(reason) {
    this.#retry(reason, 0);
  }

  /**
   * Lets go of the socket and of all that was waiting for its answers.
   * @param {number} code
   */
  #disconnected(code) {
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
    this.#ports.lost(code);
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const { reject } of requests) reject(new CorelaneError('disconnected', 'the connection ended', true));
  }

  /**
   * @param {State} state
   * @param {{reason?: string, code?: number, retryInMs?: number}} detail
   */
  #setState(state, { reason = '', code = 0, retryInMs = 0 } = {}) {
    this.#state = state;
    this.#ports.changed({ state, reason, code, retryInMs });
  }

  // ---- hearing -------------------------------------------------------------------------------------------------

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
    if (frame.type === 'welcome') return this.#welcomed(frame);
    if (frame.type === 'go_away') return this.#goingAway(frame);
    const request = this.#requests.get(frame.ref);
    this.#requests.delete(frame.ref);
    if (request && frame.type === 'error') return request.reject(refusal(frame));
    this.#ports.frame(frame);
    request?.resolve(frame);
  }

  /** @param {any} frame */
  #welcomed(frame) {
    if (this.#state !== 'connecting') return;
    this.#failures = 0;
    this.#expiredTwice = false;
    this.#goAway = null;
    this.#ports.welcomed(frame);
    this.#setState('online');
    this.#keepAlive(frame.heartbeat_ms);
    this.#ports.online(frame);
    this.#scheduleRefresh();
  }

  /** @param {number} heartbeatMs */
  #keepAlive(heartbeatMs) {
    const half = heartbeatMs / 2;
    const beat = () => {
      const now = this.#env.now();
      if (now - this.#lastHeardMs > heartbeatMs) return this.#drop('the server went silent');
      const since = this.#ports.unansweredSinceMs();
      if (since > 0 && now - since > Math.max(ANSWER_MS_MAX, half)) return this.#drop('a message was not answered');
      this.transmit({ type: 'ping', time_ms: Math.floor(now) });
      this.after(half, beat);
    };
    this.after(half, beat);
  }

  /** @param {{after_ms: number, window_ms: number}} frame */
  #goingAway({ after_ms, window_ms }) {
    const from = this.#env.now() + after_ms;
    this.#goAway = { from, to: from + window_ms };
    this.after(after_ms + this.#env.random() * window_ms, () => {
      this.#goAway = null;
      this.#disconnected(0);
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
    this.after(ms, async () => {
      const socket = this.#socket;
      try {
        this.#token = await ask();
      } catch {
        // The token in use expires, and the reconnect after that asks again.
        return;
      }
      if (this.#socket !== socket || this.#state !== 'online') return;
      this.transmit({ type: 'refresh_token', token: this.#token });
      this.#scheduleRefresh();
    });
  }
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
