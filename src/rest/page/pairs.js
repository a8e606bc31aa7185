// Scores of image-text pairs, asked for once and kept while nothing of them changes.

import { ask, form } from "./api.js";
import { $, debounce, on, tell } from "./dom.js";
import { markFailed } from "./images.js";
import { limits, model, patches } from "./models.js";
import { language, t } from "./words.js";

const IMAGES_AT_ONCE = 16;
const kept = new Map();

export function labels() {
  const lines = $("labels").value.split("\n").map((line) => line.trim());
  return [...new Set(lines.filter(Boolean))].slice(0, limits.max_labels ?? 1024);
}

/** The labels in the prompt: what the model reads. */
export function texts() {
  const template = $("template").value.trim() || "{label}";
  return labels().map((label) =>
    template.includes("{label}") ? template.replaceAll("{label}", label) : `${template} ${label}`);
}

const keyOf = (image) => JSON.stringify([model.name, patches(), image.id, texts()]);

/** `{cosine, logit, probability, cut}` of an image: numbers for every text, and how many texts were cut; undefined until
    it is known. */
export const scoresOf = (image) => kept.get(keyOf(image));

/** Asks for what is not known yet. An image that fails is marked, and the others go on without it. */
export async function score(images, { signal, progress = () => {} }) {
  let waiting = images.filter((image) => !image.failed && !scoresOf(image));
  while (waiting.length) {
    const chunk = waiting.slice(0, IMAGES_AT_ONCE);
    const keys = chunk.map(keyOf);
    const fields = { model: model.name, text: texts(), max_num_patches: patches() };
    try {
      const response = await ask("v1/similarity", { body: form(chunk, fields), signal });
      const answer = await response.json();
      const cut = Number(response.headers.get("x-siglip-truncated-texts") ?? 0);
      keys.forEach((key, row) => {
        kept.set(key, {
          cosine: answer.cosine?.[row] ?? null,
          logit: answer.logit?.[row] ?? null,
          probability: answer.probability?.[row] ?? null,
          cut,
        });
      });
    } catch (error) {
      if (!blame(error, chunk)) throw error;
    }
    waiting = waiting.filter((image) => !image.failed && !scoresOf(image));
    progress();
  }
}

/** Marks the images that a failure names: `images[3]`, `input[3].image`. Whether it named any. */
export function blame(error, chunk) {
  if (![413, 422].includes(error.status)) return false;
  const found = (error.errors?.length ? error.errors : [{ field: error.field, detail: error.message }])
    .map(({ field, detail }) => [chunk[Number(/^(?:images|input)\[(\d+)\]/.exec(field ?? "")?.[1])], detail])
    .filter(([image]) => image);
  for (const [image, detail] of found) markFailed(image, detail);
  return found.length > 0;
}

/** Labels and prompt follow the language until they are changed. */
export function startTexts() {
  const fields = [["labels", "default_labels"], ["template", "default_template"]];
  const written = {};
  on("language", () => {
    for (const [id, phrase] of fields) {
      if ($(id).value === "" || $(id).value === written[id]) $(id).value = written[id] = t(phrase);
      $(id).lang = language;
    }
    tell("texts");
  });
  const soon = debounce(() => tell("texts"), 250);
  for (const [id] of fields) $(id).addEventListener("input", soon);
}
