/** A world for the SDK in which time moves when told and the server is the test. */

import { CorelaneClient } from '../corelane.js';

export class FakeWorld {
  constructor() {
    this.sockets = [];
    this.nowMs = 1_700_000_000_000;
    this.timers = new Map();
    this.timerId = 0;
    this.randomValue = 0.5;
    const world = this;
    this.environment = {
      WebSocket: class {
        constructor(url, protocols) {
          Object.assign(this, { url, protocols, sent: [], closedWith: null, seen: 0 });
          world.sockets.push(this);
        }
        send(text) {
          this.sent.push(JSON.parse(text));
        }
        close(code) {
          this.closedWith = code;
        }
      },
      setTimeout: (run, ms) => {
        this.timers.set(++this.timerId, { run, at: this.nowMs + ms });
        return this.timerId;
      },
      clearTimeout: (id) => this.timers.delete(id),
      now: () => this.nowMs,
      random: () => this.randomValue,
      randomBytes: (count) => new Uint8Array(count).fill(7),
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Lets promises run. */
  async settle() {
    for (let i = 0; i < 20; i++) await Promise.resolve();
  }

  /** Moves time on, running timers in their order. */
  async advance(ms) {
    const end = this.nowMs + ms;
    for (;;) {
      const next = [...this.timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!next) break;
      this.timers.delete(next[0]);
      this.nowMs = Math.max(this.nowMs, next[1].at);
      next[1].run();
      await this.settle();
    }
    this.nowMs = end;
    await this.settle();
  }

  /** The server says something. */
  async say(frame) {
    this.socket.onmessage?.({ data: JSON.stringify(frame) });
    await this.settle();
  }

  async closeWith(code, reason = '') {
    this.socket.onclose?.({ code, reason });
    await this.settle();
  }

  /** Frames that the client sent since the last call, of one type if given. */
  take(type) {
    const fresh = this.socket.sent.slice(this.socket.seen);
    this.socket.seen = this.socket.sent.length;
    return type ? fresh.filter((frame) => frame.type === type) : fresh;
  }

  client(options = {}) {
    const client = new CorelaneClient({ url: 'ws://test/ws', token: 'T', device: 'd', environment: this.environment, ...options });
    client.log = [];
    for (const type of ['state', 'message', 'conversation', 'synced', 'reset', 'ack', 'sendfailed', 'read', 'typing', 'error']) {
      client.addEventListener(type, ({ detail }) => client.log.push({ type, ...detail }));
    }
    client.shown = () => client.log.filter((entry) => entry.type === 'message').map((entry) => entry.message.seq);
    client.open();
    return client;
  }

  /** Opens the connection, welcomes the client and answers its first sync. */
  async login(client, { conversations = [], epoch = '00000000000000aa', window = 4, heartbeatMs = 60_000 } = {}) {
    await this.settle();
    this.socket.onopen();
    await this.say({
      type: 'welcome', session: '1', user: 'alice', epoch, window, payload_bytes_max: 65536, heartbeat_ms: heartbeatMs, server_time_ms: this.nowMs,
    });
    const [sync] = this.socket.sent.filter((frame) => frame.type === 'sync');
    await this.say({ type: 'sync_page', ref: sync.ref, cursor: 'Y3Vyc29y', more: false, conversations });
    return sync;
  }
}

export const CONV = 'u:5:alice:bob';

export function message(seq, more = {}) {
  return {
    type: 'message', conv: CONV, seq, n: seq, sender: 'bob', kind: 'text', flags: 0, ref_seq: 0, origin_terminal: 'web', origin_device: '',
    client_msg_id: `018bcfe5-6800-7000-8000-${String(seq).padStart(12, '0')}`, time_ms: 1, content_type: 'text', payload: `m${seq}`, ...more,
  };
}

export function convState(headSeq, readSeq, more = {}) {
  return {
    conv: CONV, head_seq: headSeq, head_n: headSeq, floor_seq: 0, conv_version: 0, read_seq: readSeq, read_n: readSeq,
    last: headSeq ? message(headSeq) : null, ...more,
  };
}

export function pullPage(pull, messages, headSeq, nextSeq = 0) {
  return { type: 'pull_page', ref: pull.ref, conv: pull.conv, next_seq: nextSeq, head_seq: headSeq, head_n: headSeq, floor_seq: 0, messages };
}
