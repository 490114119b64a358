// @ts-check
/**
 * How long to wait before the next attempt: exponential with full jitter, so that many clients that failed together do
 * not come back together.
 */

/**
 * A random time in `[0, min(capMs, baseMs * 2^failures))`.
 * @param {number} failures attempts that failed so far
 * @param {{baseMs: number, capMs: number, random: () => number}} options
 */
export function backoffMs(failures, { baseMs, capMs, random }) {
  return random() * Math.min(capMs, baseMs * 2 ** Math.min(failures, 30));
}

/** What to do after a connection ended. Corelane's codes: 4500 to 4999 give up, everything else reconnect. */
export const GIVE_UP_REASONS = Object.freeze({
  4500: 'authentication failed',
  4501: 'replaced by a newer login',
  4502: 'removed by an administrator',
  4503: 'protocol version not spoken here',
  4504: 'malformed or too large',
  4505: 'connection limit reached',
});

/**
 * Whether a client should reconnect after a close with this code.
 * @param {number} code
 */
export function mayReconnect(code) {
  return !(code >= 4500 && code <= 4999);
}
