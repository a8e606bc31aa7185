// Captions, token by token, of models that write them.

import { ask, events, form } from "./api.js";
import { $, make, on } from "./dom.js";
import { addSamples, images, picture } from "./images.js";
import { model, models } from "./models.js";
import { fail, settle } from "./notice.js";
import { empty, t } from "./words.js";

let running = null;
let isOpen = false;

export const options = () => ({
  prompt: $("caption-prompt").value.trim() || null,
  max_new_tokens: Number($("caption-tokens").value) || 20,
});

async function write() {
  running?.abort();
  const mine = (running = new AbortController());
  const rows = images.filter((image) => !image.failed);
  const lines = rows.map(() => make("p", {}, options().prompt ?? ""));
  $("captions").replaceChildren(...rows.map((image, row) => make("li", {}, picture(image, image.name), lines[row])));
  $("captions").setAttribute("aria-busy", "true");
  try {
    for (const [row, image] of rows.entries()) await caption(image, lines[row], mine.signal);
    settle();
  } catch (error) {
    fail(error, write);
  }
  if (running === mine) $("captions").removeAttribute("aria-busy");
}

async function caption(image, line, signal) {
  const fields = { model: model.name, stream: "true", on_error: "item", ...options() };
  const response = await ask("v1/captions", { body: form([image], fields), signal });
  for await (const [name, data] of events(response)) {
    if (name === "token") line.textContent += data.text;
    const [done] = data.captions ?? [];
    const error = name === "error" ? data : done?.error;
    if (error) {
      line.textContent = error.detail;
      line.className = "failed";
    } else if (done) {
      line.textContent = done.text || t("caption_empty");
      if (done.finish_reason === "length") line.append(" ", make("span", { class: "soft" }, t("caption_cut")));
    }
  }
}

export function show() {
  const writers = models.filter(({ captions }) => captions);
  $("tab-captions").hidden = writers.length === 0;
  if (!isOpen || !model) return;
  $("caption-form").hidden = !model.captions || !images.length;
  if (!model.captions) {
    $("captions").replaceChildren();
    empty($("captions-empty"), t("no_captions_title"), t("no_captions_text", { names: writers.map(({ name }) => name).join(", ") }));
  } else if (!images.length) {
    $("captions").replaceChildren();
    const use = make("button", { type: "button", onclick: () => addSamples() }, t("none_button"));
    empty($("captions-empty"), t("captions_title"), t("captions_text"), use);
  } else {
    $("captions-empty").hidden = true;
  }
}

export function open(is) {
  isOpen = is;
  if (is) show();
  else running?.abort();
}

export function startCaptions() {
  on("model images language", show);
  $("caption-form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
}
