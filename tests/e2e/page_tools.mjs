// What the tests of the page share: a browser, a proxy that adds a path prefix, and the checks of every state.

import http from "node:http";
import { chromium } from "playwright-core";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

export const PREFIX = "/behind/a/proxy";
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Fails with a message unless something holds. */
export function check(holds, message) {
  if (!holds) throw new Error(message);
}

/** A proxy that serves `upstream` below the prefix and nothing beside it. */
export async function startProxy(upstream) {
  const target = new URL(upstream);
  const outside = [];
  const proxy = http.createServer((request, response) => {
    if (!request.url.startsWith(`${PREFIX}/`)) {
      outside.push(request.url);
      response.writeHead(404).end();
      return;
    }
    const forwarded = http.request(
      {
        host: target.hostname,
        port: target.port,
        path: request.url.slice(PREFIX.length),
        method: request.method,
        headers: { ...request.headers, host: target.host },
      },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      },
    );
    forwarded.on("error", () => response.destroy());
    request.pipe(forwarded);
  });
  await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${proxy.address().port}${PREFIX}/`;
  return { url, outside, stop: () => proxy.close() };
}

export class Browser {
  static async start(program) {
    const browser = new Browser();
    browser.chromium = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
    return browser;
  }

  /** A fresh page whose model is known. What goes wrong in it is kept in `page.faults`. */
  async open(url, { width = 1440, height = 900, scheme = "light", locale = "en-US", ...more } = {}) {
    const viewport = { width, height };
    const context = await this.chromium.newContext({ viewport, colorScheme: scheme, locale, ...more });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    page.faults = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) page.faults.push(message.text());
    });
    page.on("pageerror", (error) => page.faults.push(String(error)));
    await page.goto(url);
    return page;
  }

  stop() {
    return this.chromium.close();
  }
}

/** Neither a fault in the console, nor one for axe, nor content beside the window. */
export async function sound(page, where) {
  check(page.faults.length === 0, `${where}: the console says ${page.faults.join("; ")}`);
  const width = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check(width[0] <= width[1], `${where}: ${width[0]} px wide in a window of ${width[1]} px`);
  // Added through the debugger: the page's own policy forbids inline scripts.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const faults = found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" | ")}`);
  check(faults.length === 0, `${where}: axe finds ${faults.join("; ")}`);
}

export async function withSamples(page) {
  await page.click("#labels-empty button");
  await page.waitForSelector("#bars li");
  await page.waitForFunction(() => document.querySelectorAll("#tiles .tile").length === 8);
}

/** The words in a place, once `holds` does. */
export async function text(page, selector, holds = (words) => words.length > 0) {
  const started = Date.now();
  for (;;) {
    const words = (await page.textContent(selector)) ?? "";
    if (holds(words)) return words;
    check(Date.now() - started < 60_000, `${selector} stays at: ${words}`);
    await page.waitForTimeout(50);
  }
}
