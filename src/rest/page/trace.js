// The stages of the last request, in the times that the server gives.

import { trace } from "./api.js";
import { $, make, on } from "./dom.js";
import { milliseconds } from "./numbers.js";
import { t } from "./words.js";

const STAGES = ["fetch", "decode", "tokenize", "queue", "forward", "encode"];

function draw() {
  if (!trace) return;
  $("trace-empty").hidden = true;
  $("trace").hidden = false;
  const times = new Map(trace.stages);
  const total = times.get("total") ?? 0;
  const known = STAGES.map((name) => [name, times.get(name) ?? 0]).filter(([, value]) => value > 0);
  const sum = known.reduce((all, [, value]) => all + value, 0);
  // Stages of several items overlap, so their sum may be more than the whole.
  const other = Math.max(0, total - sum);
  const network = Math.max(0, trace.whole - Math.max(total, sum));
  const rows = [...known, ["other", other], ["network", network]];
  $("trace-line").textContent = t("trace_line", {
    path: `/${trace.path}`,
    whole: milliseconds(trace.whole),
    total: total ? milliseconds(total) : "–",
  });
  $("trace-bar").replaceChildren(...rows.map(([name, value]) => {
    const part = make("i", { class: `stage-${name}` });
    part.style.flex = `${value} 1 0`;
    return part;
  }));
  $("trace-list").replaceChildren(...rows.flatMap(([name, value]) => [
    make("dt", { class: `stage-${name}` }, t(`stage_${name}`)),
    make("dd", {}, milliseconds(value)),
  ]));
}

export function startTrace() {
  on("traced language", draw);
}
