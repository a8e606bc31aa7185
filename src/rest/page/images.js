// The images of this page: dropped, pasted, picked, or sample drawings. They go to the server alone.

import { address } from "./api.js";
import { $, make, on, tell } from "./dom.js";
import { say } from "./notice.js";
import { t } from "./words.js";

const MOST_IMAGES = 500;
const THUMBNAIL = 320;
const SAMPLES = ["cat.png", "dog.jpg", "pizza.webp", "apple.png", "car.png", "guitar.png", "sunflower.jpg", "rocket.gif"];

/** `{id, name, file, url, failed}`, in the order in which they came. */
export let images = [];
let chosen = null;
let next = 1;

export const selected = () => images.find(({ id }) => id === chosen) ?? images[0] ?? null;

export function select(image) {
  chosen = image?.id ?? null;
  for (const tile of $("tiles").querySelectorAll(".tile")) {
    tile.setAttribute("aria-pressed", String(Number(tile.dataset.id) === selected()?.id));
  }
  tell("selection");
}

/** Marks images that the server cannot read, and says why in their titles. */
export function markFailed(image, reason) {
  image.failed = reason;
  render();
}

function uniqueName(name) {
  const taken = new Set(images.map((image) => image.name));
  if (!taken.has(name)) return name;
  const [, stem, ending] = /^(.*?)(\.[^.]*)?$/.exec(name);
  for (let number = 2; ; number += 1) {
    const candidate = `${stem}-${number}${ending ?? ""}`;
    if (!taken.has(candidate)) return candidate;
  }
}

export function add(files) {
  const wanted = [...files].filter(Boolean);
  const wrong = wanted.find((file) => file.type && !file.type.startsWith("image/"));
  const good = wanted.filter((file) => !file.type || file.type.startsWith("image/"));
  const room = Math.max(0, MOST_IMAGES - images.length);
  const added = good.slice(0, room).map((file) => {
    const image = { id: next++, name: "", file, url: URL.createObjectURL(file), failed: null, readable: true };
    image.name = uniqueName(file.name || `${t("pasted")}.png`);
    images.push(image);
    return image;
  });
  if (good.length > room) say(t("too_many", { n: MOST_IMAGES }));
  else if (wrong) say(t("not_an_image", { name: wrong.name }));
  if (!added.length) return;
  chosen = added[0].id;
  changed();
  shrink(added);
}

/** Small copies for the tiles, one after the other: a hundred photographs would fill the memory. */
async function shrink(added) {
  for (const image of added) {
    try {
      const whole = await createImageBitmap(image.file);
      const scale = Math.min(1, THUMBNAIL / Math.max(whole.width, whole.height));
      if (scale === 1) {
        whole.close();
        continue;
      }
      const canvas = make("canvas", { width: Math.max(1, whole.width * scale), height: Math.max(1, whole.height * scale) });
      canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
      whole.close();
      const blob = await new Promise((done) => canvas.toBlob(done, "image/webp", 0.85));
      if (!blob || !images.includes(image)) continue;
      URL.revokeObjectURL(image.url);
      image.url = URL.createObjectURL(blob);
    } catch {
      // The browser does not show it; the server may read it (TIFF), so it stays.
      image.readable = false;
    }
  }
  render();
  tell("selection");
}

function remove(image) {
  const place = images.indexOf(image);
  images = images.filter((one) => one !== image);
  URL.revokeObjectURL(image.url);
  if (chosen === image.id) chosen = (images[place] ?? images[place - 1])?.id ?? null;
  changed();
  const tiles = $("tiles").querySelectorAll(".tile");
  (tiles[Math.min(place, tiles.length - 1)] ?? $("file")).focus();
}

function clear() {
  for (const image of images) URL.revokeObjectURL(image.url);
  images = [];
  chosen = null;
  changed();
  $("file").focus();
}

function changed() {
  render();
  tell("images");
  tell("selection");
}

/** The image itself, or its name where the browser cannot show it. */
export function picture(image, alt = "") {
  return image.readable
    ? make("img", { src: image.url, alt, loading: "lazy", decoding: "async" })
    : make("span", { class: "name" }, image.name);
}

function render() {
  $("count").textContent = images.length ? t("n_images", { n: images.length }) : "";
  $("clear").hidden = images.length === 0;
  $("tiles").replaceChildren(
    ...images.map((image) => {
      const tile = make("button", {
        type: "button",
        class: image.failed ? "tile failed" : "tile",
        "data-id": image.id,
        "aria-pressed": String(image.id === selected()?.id),
        "aria-label": t("select", { name: image.name }),
        title: image.failed ? `${image.name}: ${image.failed}` : image.name,
        onclick: () => select(image),
        onkeydown: (event) => {
          if (event.key === "Delete" || event.key === "Backspace") remove(image);
        },
      }, picture(image));
      const close = make("button", {
        type: "button",
        class: "remove",
        "aria-label": t("remove", { name: image.name }),
        onclick: () => remove(image),
      }, "×");
      return make("li", {}, tile, close);
    }),
  );
}

async function sample(name) {
  const response = await fetch(address(`page/samples/${name}`));
  const blob = await response.blob();
  return new File([blob], name, { type: blob.type });
}

export async function addSamples(names = SAMPLES) {
  const files = await Promise.all(names.map(sample));
  const held = new Set(images.map(({ name }) => name));
  add(files.filter((file) => !held.has(file.name)));
  // They stand above now.
  if (names === SAMPLES) $("samples-box").open = false;
}

function renderSamples() {
  $("samples").replaceChildren(
    ...SAMPLES.map((name) => {
      const label = t("add_sample", { name: name.replace(/\..*/, "") });
      const image = make("img", { src: address(`page/samples/${name}`), alt: "", loading: "lazy" });
      const button = { type: "button", class: "tile", "aria-label": label, title: label, onclick: () => pick(name) };
      return make("li", {}, make("button", button, image));
    }),
  );
}

/** A sample that is there already is shown, not added again. */
function pick(name) {
  const held = images.find((image) => image.name === name);
  return held ? select(held) : addSamples([name]);
}

export function startImages() {
  $("file").addEventListener("change", () => {
    add($("file").files);
    $("file").value = "";
  });
  $("clear").addEventListener("click", clear);
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add(event.clipboardData.files);
  });
  // A drop beside the field would otherwise replace the page by the image.
  const over = (is) => document.body.classList.toggle("over", is);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    add(event.dataTransfer.files);
  });
  on("language", () => {
    render();
    renderSamples();
  });
}
