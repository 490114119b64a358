// @ts-check
/**
 * From `send()` to its promise: gives messages their ids, the outbox their order, and whoever sent them the outcome.
 *
 * Messages written before the first Welcome wait for the user's name, at most `EARLY_MAX`; then `outbox.js` holds them.
 * When either is full a message is refused with `queue_full`. Of failed messages the last `FAILED_MAX` can be sent again.
 *
 * A message that is too large is refused before it is sent: the gateway hangs up on a frame that it does not take, and
 * what is sent again after each login would end every connection there will be.
 */

import { CorelaneError } from './error.js';
import { directConv, uuidV7Source } from './ids.js';
import { payloadBytes, toBase64, toMessage, utf8Bytes } from './message.js';
import { Outbox } from './outbox.js';

/** Most messages written before the first Welcome. */
const EARLY_MAX = 100;
/** Most failed messages that can be sent again. */
const FAILED_MAX = 200;

/** The largest JSON text of a frame, in bytes; a bound of the wire like the subprotocol's name. */
const FRAME_BYTES_MAX = 128 * 1024;
/** What `ref` and `restart` add to the text of a frame, at most. */
const FRAME_MORE_BYTES = 64;
/** The gateway hung up on a frame that was too large (RFC 6455 section 7.4.1). */
const CLOSED_TOO_LARGE = 1009;

/** @typedef {import('./message.js').Message} Message */
/** @typedef {import('./outbox.js').Item} Item */
/** @typedef {{user: string} | {conv: string}} Target */
/** @typedef {{conv: string, seq: number, n: number, timeMs: number}} Ack */

/**
 * What sending needs from its owner.
 * @typedef {object} SendingPorts
 * @property {(frame: Record<string, unknown>) => number} transmit sends a frame, returns its `ref`
 * @property {() => boolean} closed whether the session is over
 * @property {(message: Message) => void} stored an own message is in the log
 * @property {(type: string, detail: object) => void} emit
 */

export class Sending {
  #env;
  #ports;
  #origin;
  #newId;
  #outbox;
  #user = '';
  /** Largest payload that this gateway takes; 0 before it said so. */
  #payloadBytesMax = 0;
  #unansweredSinceMs = 0;
  /** Sends made before the first Welcome named the user. @type {{target: Target, item: Item}[]} */
  #early = [];
  /** Failed messages that can be sent again. @type {Map<string, Item>} */
  #failed = new Map();
  /** @type {Map<string, {resolve: (ack: Ack) => void, reject: (error: CorelaneError) => void}>} */
  #settle = new Map();

  /**
   * @param {{terminal?: string, device?: string}} origin
   * @param {import('./corelane.js').Environment} env
   * @param {SendingPorts} ports
   */
  constructor(origin, env, ports) {
    this.#origin = origin;
    this.#env = env;
    this.#ports = ports;
    this.#newId = uuidV7Source(env);
    this.#outbox = new Outbox({
      transmit: ports.transmit,
      after: (ms, run) => {
        const timer = env.setTimeout(run, ms);
        return () => env.clearTimeout(timer);
      },
      random: env.random,
      acked: (item, ack) => this.#acked(item, ack),
      failed: (item, error) => this.#sendFailed(item, error),
    });
  }

  /** Sends not yet acknowledged. */
  get unacknowledged() {
    return this.#outbox.size + this.#early.length;
  }

  /** Since when nothing was answered although something waits for it; 0 if nothing waits. */
  get unansweredSinceMs() {
    return this.#unansweredSinceMs;
  }

  /**
   * @param {Target} target
   * @param {{payload: unknown, kind?: string | number, contentType?: string | number, flags?: number, refSeq?: number}} message
   * @returns {{clientMsgId: string, conv: string | null, done: Promise<Ack>}}
   */
  send(target, { payload, kind = 'text', contentType, flags = 0, refSeq = 0 }) {
    const clientMsgId = this.#newId();
    const binary = payload instanceof Uint8Array;
    const type = contentType ?? (binary ? 'bytes' : typeof payload === 'string' ? 'text' : 'json');
    const frame = {
      type: 'send', target, kind, flags, ref_seq: refSeq, client_msg_id: clientMsgId, content_type: type,
      payload: binary ? toBase64(payload) : payload,
    };
    const bytes = { payload: payloadBytes(payload), frame: utf8Bytes(JSON.stringify(frame)) + FRAME_MORE_BYTES };
    const item = { conv: '', clientMsgId, frame, bytes, attempts: 0 };
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
   * The connection is ready for sends.
   * @param {{user: string, window: number, payload_bytes_max: number}} welcome
   */
  online({ user, window, payload_bytes_max }) {
    this.#user = user;
    this.#payloadBytesMax = payload_bytes_max;
    for (const { target, item } of this.#early.splice(0)) this.#enqueue(target, item);
    this.#outbox.online(window);
    this.#clockUnanswered();
  }

  /**
   * The connection is gone.
   * @param {number} code the close code
   */
  offline(code) {
    const largest = code === CLOSED_TOO_LARGE ? this.#outbox.largestInFlight : null;
    this.#outbox.offline();
    this.#unansweredSinceMs = 0;
    // No other can have been too large if this one was not; without it the next connection lives.
    if (!largest) return;
    const text = `the gateway hung up on a frame of ${largest.bytes.frame} bytes, which is more than it takes`;
    this.#outbox.fail(largest, { code: 'too_large', text });
  }

  /**
   * Fails all that was not acknowledged.
   * @param {string} reason
   */
  abandon(reason) {
    const error = { code: 'closed', text: reason };
    for (const { item } of this.#early.splice(0)) this.#sendFailed(item, error);
    this.#outbox.abandon(error);
  }

  /**
   * Takes an answer; false if it belongs to no send.
   * @param {any} frame a send_ack or an error
   * @param {boolean} retryable
   */
  answered(frame, retryable) {
    if (!this.#outbox.answered(frame.ref, frame, retryable)) return false;
    this.#unansweredSinceMs = 0;
    this.#clockUnanswered();
    return true;
  }

  #clockUnanswered() {
    if (this.#outbox.unanswered > 0) this.#unansweredSinceMs ||= this.#env.now();
    else this.#unansweredSinceMs = 0;
  }

  /**
   * @param {Target} target
   * @param {Item} item
   */
  #enqueue(target, item) {
    if (this.#ports.closed()) return this.#refuse(item, 'closed', 'the session is closed');
    if (!this.#user) {
      if (this.#early.length < EARLY_MAX) this.#early.push({ target, item });
      else this.#refuse(item, 'queue_full', 'too many messages wait to be sent');
      return;
    }
    item.conv = 'conv' in target ? target.conv : directConv(this.#user, target.user);
    const { payload, frame } = item.bytes;
    const limit = this.#payloadBytesMax;
    if (payload > limit) return this.#refuse(item, 'too_large', `the message has ${payload} bytes, the limit is ${limit}`);
    if (frame > FRAME_BYTES_MAX) {
      return this.#refuse(item, 'too_large', `as JSON the message has ${frame} bytes, the limit is ${FRAME_BYTES_MAX}`);
    }
    if (this.#outbox.push(item)) this.#clockUnanswered();
    else this.#refuse(item, 'queue_full', 'too many messages wait to be sent');
  }

  /**
   * Fails a message after whoever sends it has its id.
   * @param {Item} item
   * @param {string} code
   * @param {string} text
   */
  #refuse(item, code, text) {
    queueMicrotask(() => this.#sendFailed(item, { code, text }));
  }

  /**
   * @param {Item} item
   * @param {any} ack
   */
  #acked(item, ack) {
    const detail = { conv: ack.conv, seq: ack.seq, n: ack.n, timeMs: ack.time_ms };
    this.#settle.get(item.clientMsgId)?.resolve(detail);
    this.#settle.delete(item.clientMsgId);
    this.#ports.emit('ack', { ...detail, clientMsgId: item.clientMsgId });
    // The gateway does not send a message back to the connection it came from: here it is made from the ack.
    const { kind, flags, ref_seq, content_type, payload } = item.frame;
    this.#ports.stored(
      toMessage({
        conv: ack.conv, seq: ack.seq, n: ack.n, sender: this.#user, kind, flags, ref_seq, origin_terminal: this.#origin.terminal,
        origin_device: this.#origin.device, client_msg_id: item.clientMsgId, time_ms: ack.time_ms, content_type, payload,
      }),
    );
  }

  /**
   * @param {Item} item
   * @param {{code: string, text: string}} error
   */
  #sendFailed(item, { code, text }) {
    this.#failed.set(item.clientMsgId, item);
    if (this.#failed.size > FAILED_MAX) this.#failed.delete(/** @type {string} */ (this.#failed.keys().next().value));
    this.#settle.get(item.clientMsgId)?.reject(new CorelaneError(code, text));
    this.#settle.delete(item.clientMsgId);
    this.#ports.emit('sendfailed', { conv: item.conv, clientMsgId: item.clientMsgId, code, text });
  }
}
