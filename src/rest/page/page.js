"use strict";

const $ = (id) => document.getElementById(id);
let picture = null;
let running = null;
let timer = 0;

/** A message under the results; screen readers hear it. */
function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Takes a picture from wherever it came: the picker, a drop or the clipboard. */
function take(file) {
  if (!file) return;
  picture = file;
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(file);
  $("preview").alt = file.name ? `The picture ${file.name}` : "The pasted picture";
  $("preview").hidden = false;
  $("hint").hidden = true;
  classify();
}

const labels = () =>
  [...new Set($("labels").value.split(/[\n,]/).map((text) => text.trim()).filter(Boolean))];

/** A share in percent that never rounds to a certainty. */
function percent(share) {
  if (share < 0.001) return "< 0.1 %";
  if (share > 0.999) return "> 99.9 %";
  return `${(share * 100).toFixed(1)} %`;
}

function bar({ label, probability, logit }) {
  const item = document.createElement("li");
  item.className = probability >= 0.5 ? "fits" : "";
  item.title = `logit ${logit.toFixed(2)}`;
  const row = item.appendChild(document.createElement("div"));
  row.className = "row";
  row.appendChild(document.createElement("b")).textContent = label;
  row.appendChild(document.createElement("output")).textContent = percent(probability);
  const track = item.appendChild(document.createElement("div"));
  track.className = "track";
  // The figure beside it says the same, so the bar itself is silent.
  track.setAttribute("aria-hidden", "true");
  const fill = track.appendChild(document.createElement("div"));
  fill.className = "bar";
  fill.style.width = `${probability * 100}%`;
  return item;
}

async function classify() {
  const names = labels();
  if (!picture) return say("Pick a picture to begin.");
  if (!names.length) return say("Type a label.");

  const form = new FormData();
  form.append("image", picture, picture.name || "pasted");
  for (const name of names) form.append("label", name);
  const template = $("template").value.trim();
  if (template) form.append("template", template);

  // Only the last request counts; the server drops the work of one that was broken off.
  running?.abort();
  const mine = (running = new AbortController());
  const start = performance.now();
  try {
    const response = await fetch("/v1/classify", { method: "POST", body: form, signal: mine.signal });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.field ? `${answer.field}: ${answer.detail}` : answer.detail);
    $("bars").replaceChildren(...answer.results[0].map(bar));
    const fitting = answer.results[0].filter(({ probability }) => probability >= 0.5).length;
    const fit = fitting === 0 ? "No label fits" : fitting === 1 ? "1 label fits" : `${fitting} labels fit`;
    say(`${fit}. Answered in ${Math.round(performance.now() - start)} ms.`);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("bars").replaceChildren();
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  }
}

/** While somebody types, waits for a pause. */
function soon() {
  clearTimeout(timer);
  timer = setTimeout(classify, 250);
}

async function describe() {
  try {
    const { models, version } = await (await fetch("/info")).json();
    const model = models[0];
    $("model").textContent = model
      ? `${model.name} · ${model.dimension} values · ${model.image_size.width} px · ` +
        `${model.dtype} on ${model.device} · version ${version}`
      : "The model is still loading.";
    if (!model) setTimeout(describe, 1000);
  } catch {
    $("model").textContent = "The server does not answer.";
  }
}

$("file").addEventListener("change", () => take($("file").files[0]));
$("labels").addEventListener("input", soon);
$("template").addEventListener("input", soon);
$("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
// A drop beside the field would otherwise replace the page by the picture.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
describe();
