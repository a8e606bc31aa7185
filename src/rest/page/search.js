// Text-to-image search over the images of this page: vectors are asked for once, and compared here.

import { ask, form } from "./api.js";
import { $, make, on } from "./dom.js";
import { addSamples, images, markFailed, picture, select } from "./images.js";
import { model, patches, readsTexts } from "./models.js";
import { fail, settle } from "./notice.js";
import { dot, signed, vector } from "./numbers.js";
import { empty, t } from "./words.js";

const IMAGES_AT_ONCE = 16;
const vectors = new Map();
let running = null;
let isOpen = false;
/** What is looked for: `{text}` or `{image}`. */
let wanted = null;

const keyOf = (image) => JSON.stringify([model.name, patches(), image.id]);

async function embedImages(signal) {
  const bar = $("search-progress");
  let waiting = images.filter((image) => !image.failed && !vectors.has(keyOf(image)));
  const all = waiting.length;
  bar.hidden = all <= IMAGES_AT_ONCE;
  while (waiting.length) {
    const chunk = waiting.splice(0, IMAGES_AT_ONCE);
    const fields = { model: model.name, max_num_patches: patches(), encoding_format: "base64", on_error: "item" };
    const answer = await (await ask("v1/embeddings", { body: form(chunk, fields), signal })).json();
    for (const row of answer.data) {
      const image = chunk[row.index];
      if (row.error) markFailed(image, row.error.message);
      else vectors.set(keyOf(image), vector(row.embedding));
    }
    bar.value = (all - waiting.length) / all;
    $("search-live").textContent = t("embedding_n", { done: all - waiting.length, all });
  }
  bar.hidden = true;
}

async function embedText(text, signal) {
  const key = JSON.stringify([model.name, "text", text]);
  if (!vectors.has(key)) {
    const body = JSON.stringify({ model: model.name, input: [{ text }], encoding_format: "base64" });
    const headers = { "content-type": "application/json" };
    const answer = await (await ask("v1/embeddings", { body, headers, signal })).json();
    vectors.set(key, vector(answer.data[0].embedding));
  }
  return vectors.get(key);
}

function hit({ image, cosine }, least, most) {
  const value = make("div", { class: "value" });
  value.style.setProperty("--p", most > least ? 0.03 + (0.97 * (cosine - least)) / (most - least) : 1);
  const open = () => {
    select(image);
    if (readsTexts()) $("tab-labels").click();
  };
  const similar = make("button", { type: "button", class: "quiet small", onclick: () => look({ image }) }, t("similar"));
  return make("li", { class: "hit" },
    make("button", { type: "button", class: "tile", "aria-label": t("select", { name: image.name }), onclick: open }, picture(image)),
    make("div", { class: "track", "aria-hidden": "true" }, value),
    make("span", { class: "name", title: image.name }, image.name),
    make("span", { class: "soft" }, cosine === null ? "" : t("cosine_is", { v: signed(cosine, 4) })),
    similar);
}

function draw(target) {
  const known = images.filter((image) => vectors.has(keyOf(image)));
  const hits = known.map((image) => ({ image, cosine: dot(target, vectors.get(keyOf(image))) }));
  hits.sort((left, right) => right.cosine - left.cosine);
  const [most, least] = [hits[0]?.cosine ?? 0, hits.at(-1)?.cosine ?? 0];
  $("hits").replaceChildren(...hits.map((one) => hit(one, least, most)));
  $("search-live").textContent = wanted.image
    ? t("similar_to", { name: wanted.image.name })
    : t("found", { n: hits.length });
}

function look(next) {
  wanted = next;
  if (wanted?.image) $("query").value = "";
  show();
}

/** Without a query the images stand there as they came, each with its button. */
function idle() {
  $("search-live").textContent = "";
  if (!images.length) {
    $("hits").replaceChildren();
    const use = make("button", { type: "button", onclick: () => addSamples() }, t("none_button"));
    empty($("search-empty"), t("search_empty_title"), t("search_empty_text"), use);
    return true;
  }
  $("search-empty").hidden = true;
  if (wanted && (!wanted.image || images.includes(wanted.image))) return false;
  wanted = null;
  $("hits").replaceChildren(...images.map((image) => hit({ image, cosine: null }, 0, 0)));
  for (const track of $("hits").querySelectorAll(".track")) track.remove();
  return true;
}

export async function show() {
  running?.abort();
  if (!isOpen || !model) return;
  $("search-form").hidden = !readsTexts();
  if (!readsTexts() && wanted?.text) wanted = null;
  if (idle()) return;
  const mine = (running = new AbortController());
  $("hits").setAttribute("aria-busy", "true");
  try {
    await embedImages(mine.signal);
    const target = wanted.image ? vectors.get(keyOf(wanted.image)) : await embedText(wanted.text, mine.signal);
    if (target && running === mine) draw(target);
    settle();
  } catch (error) {
    $("search-progress").hidden = true;
    if (error.name !== "AbortError") $("search-live").textContent = "";
    fail(error, show);
  }
  if (running === mine) $("hits").removeAttribute("aria-busy");
}

export const query = () => wanted?.text ?? $("query").value.trim();

export function open(is) {
  isOpen = is;
  if (is) show();
  else running?.abort();
}

export function startSearch() {
  on("model images language", show);
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("query").value.trim();
    look(text ? { text } : null);
  });
}
