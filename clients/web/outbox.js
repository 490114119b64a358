// @ts-check
/**
 * Sends messages so that each conversation keeps its sending order, errors included (go-back-N).
 *
 * One lane per conversation. At most `window` sends of all lanes are unanswered. After a retryable refusal a lane waits
 * until everything of it in flight was answered, then sends again from its oldest unacknowledged message, marked `restart`,
 * after a pause that doubles with each failure. A lost connection does the same for every lane at once. A permanent
 * refusal takes out that one message and nothing else. Holds at most `slots` messages; when full, a new one is refused and
 * none is dropped.
 */

import { backoffMs } from './backoff.js';

/** Most messages waiting to be acknowledged. */
export const OUTBOX_SLOTS = 1000;

/**
 * @typedef {object} Item
 * @property {string} conv
 * @property {string} clientMsgId made once, kept for every attempt
 * @property {Record<string, unknown>} frame the Send frame without `ref` and `restart`
 * @property {{payload: number, frame: number}} bytes how large its payload is, and its frame as JSON
 * @property {number} attempts
 */

/**
 * @typedef {object} Lane
 * @property {string} conv
 * @property {Item[]} items unacknowledged, oldest first
 * @property {number} next index of the first item that is not in flight
 * @property {number} inFlight
 * @property {boolean} blocked refused; waits for answers or for its pause
 * @property {boolean} restart the next send opens the gate again
 * @property {number} failures since the last ack
 * @property {(() => void) | null} cancelPause
 */

/**
 * What the outbox needs from its owner.
 * @typedef {object} OutboxPorts
 * @property {(frame: Record<string, unknown>) => number} transmit sends a frame, returns its `ref`
 * @property {(ms: number, run: () => void) => () => void} after runs later, returns how to cancel
 * @property {() => number} random
 * @property {(item: Item, ack: any) => void} acked
 * @property {(item: Item, error: {code: string, text: string}) => void} failed
 */

export class Outbox {
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  /** @type {Map<number, {lane: Lane, item: Item, restart: boolean}>} */
  #inFlight = new Map();
  /** 0 while offline. */
  #window = 0;
  #size = 0;
  #ports;
  #slots;

  /**
   * @param {OutboxPorts} ports
   * @param {number} slots
   */
  constructor(ports, slots = OUTBOX_SLOTS) {
    this.#ports = ports;
    this.#slots = slots;
  }

  /** Messages not yet acknowledged. */
  get size() {
    return this.#size;
  }

  /** Sends without an answer. */
  get unanswered() {
    return this.#inFlight.size;
  }

  /** The send with the largest frame of those without an answer. @returns {Item | null} */
  get largestInFlight() {
    let largest = null;
    for (const { item } of this.#inFlight.values()) {
      if (!largest || item.bytes.frame > largest.bytes.frame) largest = item;
    }
    return largest;
  }

  /**
   * Takes a message; false when full.
   * @param {Item} item
   */
  push(item) {
    if (this.#size >= this.#slots) return false;
    this.#size += 1;
    let lane = this.#lanes.get(item.conv);
    if (!lane) {
      lane = { conv: item.conv, items: [], next: 0, inFlight: 0, blocked: false, restart: false, failures: 0, cancelPause: null };
      this.#lanes.set(item.conv, lane);
    }
    lane.items.push(item);
    this.#pump();
    return true;
  }

  /**
   * The connection is ready for sends.
   * @param {number} window most unanswered sends
   */
  online(window) {
    this.#window = window;
    this.#pump();
  }

  /** The connection is gone: nothing in flight will be answered. */
  offline() {
    this.#window = 0;
    this.#inFlight.clear();
    for (const lane of this.#lanes.values()) {
      lane.cancelPause?.();
      lane.cancelPause = null;
      lane.restart ||= lane.items.some((item) => item.attempts > 0);
      lane.next = 0;
      lane.inFlight = 0;
      lane.blocked = false;
    }
  }

  /**
   * Takes the answer to `ref`; false if it belongs to no send of this outbox.
   * @param {number} ref
   * @param {any} answer a send_ack or error frame
   * @param {boolean} retryable
   */
  answered(ref, answer, retryable) {
    const flight = this.#inFlight.get(ref);
    if (!flight) return false;
    this.#inFlight.delete(ref);
    const { lane, item } = flight;
    lane.inFlight -= 1;
    if (answer.type === 'send_ack') {
      lane.failures = 0;
      this.#remove(lane, item);
      this.#ports.acked(item, answer);
    } else if (retryable) {
      lane.blocked = true;
    } else {
      // Whether a refused restart opened the gate is not known here: the next send says it again.
      lane.restart ||= flight.restart;
      this.#remove(lane, item);
      this.#ports.failed(item, { code: answer.code, text: answer.text });
    }
    if (lane.blocked && lane.inFlight === 0 && !lane.cancelPause) this.#pause(lane);
    this.#pump();
    return true;
  }

  /**
   * Gives a message back as failed that is not in flight.
   * @param {Item} item
   * @param {{code: string, text: string}} error
   */
  fail(item, error) {
    const lane = this.#lanes.get(item.conv);
    if (!lane?.items.includes(item)) return;
    this.#remove(lane, item);
    this.#ports.failed(item, error);
  }

  /**
   * Gives every message back as failed.
   * @param {{code: string, text: string}} error
   */
  abandon(error) {
    this.offline();
    const lanes = [...this.#lanes.values()];
    this.#lanes.clear();
    this.#size = 0;
    for (const lane of lanes) {
      for (const item of lane.items) this.#ports.failed(item, error);
    }
  }

  /** @param {Lane} lane */
  #pause(lane) {
    const ms = backoffMs(lane.failures, { baseMs: 200, capMs: 10_000, random: this.#ports.random });
    lane.failures += 1;
    lane.cancelPause = this.#ports.after(ms, () => {
      lane.cancelPause = null;
      lane.blocked = false;
      lane.restart = true;
      lane.next = 0;
      this.#pump();
    });
  }

  /**
   * @param {Lane} lane
   * @param {Item} item
   */
  #remove(lane, item) {
    const index = lane.items.indexOf(item);
    lane.items.splice(index, 1);
    if (index < lane.next) lane.next -= 1;
    this.#size -= 1;
    if (lane.items.length === 0) {
      lane.cancelPause?.();
      lane.cancelPause = null;
      this.#lanes.delete(lane.conv);
    }
  }

  /** Sends what may be sent, one message per lane and round, so that no conversation waits for another. */
  #pump() {
    for (let progress = true; progress; ) {
      progress = false;
      for (const lane of this.#lanes.values()) {
        if (this.#inFlight.size >= this.#window) return;
        if (lane.blocked || lane.next >= lane.items.length) continue;
        const item = lane.items[lane.next];
        const restart = lane.restart;
        lane.restart = false;
        lane.next += 1;
        lane.inFlight += 1;
        item.attempts += 1;
        const ref = this.#ports.transmit(restart ? { ...item.frame, restart: true } : item.frame);
        this.#inFlight.set(ref, { lane, item, restart });
        progress = true;
      }
    }
  }
}
