// The words of the page. What stands in the document is there in English; the rest is here.

import { $, make, on, remembered, tell } from "./dom.js";
import { korean } from "./words-ko.js";

export const english = {
  ready: "Ready",
  loading: "The model is loading",
  draining: "The server is shutting down",
  unreachable: "The server does not answer",
  asks_key: "The server asks for an API key",
  values: "{n} values",
  pixels: "{w} × {h} px",
  up_to_patches: "up to {n} patches",
  tokens: "{n} tokens a text",
  images_only: "images only",
  writes_captions: "writes captions",
  version: "version {v}",
  n_images: "{n}",
  add_sample: "Add the drawing: {name}",
  select: "Show {name}",
  remove: "Remove {name}",
  pasted: "pasted image",
  too_many: "The page holds {n} images. The others were left out; the API has no such limit.",
  not_an_image: "{name} is not an image.",
  patches_note: "The model reads {own} as published; this server allows up to {most}. Fewer cost less, more see finer detail.",
  none_title: "Begin with an image",
  none_text: "Drop images anywhere on this page, paste one, or try the sample drawings.",
  none_button: "Use the sample drawings",
  labels_title: "Type a label",
  labels_text: "Write what the image may show, one label on each line.",
  no_text_title: "This model reads images only",
  no_text_text: "It has no text tower, as the vision towers inside LLaVA, so there is nothing to compare an image with but other images: open Search and choose “Similar”. Its token maps are served at /v1/features.",
  no_text_search: "Similar images",
  rule_sigmoid: "Each label is judged on its own: several may fit, or none. A right label often has far less than 50 %; rank by cosine, and choose a threshold on your own data.",
  rule_softmax: "This model compares the labels of a request with each other: the shares sum to 100 % even where nothing fits, and another label changes all of them.",
  rule_matching: "A head of this model reads each text in the light of the image, one probability a pair. The cosine comes from its separate embeddings, so their orders may differ.",
  rule_none: "This model has no rule for probabilities; rank by cosine.",
  threshold_off: "off",
  above: "≥ {p}: {n} of {all}",
  one_label: "With one label alone, softmax is always 100 %.",
  cosine_is: "cosine {v}",
  logit_is: "logit {v}",
  softmax_is: "softmax {v}",
  cut: "Cut at {most} tokens, which is all that the model reads: {n} of the texts. Shorten the prompt or the labels.",
  scored: "{n} labels scored.",
  search_placeholder: "a red fruit",
  search_empty_title: "Search your images by text",
  search_empty_text: "Type what you are looking for. The images are embedded once; then every query compares vectors in this browser.",
  similar: "Similar",
  similar_to: "Images similar to {name}, by cosine",
  found: "{n} images, best first",
  embedding_n: "Embedding {done} of {all} images",
  matrix_title: "Many images, many labels",
  matrix_text: "Add images and labels: every pair gets a cell.",
  pairs: "{n} pairs",
  captions_title: "Captions",
  captions_text: "Add images, then let the model write what it sees.",
  no_captions_title: "This model writes no captions",
  no_captions_text: "Choose one that does: {names}.",
  caption_empty: "(the model wrote nothing)",
  caption_cut: "cut at the most tokens",
  stage_fetch: "fetch",
  stage_decode: "decode",
  stage_tokenize: "tokenize",
  stage_queue: "queue",
  stage_forward: "forward pass",
  stage_encode: "encode",
  stage_other: "server, other",
  stage_network: "network, browser",
  trace_line: "{path}: {whole} in this browser, {total} in the server",
  copied: "Copied.",
  copy_failed: "The browser did not allow it: select the text and copy it.",
  code_none: "Add an image to see the request.",
  g_rate_requests: "Requests a second",
  g_rate_images: "Images a second",
  g_rate_texts: "Texts a second",
  g_p95: "Latency, 95 % below",
  g_queue: "Rows waiting",
  g_oldest: "Oldest row waits",
  g_memory: "Memory",
  g_cpu: "Processor, cores busy",
  g_cache: "Answered from the cache",
  g_uptime: "Running for",
  none_yet: "none",
  no_refused: "Nothing was refused.",
  no_metrics: "Metrics are not on this address: the operator has put them on a listener of their own.",
  updated: "Updated every 2 seconds from {path}",
  c_name: "Name",
  c_device: "Device",
  c_parameters: "Parameters",
  c_weights: "Weights",
  c_scoring: "Scoring",
  retry: "Try again",
  what_helps: "What helps",
  retry_in: "Trying again in {n} s",
  e_401: "The API key is missing or wrong.",
  e_413: "That is more than the server takes at once.",
  e_415: "The server does not read this file.",
  e_422: "An image or a text cannot be read.",
  e_429: "The server is busy.",
  e_503: "The server is not ready.",
  e_504: "The answer took too long.",
  e_0: "The server does not answer.",
  e_other: "The request failed.",
  default_labels: "a cat\na dog\na pizza\na red apple\na guitar\na rocket",
  default_template: "This is a photo of {label}.",
};

let words = english;
export let language = "en";

/** A phrase of the chosen language, with values in the place of `{name}`. */
export function t(key, values = {}) {
  const phrase = words[key] ?? english[key] ?? key;
  return phrase.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
}

export function choose(name) {
  language = name === "ko" ? "ko" : "en";
  words = language === "ko" ? korean : english;
  $("language").value = language;
  remembered.set("language", language);
  translate();
  tell("language");
}

/** Takes the English words over from the document, and begins in the language of the browser. */
export function startWords() {
  for (const element of document.querySelectorAll("[data-t]")) english[element.dataset.t] = element.textContent;
  for (const element of document.querySelectorAll("[data-t-label]")) {
    english[element.dataset.tLabel] = element.getAttribute("aria-label");
  }
  $("language").addEventListener("change", () => choose($("language").value));
  choose(remembered.get("language") ?? (navigator.language.startsWith("ko") ? "ko" : "en"));
}

/** What stands where there is nothing yet: a heading, a sentence, and buttons. */
export function empty(place, title, text, ...buttons) {
  place.replaceChildren(make("h3", {}, title), make("p", {}, text), ...buttons);
  place.hidden = false;
}

on("language", () => {
  $("query").placeholder = t("search_placeholder");
});
