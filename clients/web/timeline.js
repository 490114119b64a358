// @ts-check
/**
 * What this terminal knows of one conversation, and in which order it shows the messages.
 *
 * Shows every message once and in the order of `seq`: `shownSeq` only grows, what is at or below it is a repeat, what is
 * further ahead than the next place is held until the gap before it was filled by a pull. Does no I/O. When more than
 * `HELD_MAX` messages wait behind a gap, later ones are let go: the head remembers that they exist and the pull brings them.
 */

/** Most messages held behind a gap. */
export const HELD_MAX = 512;

/** @typedef {import('./message.js').Message} Message */

export class Timeline {
  /** @type {Map<number, Message>} */
  #held = new Map();

  /**
   * @param {string} conv
   * @param {number} shownSeq nothing at or below this place is shown
   */
  constructor(conv, shownSeq) {
    this.conv = conv;
    this.shownSeq = shownSeq;
    /** Countable messages up to `shownSeq`, at least. */
    this.shownN = 0;
    this.headSeq = shownSeq;
    this.headN = 0;
    this.floorSeq = 0;
    this.readSeq = 0;
    this.readN = 0;
    /** The highest place that somebody else is known to have read. */
    this.peerReadSeq = 0;
    /** @type {Message | null} */
    this.last = null;
  }

  /** Countable messages after the user's read mark. */
  get unread() {
    return Math.max(0, this.headN - this.readN);
  }

  /**
   * The first range that is known to exist and was not shown; `null` when all is shown.
   * @returns {{from: number, to: number} | null}
   */
  get gap() {
    if (this.shownSeq >= this.headSeq) return null;
    const to = this.#held.size > 0 ? Math.min(...this.#held.keys()) - 1 : this.headSeq;
    return { from: this.shownSeq + 1, to };
  }

  /**
   * Takes a message from wherever it came; returns what can be shown now, in order.
   * @param {Message} message
   * @returns {Message[]}
   */
  offer(message) {
    this.head(message.seq, message.n);
    if (!this.last || message.seq > this.last.seq) this.last = message;
    if (message.seq <= this.shownSeq) return [];
    if (message.seq > this.shownSeq + 1) {
      if (this.#held.size < HELD_MAX) this.#held.set(message.seq, message);
      return [];
    }
    this.#shown(message);
    return [message, ...this.#release()];
  }

  /**
   * The log has nothing to show up to and with `seq` beyond what was offered; goes on behind it.
   * @param {number} seq
   * @returns {Message[]}
   */
  skipTo(seq) {
    if (seq <= this.shownSeq) return [];
    const shown = [];
    for (const at of [...this.#held.keys()].sort((a, b) => a - b)) {
      if (at > seq) break;
      const message = /** @type {Message} */ (this.#held.get(at));
      this.#held.delete(at);
      this.#shown(message);
      shown.push(message);
    }
    this.shownSeq = seq;
    this.headSeq = Math.max(this.headSeq, seq);
    return [...shown, ...this.#release()];
  }

  /**
   * The head is at least here.
   * @param {number} seq
   * @param {number} n
   */
  head(seq, n) {
    this.headSeq = Math.max(this.headSeq, seq);
    this.headN = Math.max(this.headN, n);
  }

  /**
   * The user has read up to here; a lower mark than known changes nothing.
   * @param {number} seq
   * @param {number} n
   * @returns {boolean} whether something changed
   */
  read(seq, n) {
    const changed = seq > this.readSeq || n > this.readN;
    this.readSeq = Math.max(this.readSeq, seq);
    this.readN = Math.max(this.readN, n);
    return changed;
  }

  /**
   * Forgets what was shown and held and goes on behind `seq`.
   * @param {number} seq
   */
  restart(seq) {
    this.#held.clear();
    this.shownSeq = seq;
  }

  #release() {
    const shown = [];
    for (const seq of this.#held.keys()) {
      if (seq <= this.shownSeq) this.#held.delete(seq);
    }
    for (let next = this.#held.get(this.shownSeq + 1); next; next = this.#held.get(this.shownSeq + 1)) {
      this.#held.delete(next.seq);
      this.#shown(next);
      shown.push(next);
    }
    return shown;
  }

  /** @param {Message} message */
  #shown({ seq, n }) {
    this.shownSeq = seq;
    this.shownN = n;
  }
}
