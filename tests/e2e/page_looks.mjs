// The page in both themes and languages, from 320 px to 4K, with screenshots to look at.

import path from "node:path";
import { check, sound, text, withSamples } from "./page_tools.mjs";

const SIZES = { narrow: [320, 700], tablet: [768, 1024], small: [1060, 800], laptop: [1440, 900], wide: [3840, 2160] };

async function tour(page, where, shot) {
  await page.waitForSelector("#facts span");
  await sound(page, `${where}, empty`);
  await shot("empty");
  await withSamples(page);
  await page.click('[data-id="3"]');
  await page.waitForFunction(() => document.querySelector("#shown-name").textContent === "pizza.webp");
  await page.waitForSelector("#bars li");
  await page.check("#softmax");
  await page.focus("#threshold");
  for (let step = 0; step < 90; step += 1) await page.keyboard.press("ArrowRight");
  await sound(page, `${where}, labels`);
  await shot("labels");
  await page.click("#tab-search");
  await page.fill("#query", where.includes("ko") ? "빨간 과일" : "a red fruit");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll("#hits li .track").length === 8);
  await sound(page, `${where}, search`);
  await shot("search");
  await page.click("#tab-matrix");
  await page.waitForSelector("#matrix td.known");
  await sound(page, `${where}, matrix`);
  await shot("matrix");
  await page.click("#tab-status");
  await page.waitForSelector("#gauges dd");
  await sound(page, `${where}, status`);
  await shot("status");
}

export async function looks({ browser, url, screenshots }) {
  const seen = [];
  for (const [size, [width, height]] of Object.entries(SIZES)) {
    for (const scheme of ["light", "dark"]) {
      for (const locale of ["en-US", "ko-KR"]) {
        const where = `${size}, ${scheme}, ${locale.slice(0, 2)}`;
        const page = await browser.open(url, { width, height, scheme, locale });
        const name = where.replaceAll(", ", "-");
        await tour(page, where, (view) => page.screenshot({ path: path.join(screenshots, `${name}-${view}.png`), fullPage: size !== "wide" }));
        await page.context().close();
        seen.push(where);
      }
    }
  }
  return seen;
}

/** Words and themes that are chosen stay so; forced colours and enlarged text lose nothing. */
export async function settings({ browser, url, screenshots }) {
  const page = await browser.open(url, { scheme: "light" });
  await page.selectOption("#language", "ko");
  await text(page, "#tab-search", (words) => words === "검색");
  await page.selectOption("#theme", "dark");
  await page.reload();
  await text(page, "#tab-search", (words) => words === "검색");
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  check(ground === "rgb(16, 17, 18)", `the ground is ${ground}`);
  await page.context().close();

  const forced = await browser.open(url, { forcedColors: "active" });
  await withSamples(forced);
  await sound(forced, "forced colours");
  await forced.screenshot({ path: path.join(screenshots, "forced-colours.png"), fullPage: true });
  await forced.context().close();

  // The pages beside it find their files behind a prefix too.
  const pages = await browser.open(`${url}docs`);
  await pages.waitForSelector(".opblock");
  check(pages.faults.length === 0, `the API's pages: ${pages.faults}`);
  await pages.goto(`${url}docs/errors`);
  await sound(pages, "errors");
  await pages.context().close();

  // A word for every key in both languages.
  const words = await browser.open(url);
  const differ = await words.evaluate(async () => {
    const { english } = await import("./page/words.js");
    const { korean } = await import("./page/words-ko.js");
    const lacks = (one, other) => Object.keys(one).filter((key) => !(key in other));
    return [...lacks(english, korean), ...lacks(korean, english)];
  });
  check(differ.length === 0, `words of one language only: ${differ}`);
}
