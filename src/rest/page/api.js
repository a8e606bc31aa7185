// Requests to the server, their failures and their times. Paths are relative to the page, so a prefix of a
// proxy in front of the server stays.

import { tell } from "./dom.js";

export const base = new URL("./", document.baseURI);
export const address = (path) => new URL(path, base).href;

/** The key is here alone: it is neither stored nor written into the code that can be copied. */
let key = "";
export const hasKey = () => key !== "";
export function useKey(value) {
  key = value;
}

/** The last request that was measured: its path, its stages and the whole time in this browser. */
export let trace = null;

/** A failure in the words of the server. */
export class Failure extends Error {
  constructor(status, { code = "", detail = "", field = "", errors = [], retry = null } = {}) {
    super(detail);
    Object.assign(this, { status, code, field, errors, retry });
  }
}

function failure(response, text) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy in front of the server answers in words of its own.
  }
  const error = body.error ?? body;
  const after = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new Failure(response.status, {
    code: error.code ?? "",
    detail: error.detail ?? error.message ?? "",
    field: error.field ?? error.param ?? "",
    errors: body.errors ?? error.errors ?? [],
    retry: Number.isFinite(after) ? after : null,
  });
}

/** The response to a request; a failure that the server names is thrown, and so is no response at all. */
export async function ask(path, { body, signal, headers = {}, measured = Boolean(body) } = {}) {
  const sent = new Headers(headers);
  if (key) sent.set("authorization", `Bearer ${key}`);
  const start = performance.now();
  let response;
  try {
    response = await fetch(address(path), { method: body ? "POST" : "GET", body, signal, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0);
  }
  if (!response.ok) throw failure(response, await response.text());
  if (measured) {
    const elapsed = () => performance.now() - start;
    trace = { path, stages: stages(response.headers.get("server-timing") ?? ""), whole: elapsed() };
    tell("traced");
  }
  return response;
}

/** `decode;dur=1.5, total;dur=2` as pairs of a name and milliseconds. */
function stages(header) {
  return header
    .split(",")
    .map((part) => /^\s*([\w-]+);dur=([\d.]+)/.exec(part))
    .filter(Boolean)
    .map(([, name, duration]) => [name, Number(duration)]);
}

/** A form of images and fields; a value that is a list is repeated. */
export function form(images, fields) {
  const body = new FormData();
  for (const image of images) body.append("image", image.file, image.name);
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined) continue;
    for (const one of Array.isArray(value) ? value : [value]) body.append(name, one);
  }
  return body;
}

/** Events of a stream: `[name, data]`. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value.replaceAll("\r", "");
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const block = held.slice(0, end);
      held = held.slice(end + 2);
      const read = (field) => new RegExp(`^${field}: ?(.*)$`, "m").exec(block)?.[1];
      const data = read("data");
      if (data) yield [read("event") ?? "message", JSON.parse(data)];
    }
  }
}
