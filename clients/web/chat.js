// @ts-check
/**
 * The open conversation: messages with their states, older ones on scrolling up, the composer.
 *
 * Keeps for each conversation the run of messages without a gap that ends with the newest. A run longer than `RUN_MAX`
 * loses its oldest while it is not open; they come back by scrolling.
 */

import { avatar, byId, clockTime, convTitle, dayName, h, isGroup, messageText, sameDay } from './dom.js';
import { emojiPicker, isEmojiOnly } from './emoji.js';

const RUN_MAX = 500;
const HISTORY_LIMIT = 50;
const TYPING_SHOWN_MS = 5000;
/** Nearer to the end than this, the list follows new messages. */
const NEAR_END_PX = 120;

/** @typedef {import('./corelane.js').Message} Message */
/** @typedef {{clientMsgId: string, text: string, kind: string, timeMs: number, state: 'sending' | 'stored' | 'failed', problem: string}} Outgoing */

/** What the page holds of one conversation. */
class Run {
  /** @type {Message[]} */
  messages = [];
  /** Written here and not yet at its place in `messages`. @type {Map<string, Outgoing>} */
  outgoing = new Map();
  more = true;
  loading = false;
  draft = '';
  /** Unread messages began behind this place when it was opened. @type {number | null} */
  dividerSeq = null;
  /** When each typing user is taken to have stopped. @type {Map<string, number>} */
  typing = new Map();
}

export class ChatPane {
  #client;
  /** @type {Map<string, Run>} */
  #runs = new Map();
  #current = '';
  /** @type {Map<string, {element: HTMLElement, signature: string}>} */
  #elements = new Map();
  #planned = false;
  /** Keys of messages that have just come and are not on the page yet. @type {Set<string>} */
  #fresh = new Set();
  #followEnd = true;
  /** @type {AbortController} */
  #listeners = new AbortController();

  /** @param {import('./corelane.js').CorelaneClient} client */
  constructor(client) {
    this.#client = client;
    this.#listen();
  }

  get current() {
    return this.#current;
  }

  /**
   * Opens a conversation; empty closes the open one.
   * @param {string} conv
   */
  open(conv) {
    const composer = /** @type {HTMLTextAreaElement} */ (byId('composer'));
    if (this.#current) this.#run(this.#current).draft = composer.value;
    if (this.#current) this.#run(this.#current).dividerSeq = null;
    this.#current = conv;
    byId('pane-empty').hidden = conv !== '';
    byId('pane-open').hidden = conv === '';
    byId('messages').replaceChildren();
    this.#elements.clear();
    this.#fresh.clear();
    if (!conv) return;
    const run = this.#run(conv);
    const timeline = this.#client.conversations.get(conv);
    run.dividerSeq = timeline && timeline.unread > 0 ? timeline.readSeq : null;
    const title = convTitle(conv, this.#client.user);
    byId('peer').textContent = title;
    byId('peer-avatar').replaceChildren(avatar(title, isGroup(conv)));
    composer.value = run.draft;
    this.#resizeComposer();
    this.#followEnd = true;
    this.#render();
    this.#loadIfShort();
    this.#markRead();
    if (matchMedia('(hover: hover)').matches) composer.focus();
  }

  #listen() {
    const client = this.#client;
    const { signal } = this.#listeners;
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
      client.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
    on('message', ({ message, live }) => this.#take(message, live));
    on('state', () => this.#enable());
    on('reset', ({ conv }) => this.#reset(conv));
    on('synced', () => this.#loadIfShort());
    on('ack', ({ conv, clientMsgId }) => this.#outgoing(conv, clientMsgId, (each) => (each.state = 'stored')));
    on('sendfailed', ({ conv, clientMsgId, text }) =>
      this.#outgoing(conv, clientMsgId, (each) => Object.assign(each, { state: 'failed', problem: text })));
    on('read', ({ conv }) => this.#changed(conv));
    on('typing', ({ conv, from, on }) => this.#typing(conv, from, on));

    const scroller = byId('scroller');
    scroller.addEventListener('scroll', () => {
      this.#followEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;
      byId('to-end').hidden = this.#followEnd;
      if (scroller.scrollTop < 300) this.#loadOlder();
    }, { signal });
    byId('to-end').addEventListener('click', () => this.#toEnd(), { signal });
    new ResizeObserver(() => this.#followEnd && this.#toEnd()).observe(scroller);
    document.addEventListener('visibilitychange', () => this.#markRead(), { signal });

    const composer = /** @type {HTMLTextAreaElement} */ (byId('composer'));
    byId('composer-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#sendComposer();
    }, { signal });
    composer.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#sendComposer();
    }, { signal });
    composer.addEventListener('input', () => {
      this.#resizeComposer();
      if (this.#current) client.typing({ conv: this.#current }, composer.value.trim() !== '');
    }, { signal });
    byId('emoji-picker').replaceChildren();
    emojiPicker(byId('emoji-picker'), byId('emoji-toggle'), (emoji) => {
      composer.setRangeText(emoji, composer.selectionStart, composer.selectionEnd, 'end');
      this.#resizeComposer();
    }, () => composer.focus());
  }

  // ---- what happens -------------------------------------------------------------------------------------------

  /**
   * @param {Message} message
   * @param {boolean} live
   */
  #take(message, live) {
    const run = this.#run(message.conv);
    run.messages.push(message);
    if (message.seq === 1) run.more = false;
    if (live && message.conv === this.#current && !run.outgoing.has(message.clientMsgId)) this.#fresh.add(keyOf(message));
    run.typing.delete(message.sender);
    if (message.sender === this.#client.user) {
      run.outgoing.delete(message.clientMsgId);
      if (message.conv === this.#current) run.dividerSeq = null;
    }
    if (run.messages.length > RUN_MAX && (message.conv !== this.#current || this.#followEnd)) {
      run.messages.splice(0, run.messages.length - RUN_MAX);
      run.more = true;
    }
    this.#changed(message.conv);
    if (message.conv === this.#current) this.#markRead();
  }

  /** @param {string | null} conv */
  #reset(conv) {
    for (const [each, run] of this.#runs) {
      if (conv !== null && each !== conv) continue;
      run.messages = [];
      run.more = true;
      this.#changed(each);
    }
  }

  /**
   * @param {string} conv
   * @param {string} clientMsgId
   * @param {(outgoing: Outgoing) => void} change
   */
  #outgoing(conv, clientMsgId, change) {
    const runs = conv ? [this.#run(conv)] : [...this.#runs.values()];
    for (const run of runs) {
      const outgoing = run.outgoing.get(clientMsgId);
      if (outgoing) change(outgoing);
    }
    this.#changed(conv || this.#current);
  }

  /**
   * @param {string} conv
   * @param {string} from
   * @param {boolean} on
   */
  #typing(conv, from, on) {
    const { typing } = this.#run(conv);
    if (on) typing.set(from, Date.now() + TYPING_SHOWN_MS);
    else typing.delete(from);
    this.#changed(conv);
    if (on) setTimeout(() => this.#changed(conv), TYPING_SHOWN_MS + 50);
  }

  #sendComposer() {
    const composer = /** @type {HTMLTextAreaElement} */ (byId('composer'));
    const text = composer.value.trim();
    if (!text || !this.#current) return;
    composer.value = '';
    this.#resizeComposer();
    this.#client.typing({ conv: this.#current }, false);
    const kind = isEmojiOnly(text) ? 'emoji' : 'text';
    const { clientMsgId } = this.#client.send({ conv: this.#current }, { payload: text, kind });
    this.#run(this.#current).outgoing.set(clientMsgId, { clientMsgId, text, kind, timeMs: Date.now(), state: 'sending', problem: '' });
    this.#fresh.add(keyOf({ clientMsgId, sender: this.#client.user, seq: 0 }));
    this.#followEnd = true;
    this.#changed(this.#current);
  }

  /** Nothing can be written while nothing will be sent. */
  #enable() {
    const over = this.#client.state === 'closed';
    for (const id of ['composer', 'send', 'emoji-toggle']) /** @type {HTMLButtonElement} */ (byId(id)).disabled = over;
    /** @type {HTMLTextAreaElement} */ (byId('composer')).placeholder = over ? 'You are signed out' : 'Message';
  }

  #markRead() {
    if (this.#current && document.visibilityState === 'visible') this.#client.markRead(this.#current);
  }

  /** Fills the first screen of a conversation with history. */
  #loadIfShort() {
    if (this.#current && this.#run(this.#current).messages.length < HISTORY_LIMIT) this.#loadOlder();
  }

  async #loadOlder() {
    const conv = this.#current;
    const run = this.#run(conv);
    const timeline = this.#client.conversations.get(conv);
    if (!timeline || run.loading || !run.more || this.#client.state !== 'online') return;
    run.loading = true;
    this.#changed(conv);
    const before = run.messages[0]?.seq ?? timeline.shownSeq + 1;
    try {
      const { messages, more } = await this.#client.history(conv, before, HISTORY_LIMIT);
      // What arrived meanwhile stands behind; a reset meanwhile makes this answer worthless.
      if ((run.messages[0]?.seq ?? timeline.shownSeq + 1) === before || run.messages[0]?.seq > before) {
        run.messages = [...messages.filter((each) => each.seq < before), ...run.messages];
        run.more = more;
      }
    } catch {
      // Offline, most likely: the next scroll or login asks again.
    } finally {
      run.loading = false;
      this.#changed(conv);
    }
  }

  // ---- what is seen -------------------------------------------------------------------------------------------

  /** @param {string} conv */
  #run(conv) {
    let run = this.#runs.get(conv);
    if (!run) this.#runs.set(conv, (run = new Run()));
    return run;
  }

  /** @param {string} conv */
  #changed(conv) {
    if (conv !== this.#current || this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      this.#render();
    });
  }

  #render() {
    const conv = this.#current;
    if (!conv) return;
    const run = this.#run(conv);
    const wanted = this.#wanted(run);
    const scroller = byId('scroller');
    const list = byId('messages');
    // What is loaded above must not move what is being read: the oldest message on the page stays where it is.
    const anchor = /** @type {HTMLElement | null} */ (list.querySelector('.message'));
    const anchorTop = anchor?.offsetTop ?? 0;
    let at = list.firstElementChild;
    for (const element of wanted) {
      if (element === at) at = at.nextElementSibling;
      else list.insertBefore(element, at);
    }
    while (at) {
      const next = at.nextElementSibling;
      at.remove();
      at = next;
    }
    if (this.#elements.size > 2 * wanted.length + 100) this.#forgetElements(new Set(wanted));
    byId('older').textContent = olderText(run);
    this.#note(run);
    if (this.#followEnd) this.#toEnd();
    else if (anchor?.isConnected) scroller.scrollTop += anchor.offsetTop - anchorTop;
  }

  /**
   * The elements of the list, in order: days, the line before unread messages, messages, what is on its way.
   * @param {Run} run
   */
  #wanted(run) {
    const conv = this.#current;
    const me = this.#client.user;
    const peerReadSeq = this.#client.conversations.get(conv)?.peerReadSeq ?? 0;
    /** @type {HTMLElement[]} */
    const wanted = [];
    let previous = { sender: '', timeMs: 0 };
    let dividerSeq = run.dividerSeq;
    const day = (/** @type {number} */ timeMs) => {
      if (sameDay(previous.timeMs, timeMs)) return;
      const key = `day ${new Date(timeMs).toDateString()}`;
      wanted.push(this.#keep(key, '', () => h('li', { class: 'day' }, h('span', { text: dayName(timeMs) }))));
      previous = { sender: '', timeMs };
    };
    const line = (/** @type {any} */ item) => {
      day(item.timeMs);
      if (item.system) {
        wanted.push(this.#keep(item.key, item.text, () => h('li', { class: 'system', 'data-testid': 'system', 'data-seq': item.seq }, h('span', { text: item.text }))));
        previous = { sender: '', timeMs: item.timeMs };
        return;
      }
      const first = previous.sender !== item.sender || item.timeMs - previous.timeMs > 300_000;
      const named = first && isGroup(conv) && item.sender !== me;
      const signature = JSON.stringify([item.seq, item.state, item.text, first, item.problem]);
      wanted.push(this.#keep(item.key, signature, () => this.#bubble(item, { first, named, mine: item.sender === me })));
      previous = item;
    };
    for (const message of run.messages) {
      const text = messageText(message, me);
      if (text === null) continue;
      if (dividerSeq !== null && message.seq > dividerSeq) {
        dividerSeq = null;
        day(message.timeMs);
        wanted.push(this.#keep('divider', '', () => h('li', { class: 'divider', 'data-testid': 'divider' }, h('span', { text: 'New messages' }))));
        previous = { sender: '', timeMs: previous.timeMs };
      }
      const state = message.sender !== me ? '' : message.seq <= peerReadSeq ? 'read' : 'stored';
      line({
        key: keyOf(message), seq: message.seq, sender: message.sender, text, kind: message.kind,
        timeMs: message.timeMs, state, problem: '', system: message.kind === 'group_change' || message.kind === 'redacted', clientMsgId: message.clientMsgId,
      });
    }
    for (const outgoing of run.outgoing.values()) line({ ...outgoing, key: keyOf({ ...outgoing, sender: me, seq: 0 }), sender: me, seq: null });
    return wanted;
  }

  /**
   * The element made before under this key, if it still looks the same.
   * @param {string} key
   * @param {string} signature
   * @param {() => HTMLElement} make
   */
  #keep(key, signature, make) {
    const known = this.#elements.get(key);
    if (known?.signature === signature) return known.element;
    const element = make();
    known?.element.replaceWith(element);
    this.#elements.set(key, { element, signature });
    return element;
  }

  /** @param {Set<HTMLElement>} except */
  #forgetElements(except) {
    for (const [key, { element }] of this.#elements) {
      if (!except.has(element)) this.#elements.delete(key);
    }
  }

  /**
   * @param {any} item
   * @param {{first: boolean, named: boolean, mine: boolean}} look
   */
  #bubble(item, { first, named, mine }) {
    const big = item.kind === 'emoji' || isEmojiOnly(item.text);
    const states = /** @type {Record<string, [string, string]>} */ ({
      sending: ['◷', 'Sending'], stored: ['✓', 'Stored'], read: ['✓✓', 'Read'], failed: ['!', 'Not sent'],
    });
    const fresh = this.#fresh.delete(item.key);
    const [mark, label] = states[item.state] ?? ['', ''];
    const meta = h('span', { class: 'meta' }, h('time', { datetime: new Date(item.timeMs).toISOString(), text: clockTime(item.timeMs) }),
      mine ? h('span', { class: 'state', 'data-testid': 'message-state', role: 'img', 'aria-label': label, title: label, text: mark }) : null);
    const bubble = h('div', { class: 'bubble' },
      named ? h('span', { class: 'sender', text: item.sender }) : null,
      h('span', { class: 'text', 'data-testid': 'message-text', dir: 'auto', text: item.text }), meta);
    const row = h('li', {
      class: `message${mine ? ' mine' : ''}${first ? ' first' : ''}${big ? ' big' : ''}${fresh ? ' fresh' : ''}${item.state === 'failed' ? ' failed' : ''}`,
      'data-testid': 'message', 'data-seq': item.seq, 'data-state': item.state, 'data-mine': mine ? 'true' : null, 'data-sender': item.sender,
    }, !mine && isGroup(this.#current) ? (first ? avatar(item.sender) : h('span', { class: 'avatar-gap' })) : null, bubble);
    if (item.state === 'failed') {
      const retry = h('button', { class: 'link retry', 'data-testid': 'retry', text: 'Retry' });
      retry.addEventListener('click', () => this.#retry(item.clientMsgId));
      bubble.append(h('span', { class: 'problem', role: 'alert' }, h('span', { text: `Not sent: ${item.problem}. ` }), retry));
    }
    return row;
  }

  /** @param {string} clientMsgId */
  #retry(clientMsgId) {
    const outgoing = this.#run(this.#current).outgoing.get(clientMsgId);
    if (!outgoing || !this.#client.resend(clientMsgId)) return;
    Object.assign(outgoing, { state: 'sending', problem: '' });
    this.#changed(this.#current);
  }

  /** @param {Run} run */
  #note(run) {
    const now = Date.now();
    const typing = [...run.typing].filter(([, until]) => until > now).map(([user]) => user);
    const group = isGroup(this.#current);
    const note = byId('peer-note');
    note.classList.toggle('typing', typing.length > 0);
    if (typing.length === 0) note.textContent = group ? 'Group' : 'Direct chat';
    else if (typing.length > 1) note.textContent = `${typing.length} people are typing…`;
    else note.textContent = group ? `${typing[0]} is typing…` : 'typing…';
  }

  #toEnd() {
    const scroller = byId('scroller');
    scroller.scrollTop = scroller.scrollHeight;
    this.#followEnd = true;
    byId('to-end').hidden = true;
  }

  #resizeComposer() {
    const composer = byId('composer');
    composer.style.height = 'auto';
    composer.style.height = `${Math.min(composer.scrollHeight, 140)}px`;
  }
}

/**
 * What tells a message from every other of its conversation, stored or not yet.
 * @param {{clientMsgId: string, sender: string, seq: number}} message
 */
function keyOf({ clientMsgId, sender, seq }) {
  return clientMsgId ? `${sender} ${clientMsgId}` : `seq ${seq}`;
}

/**
 * What stands above the oldest message.
 * @param {Run} run
 */
function olderText(run) {
  if (run.loading) return 'Loading…';
  if (run.messages.length === 0 && run.outgoing.size === 0) return 'No messages yet. Say hello!';
  return run.more ? '' : 'Beginning of the conversation';
}
