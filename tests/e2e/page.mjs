// The page at `/`, in a browser: node page.mjs JSON
// The JSON names the browser, the servers and the folders; the outcome of each flow is printed as JSON.

import { mkdirSync } from "node:fs";
import { flows } from "./page_flows.mjs";
import { looks, settings } from "./page_looks.mjs";
import { Browser, check, startProxy } from "./page_tools.mjs";

const wanted = JSON.parse(process.argv[2]);
mkdirSync(wanted.screenshots, { recursive: true });
const proxy = await startProxy(wanted.url);
const browser = await Browser.start(wanted.chromium);
const given = { ...wanted, browser, url: proxy.url };
const all = { ...flows, settings, looks };
const outcome = {};
for (const [name, run] of Object.entries(all)) {
  if (wanted.only && !wanted.only.includes(name)) continue;
  try {
    await run(given);
    check(proxy.outside.length === 0, `outside of the prefix: ${proxy.outside}`);
    outcome[name] = "ok";
  } catch (error) {
    outcome[name] = String(error.stack ?? error);
  }
  for (const context of browser.chromium.contexts()) await context.close();
}
await browser.stop();
proxy.stop();
console.log(JSON.stringify(outcome));
