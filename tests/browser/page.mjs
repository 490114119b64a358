/**
 * A browser with one tab per user, and words for what is on the demo page.
 *
 * Environment: `OUT_DIR`, where screenshots go (a new directory below the system's temporary one by default), and
 * `CHROMIUM`, the browser (/usr/bin/chromium by default).
 *
 * Prints `ok - name` for each check. Stops at the first that fails, with `not ok - name` and screenshots, and exits 1.
 */

import assert from 'node:assert/strict';
import { mkdtemp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const DEADLINE_MS = 15_000;

export class Browser {
  /** What the pages reported that they should not. @type {string[]} */
  problems = [];
  /** @type {Map<string, import('playwright-core').Page>} */
  #tabs = new Map();
  #browser;
  #context;
  #expected;

  /**
   * @param {string} baseUrl
   * @param {RegExp} expected reports of the pages that are no problem
   */
  static async start(baseUrl, expected = /^$/) {
    const self = new Browser();
    self.baseUrl = baseUrl;
    self.#expected = expected;
    self.outDir = process.env.OUT_DIR ?? (await mkdtemp(join(tmpdir(), 'corelane-browser-')));
    await mkdir(self.outDir, { recursive: true });
    self.#browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      headless: true,
      args: [
        '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
        '--disable-sync',
      ],
    });
    self.#context = await self.#browser.newContext({ viewport: { width: 1100, height: 760 } });
    self.#context.setDefaultTimeout(DEADLINE_MS);
    return self;
  }

  /** A new tab that is watched. */
  async tab(name) {
    const page = await this.#context.newPage();
    this.#tabs.set(name, page);
    const report = (text) => this.#expected.test(text) || this.problems.push(`${name}: ${text}`);
    page.on('pageerror', (error) => report(error.message));
    page.on('console', (line) => line.type() === 'error' && report(line.text()));
    page.on('request', (request) => {
      const { hostname, protocol } = new URL(request.url());
      if (protocol !== 'data:' && hostname !== new URL(this.baseUrl).hostname) report(`asked for ${request.url()}`);
    });
    return page;
  }

  /** Logs in by the form. */
  async login(user, name = user) {
    const page = await this.tab(name);
    await page.goto(`${this.baseUrl}/`);
    await at(page, 'login-user').fill(user);
    await at(page, 'login-submit').click();
    await online(page);
    return page;
  }

  /** What a printed link holds. */
  async token(user) {
    const answer = await this.#context.request.post(`${this.baseUrl}/v1/demo/token`, { data: { user } });
    return (await answer.json()).token;
  }

  async shoot(name) {
    const shots = [];
    for (const [user, page] of this.#tabs) {
      const path = join(this.outDir, `${name}-${user}.png`);
      await page.screenshot({ path, animations: 'disabled' }).then(() => shots.push(path), () => {});
    }
    return shots;
  }

  async check(name, body) {
    try {
      await body();
      console.log(`ok - ${name}`);
    } catch (error) {
      const shots = await this.shoot('failed');
      console.log(`not ok - ${name}\n${error.message}\nscreenshots: ${shots.join(' ')}`);
      if (this.problems.length > 0) console.log(`said by the pages:\n${this.problems.join('\n')}`);
      await this.#browser.close();
      process.exit(1);
    }
  }

  async end() {
    console.log(`screenshots: ${this.outDir}`);
    await this.#browser.close();
  }
}

export const at = (page, testId, more = '') => page.locator(`[data-testid="${testId}"]${more}`);
export const row = (page, title) => at(page, 'conversation').filter({ has: at(page, 'conversation-name').getByText(title, { exact: true }) });
export const bubbles = (page, text) => at(page, 'message').filter({ has: at(page, 'message-text').getByText(text, { exact: true }) });
export const texts = (page) => at(page, 'message-text').allTextContents();

/** Waits until `read` gives what `expected` says, and says what it gave last if it never does. */
export async function eventually(read, expected, what) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const seen = await read();
    try {
      assert.deepEqual(seen, expected);
      return;
    } catch (error) {
      if (Date.now() > end) throw new Error(`${what}: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function online(page) {
  await at(page, 'connection', '[data-state="online"]').waitFor();
}

export async function openChat(page, user) {
  await at(page, 'new-chat').click();
  await at(page, 'new-chat-user').fill(user);
  await at(page, 'new-chat-submit').click();
  await at(page, 'peer').getByText(user, { exact: true }).waitFor();
}

/** Writes a message; whether it goes out is another question. */
export async function write(page, text) {
  await at(page, 'composer').fill(text);
  await at(page, 'composer').press('Enter');
}

export async function say(page, text) {
  await write(page, text);
  await stored(page, text);
}

export async function stored(page, text) {
  const is = async () => ['stored', 'read'].includes((await bubbles(page, text).last().getAttribute('data-state')) ?? '');
  await eventually(is, true, `${JSON.stringify(text)} is stored, says the page of its sender`);
}

export async function sees(page, text) {
  await bubbles(page, text).last().waitFor();
}

export async function unread(page, title) {
  const badge = at(row(page, title), 'conversation-unread');
  return (await badge.count()) === 0 ? 0 : Number(await badge.textContent());
}
