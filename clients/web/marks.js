// @ts-check
/** How far the user has read: marks go out once, are sent again after a lost connection, and are kept until confirmed. */

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

  /** @param {MarksPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /**
   * The user has read up to `seq` (all that was shown, if left out).
   * @param {string} conv
   * @param {number} [seq]
   */
  set(conv, seq) {
    const timeline = this.#ports.timeline(conv);
    const upto = seq ?? timeline?.headSeq ?? 0;
    if (upto <= (timeline?.readSeq ?? 0) || upto <= (this.#marks.get(conv) ?? 0)) return;
    this.#marks.set(conv, upto);
    if (timeline && upto >= timeline.headSeq && timeline.read(upto, timeline.headN)) this.#ports.changed(conv);
    this.#send(conv);
  }

  /** The connection is ready: sends what was not confirmed. */
  online() {
    for (const conv of this.#marks.keys()) this.#send(conv);
  }

  /** @param {string | null} conv `null`: all */
  forget(conv) {
    if (conv === null) this.#marks.clear();
    else this.#marks.delete(conv);
  }

  /** @param {string} conv */
  #send(conv) {
    const seq = this.#marks.get(conv);
    if (seq === undefined || !this.#ports.online()) return;
    this.#ports.request({ type: 'read', conv, seq }).then(
      () => {
        if (this.#marks.get(conv) === seq) this.#marks.delete(conv);
      },
      (/** @type {CorelaneError} */ error) => {
        // Lost connections send the marks again at the next login.
        if (error.code === 'disconnected') return;
        if (error.retryable) this.#ports.after(1000 + this.#ports.random() * 2000, () => this.#send(conv));
        else this.#marks.delete(conv);
      },
    );
  }
}
