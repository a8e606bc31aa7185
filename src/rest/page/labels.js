// One image and its labels: a bar for each.

import { $, make, on } from "./dom.js";
import { addSamples, images, selected } from "./images.js";
import { model, readsTexts, rule } from "./models.js";
import { clearFailure, fail, settle } from "./notice.js";
import { percent, signed, softmax, threshold } from "./numbers.js";
import { labels, score, scoresOf } from "./pairs.js";
import { empty, t } from "./words.js";

let running = null;
let isOpen = false;

export function missing(place) {
  const useSamples = make("button", { type: "button", onclick: () => addSamples() }, t("none_button"));
  if (!images.length) empty(place, t("none_title"), t("none_text"), useSamples);
  else if (!readsTexts()) {
    const search = make("button", { type: "button", class: "quiet", onclick: () => $("tab-search").click() }, t("no_text_search"));
    empty(place, t("no_text_title"), t("no_text_text"), search);
  } else if (!labels().length) empty(place, t("labels_title"), t("labels_text"));
  else {
    place.replaceChildren();
    place.hidden = true;
    return false;
  }
  return true;
}

function bar({ label, cosine, logit, probability, share }, level) {
  const above = level !== null && probability !== null && probability >= level;
  const state = level === null ? "bar" : `bar ${above ? "above" : "below"}`;
  const value = make("div", { class: "value" });
  value.style.setProperty("--p", probability ?? 0);
  // The figure beside it says the same, so the bar itself is silent.
  const track = make("div", { class: "track", "aria-hidden": "true" }, value);
  if (level !== null) {
    const mark = make("div", { class: "mark" });
    mark.style.setProperty("--at", level);
    track.append(mark);
  }
  const figures = make("div", { class: "soft" }, make("span", {}, t("cosine_is", { v: signed(cosine, 4) })));
  if (logit !== null) figures.append(make("span", {}, t("logit_is", { v: signed(logit, 2) })));
  const item = make("li", { class: state },
    make("div", { class: "line" }, make("b", {}, label), make("output", {}, probability === null ? "" : percent(probability))),
    track, figures);
  if (share !== null) {
    const second = make("div", { class: "value" });
    second.style.setProperty("--p", share);
    item.append(make("div", { class: "softmax" },
      make("div", { class: "track", "aria-hidden": "true" }, second),
      make("span", {}, t("softmax_is", { v: share >= 1 ? "100 %" : percent(share) }))));
  }
  return item;
}

function draw() {
  const image = selected();
  const known = image && scoresOf(image);
  const compares = rule() === "sigmoid" || rule() === "matching";
  $("softmax-field").hidden = !compares;
  const asksSoftmax = compares && $("softmax").checked;
  $("softmax-note").hidden = !asksSoftmax;
  $("rule").textContent = t(`rule_${rule()}`);

  const level = threshold(Number($("threshold").value));
  const names = labels();
  $("threshold-value").textContent = level === null ? t("threshold_off") : `≥ ${percent(level)}`;
  if (!known) {
    $("bars").replaceChildren();
    return;
  }
  const shares = asksSoftmax && known.logit ? softmax(known.logit) : null;
  const rows = names.map((label, index) => ({
    label,
    cosine: known.cosine[index],
    logit: known.logit?.[index] ?? null,
    probability: known.probability?.[index] ?? null,
    share: shares?.[index] ?? null,
  }));
  const by = known.probability ? "probability" : "cosine";
  rows.sort((left, right) => right[by] - left[by]);
  $("bars").replaceChildren(...rows.map((row) => bar(row, level)));
  const reached = level === null ? 0 : rows.filter(({ probability }) => probability >= level).length;
  $("labels-live").textContent = level === null
    ? t("scored", { n: rows.length })
    : t("above", { p: percent(level), n: reached, all: rows.length });
  $("cut").hidden = !known.cut;
  $("cut").textContent = t("cut", { n: known.cut, most: model.text_length });
  if (asksSoftmax && rows.length === 1) $("labels-live").textContent += ` ${t("one_label")}`;
}

function preview() {
  const image = selected();
  $("shown").hidden = !image?.readable;
  if (!image) return;
  $("shown").src = image.url;
  $("shown").alt = image.name;
  $("shown-name").textContent = image.failed ? `${image.name}: ${image.failed}` : image.name;
}

export async function show() {
  running?.abort();
  if (!isOpen || !model) return;
  const nothing = missing($("labels-empty"));
  $("labels-body").hidden = nothing;
  if (nothing) return;
  preview();
  draw();
  const image = selected();
  if (image.failed) {
    fail(Object.assign(new Error(image.failed), { status: 422, field: image.name }), show);
    return;
  }
  if (scoresOf(image)) {
    clearFailure();
    return;
  }
  const mine = (running = new AbortController());
  $("bars").setAttribute("aria-busy", "true");
  try {
    await score([image], { signal: mine.signal });
    // One that the server could not read is marked now, and said so.
    if (image.failed) return show();
    settle();
  } catch (error) {
    fail(error, show);
  }
  if (running === mine) {
    $("bars").removeAttribute("aria-busy");
    draw();
  }
}

export function open(is) {
  isOpen = is;
  if (is) show();
  else running?.abort();
}

export function startLabels() {
  on("model selection texts language", show);
  $("threshold").addEventListener("input", draw);
  $("softmax").addEventListener("change", draw);
}
