// @ts-check
/** Small helpers of the demo page: elements without markup in strings, avatars, times. Text of users is always text. */

import { parseConv, peerOf } from './corelane.js';

/**
 * The element with this id; the page always has it.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/**
 * Makes an element.
 * @param {string} tag
 * @param {Record<string, string | number | boolean | null | undefined>} attributes `text` is its text; null, undefined and false are left out
 * @param {(Node | null)[]} children
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') element.textContent = String(value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * A round picture with the first letter of a name, in a colour that the name chooses.
 * @param {string} name
 * @param {boolean} group
 */
export function avatar(name, group = false) {
  let hash = 7;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  const letter = [...name][0]?.toUpperCase() ?? '?';
  return h('span', { class: `avatar tint${hash % 8}${group ? ' group' : ''}`, 'aria-hidden': 'true', text: letter });
}

/**
 * What a conversation is called by `me`.
 * @param {string} conv
 * @param {string} me
 */
export function convTitle(conv, me) {
  const name = parseConv(conv);
  if (name?.type === 'group') return name.group;
  const peer = peerOf(conv, me);
  return peer === me ? `${me} (you)` : (peer ?? conv);
}

/** @param {string} conv */
export function isGroup(conv) {
  return conv.startsWith('g:');
}

const listFormat = new Intl.ListFormat('en');
const timeFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const dateFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });

/** @param {number} ms */
export function clockTime(ms) {
  return timeFormat.format(ms);
}

/**
 * Time today, date before.
 * @param {number} ms
 */
export function shortTime(ms) {
  return sameDay(ms, Date.now()) ? timeFormat.format(ms) : dateFormat.format(ms);
}

/** @param {number} ms */
export function dayName(ms) {
  if (sameDay(ms, Date.now())) return 'Today';
  if (sameDay(ms, Date.now() - 86_400_000)) return 'Yesterday';
  return dayFormat.format(ms);
}

/**
 * @param {number} a
 * @param {number} b
 */
export function sameDay(a, b) {
  return new Date(a).toDateString() === new Date(b).toDateString();
}

/**
 * One line that stands for a message in the list; `null` for what is not shown.
 * @param {import('./corelane.js').Message} message
 * @param {string} me
 */
export function messageText(message, me) {
  const { kind, payload } = message;
  if (kind === 'text' || kind === 'emoji') return String(payload);
  if (kind === 'group_change') return groupChangeText(message, me);
  if (kind === 'redacted') return 'This message was removed.';
  if (kind === 'void' || kind === 'edit' || kind === 'reaction' || kind === 'recall') return null;
  if (typeof payload === 'string') return payload;
  return typeof kind === 'string' ? `[${kind.replace('_', ' ')}]` : '[message]';
}

/**
 * @param {import('./corelane.js').Message} message
 * @param {string} me
 */
function groupChangeText({ payload, sender }, me) {
  const change = /** @type {any} */ (typeof payload === 'object' && payload !== null ? payload : {});
  const names = (/** @type {unknown} */ list, except = '') => {
    const users = Array.isArray(list) ? list.map((each) => String(each?.user ?? each)).filter((user) => user !== except) : [];
    return listFormat.format(users.map((user) => (user === me ? 'you' : user)));
  };
  const who = sender ? (sender === me ? 'You' : sender) : 'Somebody';
  const added = names(change.added ?? change.add ?? change.members);
  const removed = names(change.removed ?? change.remove);
  if (change.change === 'created' || change.created) {
    const others = names(change.added ?? change.add ?? change.members, sender);
    return others ? `${who} created the group with ${others}` : `${who} created the group`;
  }
  const parts = [added && `added ${added}`, removed && `removed ${removed}`].filter(Boolean);
  return parts.length > 0 ? `${who} ${parts.join(' and ')}` : `${who} changed the group`;
}
