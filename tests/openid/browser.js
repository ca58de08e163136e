// A person at a browser: opens a URL in real headless Chromium, signs in at provider.js, agrees to
// everything, and prints the text of the page that comes last.
//
//   OPENID_USER=alice node browser.js URL
//
// OPENID_USER       who signs in: alice when left out
// OPENID_PASSWORD   USER-password when left out
// OPENID_CODE       the user code to type in, in the device flow
// OPENID_ANSWER     `deny` refuses consent, or the device
// OPENID_CATCH      any value: does not follow the way back to http://127.0.0.1:PORT/callback, and
//                   prints that URL instead of a page, as whoever takes it on its way has it
// OPENID_INSECURE   any value: the provider's certificate is by nobody whom Chromium knows
// CHROMIUM          which Chromium; the first of the usual names in PATH when left out
//
// Ends with 0 when a last page was shown, else with 1.

import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

import puppeteer from 'puppeteer-core';

const LONGEST = 60_000;

const [url] = process.argv.slice(2);
if (!url) fail('usage: node browser.js URL');
const user = process.env.OPENID_USER ?? 'alice';
const password = process.env.OPENID_PASSWORD ?? `${user}-password`;
const refuses = process.env.OPENID_ANSWER === 'deny';

// All that Chromium writes goes here, and with it.
const folder = mkdtempSync(join(tmpdir(), 'hallpass-browser-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 10 }));

/** What each page that asks for something gets. */
const answers = {
  login: async (page) => {
    await page.type('input[name=login]', user);
    await page.type('input[name=password]', password);
    await go(page, 'button[name=sign-in]');
  },
  consent: (page) => go(page, `button[name=${refuses ? 'deny' : 'allow'}]`),
  code: async (page) => {
    if (!process.env.OPENID_CODE) throw new Error('the page asks for a code: set OPENID_CODE');
    await page.type('input[name=user_code]', process.env.OPENID_CODE);
    await go(page, 'button');
  },
  device: (page) => go(page, refuses ? 'button[name=abort]' : 'button:not([name=abort])'),
};
/** What was asked for already: nobody asks twice who was content. */
const asked = new Set();

let browser;
let ended = false;
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
  process.on(signal, () => end(1, `ended by ${signal}`));
}
const tooLong = setTimeout(() => end(1, `nothing final within ${LONGEST / 1000} s`), LONGEST);

try {
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? find(),
    pipe: true,
    userDataDir: join(folder, 'profile'),
    acceptInsecureCerts: 'OPENID_INSECURE' in process.env,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    env: { PATH: process.env.PATH, HOME: folder, TMPDIR: folder, XDG_RUNTIME_DIR: folder },
    args: [
      // Chromium's own sandbox needs what root in a container does not have.
      ...(process.getuid() === 0 ? ['--no-sandbox'] : []),
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--no-proxy-server',
      // It talks to the test's own servers and to nobody else.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    ],
  });
  const [page] = await browser.pages();
  page.setDefaultTimeout(LONGEST);
  if ('OPENID_CATCH' in process.env) await catchCallback(page);
  await page.goto(url, { waitUntil: 'load' });
  while (await step(page));
  const text = await page.evaluate(() => document.body.innerText);
  await end(0, undefined, text);
} catch (error) {
  await end(1, error.message);
}

async function catchCallback(page) {
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    const { hostname, pathname } = new URL(request.url());
    if (request.isNavigationRequest() && hostname === '127.0.0.1' && pathname === '/callback') {
      request.abort();
      end(0, undefined, request.url());
    } else {
      request.continue();
    }
  });
}

/** Does what the page asks for; false when it asks for nothing. */
async function step(page) {
  let asks;
  try {
    asks = await page.evaluate(whatItAsksFor);
  } catch (error) {
    if (!/context was destroyed/i.test(error.message)) throw error;
    asks = 'patience';
  }
  if (asks === 'patience') {
    // A page that sends itself on.
    await new Promise((resolve) => setTimeout(resolve, 50));
  } else if (asks) {
    if (asked.has(asks)) throw new Error(`${asks} was refused: ${await page.content()}`);
    asked.add(asks);
    await page.waitForFunction(() => document.readyState === 'complete');
    await answers[asks](page);
  }
  return Boolean(asks);
}

/** Runs in the page. */
function whatItAsksFor() {
  const has = (selector) => document.querySelector(selector) !== null;
  if (has('input[name=login]')) return 'login';
  if (has('button[name=allow]')) return 'consent';
  if (has('input[name=user_code]:not([type=hidden])')) return 'code';
  if (has('input[name=confirm]')) return 'device';
  return has('form') ? 'patience' : '';
}

/** Presses a button, and waits for the page that comes of it. */
async function go(page, button) {
  await Promise.all([page.waitForNavigation({ waitUntil: 'load' }), page.click(button)]);
}

function find() {
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  for (const name of names) {
    for (const place of (process.env.PATH ?? '').split(delimiter)) {
      const path = join(place, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // Not there.
      }
    }
  }
  throw new Error('there is no Chromium: scripts/install-dependencies installs it');
}

/** Only the first end counts: closing the browser makes what waits for it fail. */
async function end(code, complaint, text) {
  if (ended) return;
  ended = true;
  clearTimeout(tooLong);
  if (complaint) console.error(`browser.js: ${complaint}`);
  if (text !== undefined) console.log(text);
  await browser?.close().catch(() => browser.process()?.kill('SIGKILL'));
  process.exit(code);
}

function fail(why) {
  console.error(`browser.js: ${why}`);
  process.exit(1);
}
