/** A gateway of one's own, to be killed and drained: on free ports at first, on the same ones ever after. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const DRAIN_MS = 2000;

export class Gateway {
  /** HTTP address. */
  baseUrl = '';
  #binary;
  #work = '';
  #listen = { 'gateway.listen': '127.0.0.1:0', 'router.http_listen': '127.0.0.1:0', 'router.link_listen': '127.0.0.1:0' };
  /** @type {import('node:child_process').ChildProcess | null} */
  #child = null;

  /** @param {string} directory of the binary */
  constructor(directory) {
    this.#binary = join(directory, 'corelane-gateway');
    process.on('exit', () => this.#child?.kill('SIGKILL'));
  }

  get running() {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async start() {
    this.#work ||= await mkdtemp(join(tmpdir(), 'corelane-gateway-'));
    const options = { ...this.#listen, 'store.data_dir': join(this.#work, 'data'), 'gateway.drain_ms': DRAIN_MS };
    const args = Object.entries(options).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    const child = spawn(this.#binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    let log = '';
    child.stderr.on('data', (text) => (log = (log + text).slice(-4000)));
    for await (const line of createInterface({ input: child.stdout })) {
      const ready = /^ready ws=ws:\/\/([^/ ]+)\S* http=http:\/\/(\S+) link=(\S+)/.exec(line);
      if (!ready) continue;
      const [, ws, http, link] = ready;
      this.#listen = { 'gateway.listen': ws, 'router.http_listen': http, 'router.link_listen': link };
      this.baseUrl = `http://${http}`;
      return;
    }
    throw new Error(`the gateway ended before it was ready:\n${log}`);
  }

  /** Has it stand still: it takes bytes and does nothing with them. */
  pause() {
    this.#child?.kill('SIGSTOP');
  }

  /** Ends it without a word to anybody. */
  async kill() {
    await this.#end('SIGKILL');
  }

  /** Has it leave in order. */
  async drain() {
    await this.#end('SIGTERM');
    assert.equal(this.#child?.exitCode, 0, 'a drained gateway ends well');
  }

  async stop() {
    await this.kill();
    await rm(this.#work, { recursive: true });
  }

  /** @param {NodeJS.Signals} signal */
  async #end(signal) {
    if (!this.running) return;
    const ended = once(/** @type {import('node:child_process').ChildProcess} */ (this.#child), 'exit');
    this.#child?.kill(signal);
    await ended;
  }
}
