// @ts-check
/**
 * How far the user has read. A mark is kept until the server confirmed it, and sent again after a lost connection. One of
 * a conversation is on its way at a time: those set meanwhile are covered by the last of them, which follows it.
 */

/** @typedef {import('./timeline.js').Timeline} Timeline */
/** @typedef {import('./error.js').CorelaneError} CorelaneError */

/**
 * What read marks need from their owner.
 * @typedef {object} MarksPorts
 * @property {(conv: string) => Timeline | undefined} timeline
 * @property {() => boolean} online
 * @property {(frame: Record<string, unknown>) => Promise<any>} request
 * @property {(ms: number, run: () => void) => void} after runs later, unless the connection ends before
 * @property {() => number} random
 * @property {(conv: string) => void} changed
 */

export class ReadMarks {
  #ports;
  /** Not yet confirmed. @type {Map<string, number>} */
  #marks = new Map();
  /** Conversations whose mark is on its way. @type {Set<string>} */
  #asked = new Set();

  /** @param {MarksPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /**
   * The user has read up to `seq`. If it is left out: all that was shown; not what is still being pulled, because the
   * next login begins at the mark and would never hand that out.
   * @param {string} conv
   * @param {number} [seq]
   */
  set(conv, seq) {
    const timeline = this.#ports.timeline(conv);
    const upto = seq ?? timeline?.shownSeq ?? 0;
    if (upto <= (timeline?.readSeq ?? 0) || upto <= (this.#marks.get(conv) ?? 0)) return;
    this.#marks.set(conv, upto);
    if (timeline && upto >= timeline.shownSeq) {
      // How many that are is known at two places; elsewhere the confirmation tells.
      const n = upto >= timeline.headSeq ? timeline.headN : timeline.shownN;
      if (timeline.read(Math.min(upto, timeline.headSeq), n)) this.#ports.changed(conv);
    }
    this.#send(conv);
  }

  /** The connection is ready: sends what was not confirmed. */
  online() {
    for (const conv of this.#marks.keys()) this.#send(conv);
  }

  /** The connection is gone, and with it what was asked. */
  lost() {
    this.#asked.clear();
  }

  /** @param {string | null} conv `null`: all */
  forget(conv) {
    if (conv === null) this.#marks.clear();
    else this.#marks.delete(conv);
  }

  /** @param {string} conv */
  #send(conv) {
    const seq = this.#marks.get(conv);
    if (seq === undefined || this.#asked.has(conv) || !this.#ports.online()) return;
    this.#asked.add(conv);
    this.#ports.request({ type: 'read', conv, seq }).then(
      () => {
        this.#asked.delete(conv);
        if (this.#marks.get(conv) === seq) this.#marks.delete(conv);
        this.#send(conv);
      },
      (/** @type {CorelaneError} */ error) => {
        // Lost connections send the marks again at the next login.
        if (error.code === 'disconnected') return;
        this.#asked.delete(conv);
        if (error.retryable) this.#ports.after(1000 + this.#ports.random() * 2000, () => this.#send(conv));
        else this.#marks.delete(conv);
      },
    );
  }
}
