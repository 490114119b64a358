// @ts-check
/** Reads ranges of a conversation's log, page by page, around what the server has and cannot serve. */

import { toMessage } from './message.js';

/** Most places in a page. */
const PULL_LIMIT = 200;
/** What a read is refused with that meets a damaged row. */
const DAMAGED = 'rejected';

/** @typedef {import('./message.js').Message} Message */
/** @typedef {import('./error.js').CorelaneError} CorelaneError */

/**
 * What pulls need from their owner.
 * @typedef {object} PullsPorts
 * @property {(conv: string) => import('./timeline.js').Timeline | undefined} timeline
 * @property {(frame: Record<string, unknown>) => Promise<any>} request
 * @property {(type: string, detail: object) => void} emit
 */

/** How many places to ask for, at the beginning of a range. */
export function wholePages() {
  return { limit: PULL_LIMIT };
}

export class Pulls {
  #ports;

  /** @param {PullsPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /**
   * One page of a range, and up to where it is the last word. The server refuses a read that meets a damaged row: fewer
   * places are asked for until that row stands alone. It is passed over, and nothing else is.
   * @param {string} conv
   * @param {number} from
   * @param {number} to
   * @param {{limit: number}} span places to ask for; halved by each refusal, doubled by each page
   * @returns {Promise<any>}
   */
  async page(conv, from, to, span) {
    for (;;) {
      const limit = Math.min(span.limit, to - from + 1);
      const asked = from + limit - 1;
      try {
        const page = await this.#ports.request({ type: 'pull', conv, from_seq: from, to_seq: asked, limit });
        span.limit = Math.min(2 * span.limit, PULL_LIMIT);
        return { ...page, upto: page.next_seq > from ? page.next_seq - 1 : asked };
      } catch (error) {
        const { code, text } = /** @type {CorelaneError} */ (error);
        if (code !== DAMAGED) throw error;
        span.limit = Math.max(1, Math.floor(limit / 2));
        if (limit > 1) continue;
        this.#ports.emit('error', { code, text: `${conv}: ${text}` });
        return { messages: [], upto: from, head_seq: 0, head_n: 0, floor_seq: 0 };
      }
    }
  }

  /**
   * All messages of a range, in order; they are not shown.
   * @param {string} conv
   * @param {number} fromSeq
   * @param {number} toSeq
   * @returns {Promise<Message[]>}
   */
  async pull(conv, fromSeq, toSeq) {
    const messages = [];
    const span = wholePages();
    for (let from = fromSeq; from <= toSeq; ) {
      const page = await this.page(conv, from, toSeq, span);
      messages.push(...page.messages.map(toMessage));
      this.#ports.timeline(conv)?.head(page.head_seq, page.head_n);
      if (page.head_seq > 0 && page.upto >= page.head_seq) break;
      from = page.upto + 1;
    }
    return messages;
  }

  /**
   * Older messages, in order, that end before `beforeSeq`.
   * @param {string} conv
   * @param {number} beforeSeq
   * @param {number} limit
   * @returns {Promise<{messages: Message[], more: boolean}>}
   */
  async history(conv, beforeSeq, limit) {
    const first = () => Math.max(1, (this.#ports.timeline(conv)?.floorSeq ?? 0) + 1);
    for (let to = beforeSeq - 1; ; ) {
      const from = Math.max(first(), to - limit + 1);
      if (to < from) return { messages: [], more: false };
      const messages = await this.pull(conv, from, to);
      const more = from > first();
      if (messages.length > 0 || !more) return { messages, more };
      to = from - 1;
    }
  }
}
