// Every image against every label, as a table whose cells are shaded.

import { $, make, on } from "./dom.js";
import { images, picture, select } from "./images.js";
import { missing } from "./labels.js";
import { model } from "./models.js";
import { fail, settle } from "./notice.js";
import { count, percent, signed } from "./numbers.js";
import { labels, score, scoresOf } from "./pairs.js";
import { t } from "./words.js";

let running = null;
let isOpen = false;

/** How a value is written, and how strongly its cell is shaded: from 0 to 1. */
function cell(kind, value, least, most) {
  const place = most > least ? (value - least) / (most - least) : 0;
  if (kind === "probability") return [percent(value), value];
  return [signed(value, kind === "cosine" ? 3 : 1), place];
}

function draw() {
  const kind = $("matrix-value").value;
  const names = labels();
  const rows = images.filter((image) => !image.failed);
  const values = rows.flatMap((image) => scoresOf(image)?.[kind] ?? []);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const head = make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((image) => {
    const known = scoresOf(image)?.[kind];
    const title = make("th", { scope: "row" }, make("div", {}, picture(image), make("span", { title: image.name }, image.name)));
    const cells = names.map((name, index) => {
      if (!known) return make("td", {}, make("span", {}, "\u2026"));
      const [text, share] = cell(kind, known[index], least, most);
      const shown = make("span", { title: `${image.name} × ${name}` }, text);
      shown.style.setProperty("--v", share);
      return make("td", { class: "known", onclick: () => openPair(image) }, shown);
    });
    return make("tr", {}, title, ...cells);
  });
  $("matrix").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  $("matrix-live").textContent = t("pairs", { n: count(values.length) });
}

function openPair(image) {
  select(image);
  $("tab-labels").click();
}

export async function show() {
  running?.abort();
  if (!isOpen || !model) return;
  const nothing = missing($("matrix-empty"));
  $("matrix-scroll").hidden = nothing;
  if (nothing) return;
  draw();
  const mine = (running = new AbortController());
  $("matrix-scroll").setAttribute("aria-busy", "true");
  try {
    await score(images, { signal: mine.signal, progress: draw });
    if (running === mine) settle();
  } catch (error) {
    fail(error, show);
  }
  if (running === mine) $("matrix-scroll").removeAttribute("aria-busy");
}

export function open(is) {
  isOpen = is;
  if (is) show();
  else running?.abort();
}

export function startMatrix() {
  on("model images texts language", show);
  $("matrix-value").addEventListener("change", draw);
}
