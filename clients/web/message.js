// @ts-check
/** Messages as the SDK hands them out, their payloads as JSON carries them, and how large those are. */

import { plainId } from './ids.js';

/**
 * A message as the SDK hands it out.
 * @typedef {object} Message
 * @property {string} conv conversation id as text
 * @property {number} seq place in the conversation, dense from 1
 * @property {number} n countable messages up to and with this one
 * @property {string} sender
 * @property {string | number} kind name of the kind, or its number if it has no name here
 * @property {number} flags
 * @property {number} refSeq the earlier message this one is about; 0 for none
 * @property {string} originTerminal class of the terminal it was sent from; empty for a backend
 * @property {string} originDevice
 * @property {string} clientMsgId 32 hex digits
 * @property {number} timeMs when the store took it
 * @property {string | number} contentType
 * @property {unknown} payload string, JSON value or bytes, as `contentType` says
 */

/**
 * @param {any} frame a `message` frame
 * @returns {Message}
 */
export function toMessage(frame) {
  return {
    conv: frame.conv,
    seq: frame.seq,
    n: frame.n,
    sender: frame.sender,
    kind: frame.kind,
    flags: frame.flags ?? 0,
    refSeq: frame.ref_seq ?? 0,
    originTerminal: frame.origin_terminal ?? '',
    originDevice: frame.origin_device ?? '',
    clientMsgId: plainId(frame.client_msg_id ?? ''),
    timeMs: frame.time_ms,
    contentType: frame.content_type,
    payload: frame.content_type === 'text' || frame.content_type === 'json' ? frame.payload : fromBase64(frame.payload),
  };
}

const encoder = new TextEncoder();

/**
 * Length of a text as UTF-8.
 * @param {string} text
 */
export function utf8Bytes(text) {
  return encoder.encode(text).length;
}

/**
 * Length of a payload as limits count it: the bytes that are stored, not those of the JSON around them.
 * @param {unknown} payload as it was given to `send`
 */
export function payloadBytes(payload) {
  if (payload instanceof Uint8Array) return payload.length;
  return utf8Bytes(typeof payload === 'string' ? payload : (JSON.stringify(payload) ?? ''));
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
