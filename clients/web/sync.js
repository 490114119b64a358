// @ts-check
/**
 * What this terminal knows of its conversations, and how it learns what it missed: sync, pulls for gaps, `PullRequired`.
 *
 * Owns the timelines and the sync cursor. At most `PULLS_MAX` pulls run at a time; conversations that find no place are
 * taken up when one is free. Messages of conversations that are not known wait for a sync, at most `STRANGERS_MAX` of
 * them; the rest comes by pull.
 */

import { toMessage } from './message.js';
import { wholePages } from './pulls.js';
import { Timeline } from './timeline.js';

const PULLS_MAX = 4;
const SYNC_LIMIT = 200;
/** An ack may overtake messages of others that are on their way: a gap is pulled when it is older than this. */
const GAP_GRACE_MS = 200;
/** Messages of conversations not known yet, waiting for the sync that tells of them. */
const STRANGERS_MAX = 1000;

/** @typedef {import('./message.js').Message} Message */
/** @typedef {import('./error.js').CorelaneError} CorelaneError */

/**
 * What syncing needs from its owner.
 * @typedef {object} SyncPorts
 * @property {() => boolean} online
 * @property {() => unknown} incarnation of the connection
 * @property {(frame: Record<string, unknown>) => Promise<any>} request
 * @property {(ms: number, run: () => void) => void} after runs later, unless the connection ends before
 * @property {() => number} random
 * @property {(type: string, detail: object) => void} emit
 * @property {(conv: string | null) => void} forgotten the log of a conversation (`null`: of all) is another one
 */

export class Sync {
  #ports;
  #pulls;
  #catchUpMax;
  #storage;
  #user = '';
  #epoch = '';
  #cursor = '';
  /** The cursor that is saved as soon as nothing is missing; empty if the saved one is right. */
  #unsaved = '';
  /** Counts how often the cursor was dropped: a sync that ran meanwhile must not bring it back. */
  #drops = 0;
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

  /**
   * @param {{catchUpMax: number, storage?: import('./corelane.js').CursorStorage}} options
   * @param {import('./pulls.js').Pulls} pulls
   * @param {SyncPorts} ports
   */
  constructor({ catchUpMax, storage }, pulls, ports) {
    this.#pulls = pulls;
    this.#catchUpMax = catchUpMax;
    this.#storage = storage;
    this.#ports = ports;
    const saved = storage?.load();
    if (saved) ({ cursor: this.#cursor, epoch: this.#epoch } = saved);
  }

  /** Everything known of the conversations, by id. @returns {ReadonlyMap<string, Timeline>} */
  get timelines() {
    return this.#timelines;
  }

  /** The log that the cursor belongs to; empty before the first login. */
  get epoch() {
    return this.#epoch;
  }

  // ---- the connection ------------------------------------------------------------------------------------------

  /**
   * Logged in: forgets what belongs to another user or another log.
   * @param {{user: string, epoch: string}} welcome
   */
  welcomed({ user, epoch }) {
    const same = this.#epoch === epoch && (this.#user === '' || this.#user === user);
    const known = this.#epoch !== '' && this.#timelines.size > 0;
    this.#user = user;
    this.#epoch = epoch;
    if (same) return;
    this.#dropCursor();
    if (known) this.#forgetAll();
  }

  /** The connection is gone, and with it what was asked. */
  lost() {
    this.#syncing = this.#syncAgain = false;
    this.#filling.clear();
    this.#gapTimers.clear();
  }

  // ---- messages ------------------------------------------------------------------------------------------------

  /**
   * @param {Message} message
   * @param {boolean} live
   */
  arrived(message, live) {
    let timeline = this.#timelines.get(message.conv);
    if (!timeline) {
      if (message.seq !== 1) return this.#stranger(message);
      timeline = this.#begin(message.conv, 0);
    }
    this.#show(timeline, timeline.offer(message), live);
    if (message.sender === this.#user && message.originTerminal) timeline.read(message.seq, message.n);
    this.changed(message.conv);
    if (timeline.gap && !this.#gapTimers.has(timeline)) this.#fillLater(timeline, GAP_GRACE_MS);
  }

  /**
   * A message in the middle of a conversation that is not known here: the sync tells where to begin.
   * @param {Message} message
   */
  #stranger(message) {
    if (this.#strangerCount < STRANGERS_MAX) {
      this.#strangerCount += 1;
      const waiting = this.#strangers.get(message.conv);
      if (waiting) waiting.push(message);
      else this.#strangers.set(message.conv, [message]);
    }
    this.sync();
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
    for (const message of waiting.sort((a, b) => a.seq - b.seq)) this.arrived(message, true);
    return timeline;
  }

  /**
   * @param {Timeline} timeline
   * @param {Message[]} messages
   * @param {boolean} live
   */
  #show(timeline, messages, live) {
    for (const message of messages) {
      if (timeline === this.#timelines.get(message.conv)) this.#ports.emit('message', { message, live });
    }
  }

  // ---- sync ----------------------------------------------------------------------------------------------------

  /** Asks what changed since the cursor; once more if asked while asking. */
  async sync() {
    if (!this.#ports.online()) return;
    if (this.#syncing) {
      this.#syncAgain = true;
      return;
    }
    this.#syncing = true;
    const incarnation = this.#ports.incarnation();
    const drops = this.#drops;
    try {
      for (let cursor = this.#cursor; ; ) {
        const page = await this.#ports.request({ type: 'sync', cursor, limit: SYNC_LIMIT });
        for (const state of page.conversations) this.#take(state);
        cursor = page.cursor;
        if (page.more) continue;
        if (drops === this.#drops) this.#cursor = this.#unsaved = cursor;
        break;
      }
      for (const [conv, waiting] of [...this.#strangers]) {
        this.#begin(conv, Math.min(...waiting.map((message) => message.seq)) - 1);
      }
      // What an earlier connection left missing need not have changed since.
      this.#fillNext();
      this.#saveWhenWhole();
      this.#ports.emit('synced', {});
    } catch (error) {
      const { code, text, retryable } = /** @type {CorelaneError} */ (error);
      if (this.#ports.incarnation() !== incarnation) return;
      if (code === 'ahead') {
        this.#dropCursor();
        this.#forgetAll();
        this.#syncAgain = true;
      } else if (retryable) {
        this.#ports.after(1000 + this.#ports.random() * 2000, () => this.sync());
      } else {
        this.#ports.emit('error', { code: code ?? 'internal', text: text ?? String(error) });
      }
    } finally {
      if (this.#ports.incarnation() === incarnation) {
        this.#syncing = false;
        if (this.#syncAgain) {
          this.#syncAgain = false;
          this.sync();
        }
      }
    }
  }

  /** @param {any} state a conversation of a sync page */
  #take(state) {
    const { conv, head_seq, head_n, floor_seq, read_seq, read_n, last } = state;
    const begin = Math.min(head_seq, Math.max(read_seq, floor_seq, head_seq - this.#catchUpMax));
    const timeline = this.#timelines.get(conv) ?? this.#begin(conv, begin);
    if (head_seq < timeline.shownSeq) this.#doubt(timeline);
    timeline.head(head_seq, head_n);
    timeline.read(read_seq, read_n);
    timeline.floorSeq = Math.max(timeline.floorSeq, floor_seq);
    if (last && (!timeline.last || last.seq > timeline.last.seq)) timeline.last = toMessage(last);
    if (timeline.headSeq - timeline.shownSeq > this.#catchUpMax) {
      timeline.restart(timeline.headSeq - this.#catchUpMax);
      this.#ports.emit('reset', { conv });
    }
    this.changed(conv);
    this.#fill(timeline);
  }

  // ---- pulls ---------------------------------------------------------------------------------------------------

  /**
   * Pulls what is missing until nothing is.
   * @param {Timeline} timeline
   */
  async #fill(timeline) {
    const { conv } = timeline;
    if (this.#filling.has(conv) || !timeline.gap || !this.#ports.online() || this.#timelines.get(conv) !== timeline) return;
    // Those that find no place are taken up when one is free.
    if (this.#filling.size >= PULLS_MAX) return;
    this.#filling.add(conv);
    const incarnation = this.#ports.incarnation();
    const span = wholePages();
    try {
      for (let gap = timeline.gap; gap; gap = timeline.gap) {
        const page = await this.#pulls.page(conv, gap.from, gap.to, span);
        if (this.#timelines.get(conv) !== timeline) return;
        timeline.head(page.head_seq, page.head_n);
        timeline.floorSeq = Math.max(timeline.floorSeq, page.floor_seq);
        for (const each of page.messages.map(toMessage)) this.#show(timeline, timeline.offer(each), false);
        // The answer is the last word about its range: what is not in it (below the floor, before one joined) is not there.
        this.#show(timeline, timeline.skipTo(Math.max(Math.min(page.floor_seq, gap.to), page.upto)), false);
        this.changed(conv);
      }
    } catch (error) {
      if (this.#ports.incarnation() !== incarnation || this.#timelines.get(conv) !== timeline) return;
      const { code, text, retryable } = /** @type {CorelaneError} */ (error);
      if (retryable) {
        this.#fillLater(timeline, 500 + this.#ports.random() * 1500);
      } else if (code === 'ahead') {
        this.#wentBack(timeline);
      } else {
        this.#show(timeline, timeline.skipTo(timeline.headSeq), false);
        this.#ports.emit('error', { code: code ?? 'internal', text: `${conv}: ${text ?? error}` });
      }
    } finally {
      if (this.#ports.incarnation() === incarnation) {
        this.#filling.delete(conv);
        this.#fillNext();
        this.#saveWhenWhole();
      }
    }
  }

  /**
   * The sync says that the log ends before what was shown: a backup was restored, or a message overtook the page, or the
   * user left the group and is told its state before that. Only the server knows, and says `ahead` in the first case.
   * @param {Timeline} timeline
   */
  async #doubt(timeline) {
    const next = timeline.shownSeq + 1;
    try {
      const page = await this.#ports.request({ type: 'pull', conv: timeline.conv, from_seq: next, to_seq: next, limit: 1 });
      for (const each of page.messages.map(toMessage)) this.arrived(each, false);
    } catch (error) {
      // Any other refusal, or a lost connection, leaves it to the next sync.
      if (/** @type {CorelaneError} */ (error).code === 'ahead') this.#wentBack(timeline);
    }
  }

  /**
   * The log of a conversation is another one than was shown. Others may have gone back with it that changed before the
   * cursor: everything is asked for again.
   * @param {Timeline} timeline
   */
  #wentBack(timeline) {
    const { conv } = timeline;
    if (this.#timelines.get(conv) !== timeline) return;
    this.#timelines.delete(conv);
    this.#ports.forgotten(conv);
    this.#dropCursor();
    this.sync();
  }

  /**
   * @param {Timeline} timeline
   * @param {number} ms
   */
  #fillLater(timeline, ms) {
    this.#gapTimers.add(timeline);
    this.#ports.after(ms, () => {
      this.#gapTimers.delete(timeline);
      this.#fill(timeline);
    });
  }

  /** Gives the free places to conversations that still miss something and have no time of their own. */
  #fillNext() {
    for (const timeline of this.#timelines.values()) {
      if (this.#filling.size >= PULLS_MAX) return;
      if (timeline.gap && !this.#gapTimers.has(timeline)) this.#fill(timeline);
    }
  }

  /** @param {{upto: {conv: string, seq: number}[]}} frame */
  pullRequired({ upto }) {
    let pulled = false;
    for (const { conv, seq } of upto) {
      const timeline = this.#timelines.get(conv);
      if (!timeline) continue;
      timeline.head(seq, 0);
      pulled ||= timeline.gap !== null && !this.#filling.has(conv) && this.#filling.size < PULLS_MAX;
      this.#fill(timeline);
    }
    // The gateway sends live again after the next Sync or Pull: one of them must go out from here on in any case.
    if (!pulled || upto.some(({ conv }) => !this.#timelines.has(conv))) this.sync();
  }

  // ---- keeping and forgetting ----------------------------------------------------------------------------------------------

  /**
   * Saves the cursor when everything was shown that its sync told of. A page that is left before that comes back with the
   * cursor before it, and is told again.
   */
  #saveWhenWhole() {
    if (!this.#unsaved) return;
    for (const { gap } of this.#timelines.values()) if (gap) return;
    this.#storage?.save({ cursor: this.#unsaved, epoch: this.#epoch });
    this.#unsaved = '';
  }

  #dropCursor() {
    this.#cursor = this.#unsaved = '';
    this.#drops += 1;
    this.#storage?.save(null);
  }

  #forgetAll() {
    this.#timelines.clear();
    this.#strangers.clear();
    this.#strangerCount = 0;
    this.#ports.forgotten(null);
  }

  /**
   * Head, read mark or last message of a conversation changed.
   * @param {string} conv
   */
  changed(conv) {
    this.#ports.emit('conversation', { conv });
  }
}
