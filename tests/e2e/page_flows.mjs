// What people do on the page, each flow on a fresh one.

import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { check, sound, text, withSamples } from "./page_tools.mjs";

// The proxy is in this process, so nothing here may block it.
const run = promisify(execFile);
const choose = async (page, name) => {
  await page.waitForSelector(`#model option[value="${name}"]`, { state: "attached" });
  await page.selectOption("#model", name);
};
const bars = (page) => page.$$eval("#bars li b", (found) => found.map((element) => element.textContent));

export const flows = {
  async labels({ browser, url }) {
    const page = await browser.open(url);
    await withSamples(page);
    check((await bars(page))[0] === "a cat", "the cat is a cat");
    check(/88\.\d %/.test(await text(page, "#bars li output")), "with its probability");
    check(/cosine 0\.19\d+.*logit 1\.9/.test(await text(page, "#bars li .soft")), "cosine and logit beside it");
    check((await page.$$("#bars .above, #bars .below")).length === 0, "no verdict before a threshold is chosen");
    await page.press("#threshold", "End");
    for (let step = 0; step < 100; step += 1) await page.press("#threshold", "ArrowLeft");
    check((await page.$$("#bars .above")).length === 2, "two labels are above");
    check(/2 of 6/.test(await text(page, "#labels-live")), "and counted");
    await page.check("#softmax");
    const shares = await page.$$eval("#bars .softmax span", (found) => found.map((element) => element.textContent));
    check(shares.length === 6 && /95\.\d %/.test(shares[0]), `softmax: ${shares}`);
    check(await page.isVisible("#softmax-note"), "and why it misleads");
    await page.fill("#labels", "a sailboat");
    await text(page, "#bars li b", (words) => words === "a sailboat");
    check(/100 %/.test(await text(page, "#bars .softmax span")), "one label alone has all of softmax");
    await page.fill("#labels", "");
    await page.waitForSelector("#labels-empty h3");
    check((await page.isVisible("#bars")) === false, "without labels there are no bars");
    await sound(page, "labels");
  },

  async images({ browser, url, samples }) {
    const page = await browser.open(url);
    await page.waitForSelector("#labels-empty button");
    const names = ["cat.png", "dog.jpg", "pizza.webp"].map((name) => path.join(samples, name));
    await page.setInputFiles("#file", names);
    await page.waitForSelector("#bars li");
    check((await page.$$("#tiles .tile")).length === 3, "three were picked");
    // A drop and a paste are events with files; only the browser's own can have them, so they are made in it.
    const bytes = readFileSync(path.join(samples, "car.png")).toString("base64");
    await page.evaluate((base64) => {
      const raw = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      const carried = () => {
        const data = new DataTransfer();
        data.items.add(new File([raw], "car.png", { type: "image/png" }));
        return data;
      };
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried(), bubbles: true, cancelable: true }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried(), bubbles: true }));
    }, bytes);
    await page.waitForFunction(() => document.querySelectorAll("#tiles .tile").length === 5);
    check(await page.isVisible('[aria-label="Show car-2.png"]'), "equal names are told apart");
    await page.focus('[aria-label="Show car-2.png"]');
    await page.keyboard.press("Delete");
    await page.waitForFunction(() => document.querySelectorAll("#tiles .tile").length === 4);
    // A file that is no image, and one that only says so.
    await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("words") });
    await text(page, "#notice", (words) => words.includes("notes.txt"));
    await page.setInputFiles("#file", { name: "broken.png", mimeType: "image/png", buffer: Buffer.from("words") });
    await text(page, "#notice", (words) => words.includes("plain text"));
    check(await page.isVisible(".tile.failed"), "its tile is marked");
    await page.click("#tab-matrix");
    await page.waitForSelector("#matrix td.known");
    check((await page.$$("#matrix tbody tr")).length === 4, "the others go on without it");
    page.faults = page.faults.filter((fault) => !fault.includes("422"));
    await page.click("#clear");
    await page.waitForSelector("#matrix-empty h3");
    await sound(page, "images");
  },

  async search({ browser, url }) {
    const page = await browser.open(url);
    await withSamples(page);
    await page.click("#tab-search");
    await page.fill("#query", "a red fruit");
    await page.keyboard.press("Enter");
    await text(page, "#search-live", (words) => words.includes("best first"));
    const first = () => page.textContent("#hits li .name");
    check((await first()) === "apple.png", `the first hit is ${await first()}`);
    await page.click("#hits li:nth-child(2) .small");
    await text(page, "#search-live", (words) => words.includes("similar to"));
    check(/cosine 1\.0000/.test(await text(page, "#hits li .soft")), "an image is most like itself");
    await sound(page, "search");
  },

  async matrix({ browser, url }) {
    const page = await browser.open(url);
    await withSamples(page);
    await page.click("#tab-matrix");
    await text(page, "#matrix-live", (words) => words.startsWith("48"));
    const row = await page.$$eval("#matrix tbody tr:nth-child(3) td", (cells) => cells.map((cell) => cell.textContent));
    check(/^93\.\d %$/.test(row[2]), `the pizza's row: ${row}`);
    await page.selectOption("#matrix-value", "cosine");
    check(/^0\.20\d$/.test((await page.textContent("#matrix tbody tr:nth-child(3) td:nth-child(4)")) ?? ""), "cosines");
    await sound(page, "matrix");
  },

  async "other families"({ browser, many }) {
    const page = await browser.open(many);
    await withSamples(page);
    await choose(page, "clip");
    await text(page, "#rule", (words) => words.includes("sum to 100 %"));
    check(!(await page.isVisible("#softmax-field")), "softmax is this model's own rule");
    await page.waitForSelector("#bars li");
    const shares = await page.$$eval("#bars .line output", (found) => found.map((one) => Number.parseFloat(one.textContent)));
    check(Math.abs(shares.reduce((sum, share) => sum + share, 0) - 100) < 0.6, `the shares are ${shares}`);
    await choose(page, "match");
    await text(page, "#rule", (words) => words.includes("head"));
    await page.waitForSelector("#bars li");
    await choose(page, "naflex");
    check(await page.isVisible("#patches-input"), "a choice of patches");
    await text(page, "#facts", (words) => words.includes("up to 12 patches"));
    await page.waitForSelector("#bars li");
    await text(page, "#cut", (words) => words.includes("12 tokens"));
    await page.fill("#template", "{label}");
    await page.waitForSelector("#cut", { state: "hidden" });
    await page.fill("#patches-input", "6");
    await page.press("#patches-input", "Enter");
    await text(page, "#code", (words) => words.includes("max_num_patches=6"));
    await page.waitForSelector("#bars li");
    await choose(page, "vision");
    await text(page, "#labels-empty", (words) => words.includes("reads images only"));
    await page.click("#labels-empty button");
    check(!(await page.isVisible("#search-form")), "there is no text to search by");
    await page.click("#hits li .small");
    await text(page, "#search-live", (words) => words.includes("similar to"));
    await sound(page, "other families");
  },

  async captions({ browser, many }) {
    const page = await browser.open(many);
    await withSamples(page);
    await page.click("#tab-captions");
    await text(page, "#captions-empty", (words) => words.includes("writes no captions"));
    await choose(page, "blip");
    await page.fill("#caption-tokens", "4");
    await page.click("#caption-form button");
    await page.waitForFunction(() => document.querySelectorAll("#captions li").length === 8);
    await page.waitForFunction(() => [...document.querySelectorAll("#captions p")].every((line) => line.textContent));
    await page.waitForSelector('#captions:not([aria-busy])');
    check((await page.$$("#captions .failed")).length === 0, "none failed");
    await sound(page, "captions");
  },

  async keys({ browser, keyed }) {
    const page = await browser.open(keyed);
    await page.waitForSelector("#key-input:focus");
    await text(page, "#health", (words) => words.includes("API key"));
    page.faults = page.faults.filter((fault) => !fault.includes("401"));
    await page.fill("#key-input", "secret-of-the-test");
    await page.keyboard.press("Enter");
    await withSamples(page);
    check((await page.inputValue("#key-input")) === "", "the key is not kept in the field");
    for (const language of ["curl", "python", "javascript"]) {
      await page.selectOption("#code-language", language);
      const code = await text(page, "#code");
      check(code.includes("API_KEY") && !code.includes("secret"), code);
    }
    const stored = await page.evaluate(() => JSON.stringify(localStorage) + document.cookie);
    check(!stored.includes("secret"), "nor in the browser");
    await page.click("#tab-status");
    await page.waitForSelector("#gauges dd");
    await sound(page, "keys");
  },

  async failures({ browser, url }) {
    const problem = (status, body, headers = {}) => ({
      status,
      headers: { "content-type": "application/problem+json", ...headers },
      body: JSON.stringify({ status, ...body }),
    });
    const answers = [
      [429, problem(429, { code: "overloaded", detail: "8192 items are in flight" }, { "retry-after": "1" }), "busy"],
      [503, problem(503, { code: "not_ready", detail: "the model is loading" }, { "retry-after": "1" }), "not ready"],
      [413, problem(413, { code: "payload_too_large", detail: "the body is more than 64 MiB (limits.max_body_bytes)" }), "64 MiB"],
      [502, { status: 502, body: "<html>Bad gateway</html>" }, "failed"],
      [504, problem(504, { code: "deadline_exceeded", detail: "the deadline passed" }), "too long"],
    ];
    for (const [status, answer, words] of answers) {
      const page = await browser.open(url);
      let broken = true;
      await page.route("**/v1/similarity", (route) => (broken ? route.fulfill(answer) : route.continue()));
      await page.click("#labels-empty button");
      await text(page, "#notice", (found) => found.includes(words));
      page.faults = page.faults.filter((fault) => !fault.includes(String(status)));
      // The server said when to come back, so the page does; else somebody has to ask for it.
      const comesBack = status === 429 || status === 503;
      if (comesBack) await text(page, "#notice", (found) => found.includes("Trying again in 1 s"));
      else await sound(page, `failure ${status}`);
      broken = false;
      // Samples come one after the other, and with each the page asks once more by itself: then there is no button left.
      if (!comesBack) await page.click("#notice button", { timeout: 5000 }).catch(() => {});
      await page.waitForSelector("#bars li");
      check(!(await page.isVisible("#notice")), `${status}: the notice is gone`);
      await page.context().close();
    }
    const page = await browser.open(url);
    await page.route("**/info", (route) => route.abort());
    await page.reload();
    await text(page, "#health", (words) => words.includes("does not answer"));
  },

  async code({ browser, url, samples, python }) {
    const page = await browser.open(url);
    await withSamples(page);
    const folder = mkdtempSync(path.join(tmpdir(), "page-code-"));
    for (const name of ["cat.png", "dog.jpg", "pizza.webp"]) copyFileSync(path.join(samples, name), path.join(folder, name));
    await page.fill("#labels", "a cat\nit's \"quoted\" $HOME `x`\n@file\n고양이");
    await text(page, "#code", (words) => words.includes("고양이"));
    await page.waitForFunction(() => document.querySelectorAll("#bars li").length === 4);
    const programs = { curl: ["bash", ["-c"]], python: [python, ["-c"]], javascript: ["node", ["--input-type=module", "-e"]] };
    const tab = async (name, expected) => {
      await page.click(`#tab-${name}`);
      for (const [language, [program, options]] of Object.entries(programs)) {
        await page.selectOption("#code-language", language);
        const code = await text(page, "#code", (words) => words.includes(expected));
        const { stdout: printed } = await run(program, [...options, code], { cwd: folder, timeout: 60_000 });
        check(/model/.test(printed) && !/"status"/.test(printed), `${name} as ${language}: ${printed.slice(0, 300)}`);
      }
    };
    await tab("labels", "v1/similarity");
    await tab("matrix", "v1/similarity");
    await tab("search", "v1/embeddings");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.click("#copy");
    await text(page, "#copy-live", (words) => words === "Copied.");
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    check(copied.includes("v1/embeddings"), copied);
    await sound(page, "code");
  },

  async status({ browser, url }) {
    const page = await browser.open(url);
    await withSamples(page);
    check((await page.$$eval("#trace-list dt", (found) => found.map((one) => one.textContent))).includes("network, browser"), "stages");
    await page.click("#tab-status");
    await text(page, "#gauges", (words) => /Memory\d+/.test(words));
    await page.waitForFunction(() => document.querySelectorAll("#gauges polyline").length >= 6);
    check(/demo/.test(await text(page, "#served")), "the models");
    await sound(page, "status");
  },

  async keyboard({ browser, url }) {
    const page = await browser.open(url);
    await page.waitForSelector("#facts span");
    await page.keyboard.press("Tab");
    check(await page.evaluate(() => document.activeElement.className === "skip"), "the first stop skips the head");
    await page.focus("#tab-labels");
    for (const [key, tab] of [["ArrowRight", "search"], ["End", "status"], ["ArrowRight", "labels"], ["ArrowLeft", "status"]]) {
      await page.keyboard.press(key);
      check(await page.evaluate((id) => document.activeElement.id === id, `tab-${tab}`), `${key} leads to ${tab}`);
      check(await page.isVisible(`#panel-${tab}`), `${tab} is open`);
    }
    await page.focus("#tab-status");
    await page.keyboard.press("Home");
    await page.focus("#samples .tile");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#bars li");
    await page.focus("#labels");
    await page.keyboard.press("Control+End");
    await page.keyboard.type("\na kitten");
    await text(page, "#bars", (words) => words.includes("a kitten"));
  },
};
