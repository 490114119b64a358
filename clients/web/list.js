// @ts-check
/** The list of conversations: who, the last words, when, and how many are unread. */

import { avatar, byId, convTitle, h, isGroup, messageText, shortTime } from './dom.js';

export class ConversationList {
  #client;
  #onOpen;
  /** Conversations that the user opened and that have no message yet. @type {Set<string>} */
  #fresh = new Set();
  /** Last message that is worth a line, by conversation. @type {Map<string, import('./corelane.js').Message>} */
  #lines = new Map();
  /** @type {Map<string, {element: HTMLElement, signature: string}>} */
  #rows = new Map();
  #planned = false;
  #current = '';

  /**
   * @param {import('./corelane.js').CorelaneClient} client
   * @param {(conv: string) => void} onOpen
   */
  constructor(client, onOpen) {
    this.#client = client;
    this.#onOpen = onOpen;
    byId('conversations').replaceChildren();
    client.addEventListener('conversation', () => this.#plan());
    client.addEventListener('synced', () => this.#plan());
    client.addEventListener('reset', () => {
      this.#lines.clear();
      this.#plan();
    });
  }

  /**
   * Marks the open conversation.
   * @param {string} conv empty for none
   */
  select(conv) {
    this.#current = conv;
    if (conv) this.#fresh.add(conv);
    this.#plan();
  }

  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      this.#render();
    });
  }

  #render() {
    const { conversations, user } = this.#client;
    const all = new Map([...this.#fresh].map((conv) => [conv, { conv, unread: 0, timeMs: Date.now(), line: '' }]));
    let unreadTotal = 0;
    for (const { conv, headSeq, last, unread } of conversations.values()) {
      if (headSeq === 0) continue;
      if (last && messageText(last, user) !== null) this.#lines.set(conv, last);
      all.set(conv, { conv, unread, timeMs: last?.timeMs ?? 0, line: this.#line(conv, user) });
      unreadTotal += unread;
    }
    const sorted = [...all.values()].sort((a, b) => b.timeMs - a.timeMs);
    const list = byId('conversations');
    let at = list.firstElementChild;
    for (const entry of sorted) {
      const row = this.#row(entry, user);
      if (row === at) at = at.nextElementSibling;
      else list.insertBefore(row, at);
    }
    while (at) {
      const next = at.nextElementSibling;
      at.remove();
      at = next;
    }
    byId('no-conversations').hidden = sorted.length > 0;
    document.title = `${unreadTotal > 0 ? `(${unreadTotal}) ` : ''}${user ? `${user} · ` : ''}Corelane`;
  }

  /**
   * @param {string} conv
   * @param {string} user
   */
  #line(conv, user) {
    const message = this.#lines.get(conv);
    if (!message) return '';
    const text = messageText(message, user) ?? '';
    if (message.kind === 'group_change') return text;
    if (message.sender === user) return `You: ${text}`;
    return isGroup(conv) ? `${message.sender}: ${text}` : text;
  }

  /**
   * @param {{conv: string, unread: number, timeMs: number, line: string}} entry
   * @param {string} user
   */
  #row({ conv, unread, timeMs, line }, user) {
    const current = conv === this.#current;
    const signature = JSON.stringify([unread, line, current, line && shortTime(timeMs)]);
    const known = this.#rows.get(conv);
    if (known?.signature === signature) return known.element;
    const title = convTitle(conv, user);
    const content = [
      avatar(title, isGroup(conv)),
      h('span', { class: 'grow' },
        h('span', { class: 'row-top' },
          h('span', { class: 'row-name ellipsis', 'data-testid': 'conversation-name', text: title }),
          h('time', { class: 'muted', 'data-testid': 'conversation-time', text: line ? shortTime(timeMs) : '' })),
        h('span', { class: 'row-bottom' },
          h('span', { class: 'row-line muted ellipsis', 'data-testid': 'conversation-last', text: line || 'No messages yet' }),
          unread > 0
            ? h('span', { class: 'unread', 'data-testid': 'conversation-unread', 'aria-label': `${unread} unread`, text: unread > 999 ? '999+' : unread })
            : null)),
    ];
    const element = known?.element ?? this.#newRow(conv);
    element.firstElementChild?.replaceChildren(...content);
    element.firstElementChild?.classList.toggle('current', current);
    if (current) element.firstElementChild?.setAttribute('aria-current', 'true');
    else element.firstElementChild?.removeAttribute('aria-current');
    this.#rows.set(conv, { element, signature });
    return element;
  }

  /** @param {string} conv */
  #newRow(conv) {
    const button = h('button', { class: 'row', 'data-testid': 'conversation', 'data-conv': conv });
    button.addEventListener('click', () => this.#onOpen(conv));
    return h('li', {}, button);
  }
}
