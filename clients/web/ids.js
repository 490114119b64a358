// @ts-check
/**
 * Names as Corelane writes them: conversation ids as text, and message ids that say when they were made.
 *
 * Pure; the clock and the randomness are handed in.
 */

const encoder = new TextEncoder();

/** Longest user or group id, in bytes of UTF-8. */
export const ID_BYTES_MAX = 64;

/**
 * What a conversation id names.
 * @typedef {{type: 'direct', users: [string, string]} | {type: 'group', group: string} | {type: 'room', room: string}} ConvName
 */

/**
 * Whether `text` may be a user or group id: 1 to 64 bytes of UTF-8, no control characters.
 * @param {string} text
 */
export function isId(text) {
  const bytes = encoder.encode(text).length;
  return bytes > 0 && bytes <= ID_BYTES_MAX && !/\p{Cc}/u.test(text);
}

/**
 * The conversation of two users, whichever is named first: the id whose bytes are smaller comes first.
 * @param {string} one
 * @param {string} other
 */
export function directConv(one, other) {
  const [small, large] = compareBytes(encoder.encode(one), encoder.encode(other)) <= 0 ? [one, other] : [other, one];
  return `u:${encoder.encode(small).length}:${small}:${large}`;
}

/**
 * The conversation of a group.
 * @param {string} group
 */
export function groupConv(group) {
  return `g:${group}`;
}

/**
 * Takes a conversation id apart; `null` if it is none.
 * @param {string} conv
 * @returns {ConvName | null}
 */
export function parseConv(conv) {
  if (conv.startsWith('g:')) return { type: 'group', group: conv.slice(2) };
  if (conv.startsWith('r:')) return { type: 'room', room: conv.slice(2) };
  const match = /^u:(\d+):(.*)$/su.exec(conv);
  if (!match) return null;
  // The length counts bytes, because either id may hold a colon.
  const bytes = encoder.encode(match[2]);
  const split = Number(match[1]);
  if (split >= bytes.length || bytes[split] !== 0x3a) return null;
  const decoder = new TextDecoder();
  return { type: 'direct', users: [decoder.decode(bytes.subarray(0, split)), decoder.decode(bytes.subarray(split + 1))] };
}

/**
 * The other user of a direct conversation (or `me`, who may talk to himself); `null` for anything else.
 * @param {string} conv
 * @param {string} me
 */
export function peerOf(conv, me) {
  const name = parseConv(conv);
  if (name?.type !== 'direct') return null;
  return name.users[0] === me ? name.users[1] : name.users[0];
}

/**
 * The one spelling of a 16-byte id that is compared: 32 lower-case hex digits.
 * @param {string} id
 */
export function plainId(id) {
  return id.replaceAll('-', '').toLowerCase();
}

/**
 * Makes UUIDv7 (RFC 9562 section 5.7) as 32 hex digits. Ids of one source sort in the order they were made: within a
 * millisecond the 12 bits after the time count up, and the time is moved on when they run out or the clock steps back.
 * @param {{now: () => number, randomBytes: (count: number) => Uint8Array}} from
 * @returns {() => string}
 */
export function uuidV7Source({ now, randomBytes }) {
  let lastMs = 0;
  let counter = 0;
  return () => {
    const ms = Math.floor(now());
    if (ms > lastMs) {
      lastMs = ms;
      counter = 0;
    } else if (++counter > 0xfff) {
      lastMs += 1;
      counter = 0;
    }
    const tail = randomBytes(8);
    tail[0] = (tail[0] & 0x3f) | 0x80;
    const time = lastMs.toString(16).padStart(12, '0');
    const tailHex = Array.from(tail, (byte) => byte.toString(16).padStart(2, '0')).join('');
    return `${time}7${counter.toString(16).padStart(3, '0')}${tailHex}`;
  };
}

/**
 * @param {Uint8Array} a
 * @param {Uint8Array} b
 */
function compareBytes(a, b) {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    if (a[i] !== b[i]) return a[i] - b[i];
  }
  return a.length - b.length;
}
