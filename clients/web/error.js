// @ts-check
/** What was refused, and whether the same may succeed later. */

/** A frame that was refused, or could not be sent. */
export class CorelaneError extends Error {
  /**
   * @param {string} code a code of the `Error` frame, or `disconnected`, `closed`, `queue_full`
   * @param {string} text
   * @param {boolean} retryable
   */
  constructor(code, text, retryable = false) {
    super(`${code}: ${text}`);
    this.code = code;
    this.text = text;
    this.retryable = retryable;
  }
}

const RETRYABLE = new Set(['retry', 'overloaded', 'gate_closed', 'rate_limited', 'unavailable']);

/**
 * What an `error` frame says.
 * @param {any} frame
 */
export function refusal({ code, text, retryable }) {
  return new CorelaneError(code, text, retryable ?? RETRYABLE.has(code));
}
