// The served models, which one is chosen, and how the server does.

import { ask, hasKey, useKey } from "./api.js";
import { $, make, on, tell } from "./dom.js";
import { clearNotice } from "./notice.js";
import { count } from "./numbers.js";
import { t } from "./words.js";

export let models = [];
export let model = null;
export let limits = {};
let version = "";
let health = "loading";

export const readsTexts = () => model?.text_length !== null && model?.text_length !== undefined;
export const rule = () => model?.scoring?.kind ?? "none";
export const isDemo = () => model?.name === "demo" && model.image_size?.width === 64;

/** The number of patches that was asked for, where the model has a choice. */
export function patches() {
  const value = Number($("patches-input").value);
  return model?.max_num_patches && value > 0 && value !== model.max_num_patches ? String(value) : null;
}

function setHealth(state) {
  health = state;
  $("health").textContent = t(state);
  $("dot").dataset.state = { ready: "ready", loading: "wait" }[state] ?? "bad";
}

/** Asks what is served, until there is an answer. */
export async function describe() {
  try {
    const info = await (await ask("info")).json();
    ({ models, limits, version } = info);
    if (models.length) {
      setHealth("ready");
      show();
      return;
    }
    setHealth("loading");
  } catch (error) {
    if (error.status === 401) {
      setHealth("asks_key");
      openKey();
      return;
    }
    setHealth(error.status === 503 ? "loading" : "unreachable");
  }
  setTimeout(describe, 1500);
}

function show() {
  const chosen = models.find(({ name }) => name === model?.name) ?? models[0];
  $("model").replaceChildren(...models.map(({ name }) => make("option", { value: name }, name)));
  $("model").value = chosen.name;
  choose(chosen);
}

function choose(next) {
  model = next;
  const own = model.max_num_patches;
  $("patches").hidden = !own;
  if (own) {
    $("patches-input").value = own;
    $("patches-input").max = Math.max(own, limits.max_num_patches);
  }
  words();
  tell("model");
}

function words() {
  setHealth(health);
  if (!model) return;
  const size = model.image_size;
  const facts = [
    model.family,
    t("values", { n: model.dimension }),
    size ? t("pixels", { w: size.width, h: size.height }) : null,
    model.max_num_patches ? t("up_to_patches", { n: model.max_num_patches }) : null,
    readsTexts() ? t("tokens", { n: model.text_length }) : t(model.captions ? "writes_captions" : "images_only"),
    `${model.dtype}, ${model.device}`,
    model.revision ? String(model.revision).slice(0, 12) : null,
    t("version", { v: version }),
  ];
  $("facts").replaceChildren(...facts.filter(Boolean).map((fact) => make("span", {}, fact)));
  $("patches-note").textContent = t("patches_note", {
    own: count(model.max_num_patches ?? 0),
    most: count(Math.max(model.max_num_patches ?? 0, limits.max_num_patches ?? 0)),
  });
  $("demo-note").hidden = !isDemo();
}

function openKey() {
  $("key-box").hidden = false;
  $("key-open").setAttribute("aria-expanded", "true");
  $("key-input").focus();
}

export function startModels() {
  $("model").addEventListener("change", () => {
    const next = models.find(({ name }) => name === $("model").value);
    clearNotice();
    if (next) choose(next);
  });
  $("patches-input").addEventListener("change", () => tell("model"));
  $("key-open").addEventListener("click", () => {
    if ($("key-box").hidden) return openKey();
    $("key-box").hidden = true;
    $("key-open").setAttribute("aria-expanded", "false");
  });
  $("key-box").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key-input").value.trim());
    // It is kept in memory alone, and not in the field either.
    $("key-input").value = "";
    if (hasKey()) $("key-box").hidden = true;
    $("key-open").setAttribute("aria-expanded", String(!$("key-box").hidden));
    clearNotice();
    describe();
  });
  document.addEventListener("key-wanted", openKey);
  on("language", words);
  describe();
}
