// The request of the view that is open, as code that can be pasted. A key stands there as a variable only.

import { base, hasKey } from "./api.js";
import { options } from "./captions.js";
import { $, on } from "./dom.js";
import { images, selected } from "./images.js";
import { model, patches, readsTexts } from "./models.js";
import { texts } from "./pairs.js";
import { query } from "./search.js";
import { t } from "./words.js";

const MOST_NAMED = 3;

/** `{path, files, fields}` of the open view; fields are pairs, so that one can be repeated. */
function request(view) {
  const names = images.filter((image) => !image.failed).map(({ name }) => name);
  const first = selected() ? [selected().name] : [];
  const fields = [["model", model.name]];
  if (patches()) fields.push(["max_num_patches", patches()]);
  if (view === "captions") {
    const { prompt, max_new_tokens: most } = options();
    if (prompt) fields.push(["prompt", prompt]);
    return { path: "v1/captions", files: names.slice(0, MOST_NAMED), fields: [...fields, ["max_new_tokens", String(most)]] };
  }
  if (view === "search" || !readsTexts()) {
    if (query() && readsTexts()) fields.push(["text", query()]);
    return { path: "v1/embeddings", files: names.slice(0, MOST_NAMED), fields };
  }
  const files = view === "matrix" ? names.slice(0, MOST_NAMED) : first;
  return { path: "v1/similarity", files, fields: [...fields, ...texts().map((text) => ["text", text])] };
}

const shell = (text) => (/^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quoted = (text) => JSON.stringify(text);

function curl({ path, files, fields }) {
  const parts = [`curl -s ${shell(base.href + path)}`];
  if (hasKey()) parts.push('-H "authorization: Bearer $API_KEY"');
  for (const name of files) parts.push(`-F ${shell(/[,;"]/.test(name) ? `image=@"${name.replaceAll('"', '\\"')}"` : `image=@${name}`)}`);
  for (const [name, value] of fields) parts.push(`--form-string ${shell(`${name}=${value}`)}`);
  return parts.join(" \\\n  ");
}

function python({ path, files, fields }) {
  const names = [...new Set(fields.map(([name]) => name))];
  const valueOf = (name) => {
    const values = fields.filter(([one]) => one === name).map(([, value]) => quoted(value));
    return values.length > 1 || name === "text" ? `[${values.join(", ")}]` : values[0];
  };
  const key = hasKey() ? ['headers = {"authorization": f"Bearer {os.environ[\'API_KEY\']}"}'] : [];
  return [
    ...(hasKey() ? ["import os"] : []),
    "import httpx  # pip install httpx",
    "",
    ...key,
    `files = [("image", open(name, "rb")) for name in [${files.map(quoted).join(", ")}]]`,
    "data = {",
    ...names.map((name) => `    ${quoted(name)}: ${valueOf(name)},`),
    "}",
    `response = httpx.post(${quoted(base.href + path)}, files=files, data=data, timeout=60${hasKey() ? ", headers=headers" : ""})`,
    "response.raise_for_status()",
    "print(response.json())",
  ].join("\n");
}

function javascript({ path, files, fields }) {
  return [
    'import { readFile } from "node:fs/promises";',
    "",
    "const body = new FormData();",
    `for (const name of [${files.map(quoted).join(", ")}]) {`,
    '  body.append("image", new Blob([await readFile(name)]), name);',
    "}",
    ...fields.map(([name, value]) => `body.append(${quoted(name)}, ${quoted(value)});`),
    ...(hasKey() ? ["const headers = { authorization: `Bearer ${process.env.API_KEY}` };"] : []),
    `const response = await fetch(${quoted(base.href + path)}, { method: "POST", body${hasKey() ? ", headers" : ""} });`,
    "if (!response.ok) throw new Error(await response.text());",
    "console.log(await response.json());",
  ].join("\n");
}

const writers = { curl, python, javascript };

/** The open view, as its tab names it. */
const view = () => document.querySelector('[role="tab"][aria-selected="true"]').id.replace("tab-", "");

function draw() {
  $("copy-live").textContent = "";
  const open = view();
  const nothing = !model || !images.length;
  $("copy").disabled = nothing;
  $("code").textContent = nothing ? t("code_none") : writers[$("code-language").value](request(open === "status" ? "labels" : open));
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copy-live").textContent = t("copied");
  } catch {
    $("copy-live").textContent = t("copy_failed");
  }
}

export function startCode() {
  on("model images selection texts language view traced", draw);
  $("code-language").addEventListener("change", draw);
  $("copy").addEventListener("click", copy);
}
