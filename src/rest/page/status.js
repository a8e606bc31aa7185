// How the server does, from its own metrics, while somebody looks.

import { address, ask } from "./api.js";
import { $, make, on } from "./dom.js";
import { models } from "./models.js";
import { fail } from "./notice.js";
import { bytes, count, milliseconds, percent } from "./numbers.js";
import { t } from "./words.js";

const EVERY = 2000;
const KEPT = 60;
const NAMESPACE = "http" + "://www.w3.org/2000/svg";
let timer = 0;
let isOpen = false;
let before = null;
const history = new Map();

/** Samples of the text format: `{name, labels, value}`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    samples.push({ name: found[1], labels, value: Number(found[3].replace("+Inf", "Infinity")) });
  }
  return samples;
}

const sum = (samples, name, fits = () => true) =>
  samples.reduce((total, one) => (one.name === name && fits(one.labels) ? total + one.value : total), 0);

/** The bound below which 95 of 100 requests of the API were, of those between two scrapes. */
function slowest(samples, earlier) {
  const buckets = (all) => {
    const found = new Map();
    for (const { name, labels, value } of all) {
      if (name !== "siglip_request_duration_seconds_bucket" || !labels.route?.startsWith("/v1/")) continue;
      found.set(labels.le, (found.get(labels.le) ?? 0) + value);
    }
    return found;
  };
  const old = buckets(earlier);
  const now = [...buckets(samples)].map(([le, value]) => [Number(le.replace("+Inf", "Infinity")), value - (old.get(le) ?? 0)]);
  now.sort(([left], [right]) => left - right);
  const all = now.at(-1)?.[1] ?? 0;
  const bound = now.find(([, value]) => value >= 0.95 * all);
  return all > 0 && bound ? bound[0] * 1000 : null;
}

function figures(samples) {
  const now = { at: performance.now(), samples };
  const rate = (name, fits) => {
    if (!before) return null;
    return Math.max(0, (sum(samples, name, fits) - sum(before.samples, name, fits)) / ((now.at - before.at) / 1000));
  };
  const hits = sum(samples, "siglip_cache_hits_total");
  const looked = hits + sum(samples, "siglip_cache_misses_total");
  const started = sum(samples, "process_start_time_seconds");
  const each = (value) => (value === null ? null : value.toFixed(value < 10 ? 1 : 0));
  const late = before ? slowest(samples, before.samples) : null;
  const requests = rate("siglip_requests_total", ({ route }) => route.startsWith("/v1/") || route.startsWith("/v2/"));
  const pictures = rate("siglip_images_total");
  const words = rate("siglip_texts_total");
  const waiting = sum(samples, "siglip_queue_rows");
  const cores = rate("process_cpu_seconds_total");
  before = now;
  return [
    ["g_rate_requests", each(requests), requests],
    ["g_rate_images", each(pictures), pictures],
    ["g_rate_texts", each(words), words],
    ["g_p95", late === null ? t("none_yet") : Number.isFinite(late) ? `≤ ${milliseconds(late)}` : "> 60 s", late],
    ["g_queue", count(waiting), waiting],
    ["g_oldest", milliseconds(1000 * Math.max(0, ...samples.filter(({ name }) => name === "siglip_queue_oldest_seconds").map(({ value }) => value)))],
    ["g_cpu", each(cores), cores],
    ["g_memory", bytes(sum(samples, "process_resident_memory_bytes")), sum(samples, "process_resident_memory_bytes")],
    ["g_cache", looked ? percent(hits / looked) : t("none_yet")],
    ["g_uptime", duration(Date.now() / 1000 - started)],
  ];
}

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.max(0, Math.floor(seconds))} s`;
}

/** A line of the last minutes; the figure above it says the last value. */
function spark(values) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const most = Math.max(...values, 1e-9);
  const line = document.createElementNS(NAMESPACE, "polyline");
  const start = KEPT - values.length;
  line.setAttribute("points", values.map((value, index) => `${start + index},${20 - (19 * value) / most}`).join(" "));
  svg.append(line);
  return svg;
}

function gauge([key, text, value]) {
  const item = make("div", {}, make("dt", {}, t(key)), make("dd", {}, text ?? "\u2013"));
  if (typeof value === "number" && Number.isFinite(value)) {
    const kept = [...(history.get(key) ?? []), value].slice(-KEPT);
    history.set(key, kept);
  }
  if (history.has(key)) item.append(spark(history.get(key)));
  return item;
}

function drawModels() {
  const columns = ["c_name", "c_device", "c_parameters", "c_weights", "c_scoring"];
  const head = make("tr", {}, ...columns.map((key) => make("th", { scope: "col" }, t(key))));
  const rows = models.map((model) => make("tr", {},
    make("th", { scope: "row" }, model.name),
    make("td", {}, `${model.device}, ${model.dtype}`),
    make("td", {}, count(model.parameters)),
    make("td", {}, bytes(model.weight_bytes)),
    make("td", {}, model.scoring?.kind ?? (model.captions ? t("tab_captions") : t("images_only")))));
  $("served").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function drawRefused(samples) {
  const refused = samples.filter(({ name, value }) => name === "siglip_rejected_total" && value > 0);
  $("refused").replaceChildren(...(refused.length
    ? refused.map(({ labels, value }) => make("li", {}, make("a", { href: address(`docs/errors#${labels.reason}`) }, labels.reason), ` ${count(value)}`))
    : [make("li", {}, t("no_refused"))]));
}

async function look() {
  clearTimeout(timer);
  if (!isOpen) return;
  try {
    const samples = parse(await (await ask("metrics")).text());
    $("gauges").replaceChildren(...figures(samples).map(gauge));
    drawRefused(samples);
    $("status-live").textContent = t("updated", { path: "/metrics" });
  } catch (error) {
    if (error.status === 404) {
      $("status-live").textContent = t("no_metrics");
      return;
    }
    fail(error, look);
    return;
  }
  timer = setTimeout(look, EVERY);
}

export function open(is) {
  isOpen = is;
  clearTimeout(timer);
  if (!is) return;
  before = null;
  drawModels();
  look();
}

export function startStatus() {
  on("language model", () => {
    if (!isOpen) return;
    drawModels();
    look();
  });
}
