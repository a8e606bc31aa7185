// The client against a server with the demo model (SIGLIP_URL), and against answers made up for it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { Client, ConnectionFailed, ServerError, TimedOut } from "../dist/index.js";

const URL = process.env.SIGLIP_URL ?? "http://127.0.0.1:8080";
const IMAGES = process.env.SIGLIP_IMAGES ?? "../../tests/fixtures/images";
const cat = await readFile(`${IMAGES}/cat.png`);
const car = await readFile(`${IMAGES}/car.png`);
const dot = (left, right) => left.reduce((sum, value, place) => sum + value * right[place], 0);
const near = (left, right) => assert.ok(Math.abs(left - right) < 1e-4, `${left} and ${right}`);

/** A client over responses that are given one after the other. */
function scripted(responses, options = {}) {
  const requests = [];
  const answer = (url, sent) => {
    requests.push([String(url), sent]);
    const next = responses.shift();
    return next instanceof Error ? Promise.reject(next) : Promise.resolve(next(sent));
  };
  return [new Client("http://test/prefix", { fetch: answer, ...options }), requests];
}
const json = (body, init) => () => new Response(JSON.stringify(body), init);

test("vectors agree with the server's own scores", async () => {
  const client = new Client(URL);
  const [text, image, other] = await client.embed(["a cat", cat, new Blob([car])]);
  near(dot(text, text), 1);
  const scores = await client.similarity([cat, car], ["a cat", "a car"]);
  assert.equal(scores.scoring, "sigmoid");
  near(scores.cosine[0][0], dot(image, text));
  near(scores.cosine[1][0], dot(other, text));
  assert.ok(scores.probability[0][0] > scores.probability[0][1]);
  const short = await client.embed(["a cat"], { dimensions: 8, normalized: false });
  assert.equal(short[0].length, 8);
});

test("labels come best first", async () => {
  const [labels] = await new Client(URL).classify([cat], ["a car", "a cat"], { templates: ["{label}"], topK: 1 });
  assert.deepEqual(labels.map(({ label, index }) => [label, index]), [["a cat", 1]]);
});

test("an item that fails costs its neighbours nothing", async () => {
  const client = new Client(URL, { batchItems: 2 });
  const rows = [];
  for await (const row of client.embedEach(["a", "b", "c", new TextEncoder().encode("words"), "e"])) rows.push(row);
  assert.deepEqual(rows.map(({ index }) => index), [0, 1, 2, 3, 4]);
  assert.deepEqual(rows.map((row) => "vector" in row), [true, true, true, false, true]);
  assert.deepEqual([rows[3].failure.code, rows[3].failure.index], ["undecodable_image", 3]);
});

test("failures are typed, and counted over all items", async () => {
  const client = new Client(URL, { batchItems: 2 });
  const failed = client.embed(["a", "b", "c", new TextEncoder().encode("words")]);
  await assert.rejects(failed, (error) => {
    assert.ok(error instanceof ServerError);
    assert.deepEqual([error.status, error.code, error.field], [422, "undecodable_image", "input[3]"]);
    assert.equal(error.items[0].index, 3);
    assert.ok(error.requestId);
    return true;
  });
  await assert.rejects(new Client(URL, { model: "none" }).embed(["a"]), { code: "model_not_found" });
  await assert.rejects(client.embed("a cat"), TypeError);
  await assert.rejects(client.similarity(["cat.png"], ["a"]), TypeError);
  assert.throws(() => new Client("127.0.0.1:8080"), TypeError);
});

test("models and readiness", async () => {
  const client = new Client(URL);
  assert.equal((await client.models())[0].name, "demo");
  assert.equal(await client.isReady(), true);
  assert.equal(await new Client("http://127.0.0.1:9", { maxRetries: 0 }).isReady(), false);
  await assert.rejects(new Client("http://127.0.0.1:9", { maxRetries: 1 }).models(), ConnectionFailed);
});

test("an image may have several vectors", async () => {
  const embedding = Buffer.from(new Float32Array([1, 2, 3, 4, 5, 6]).buffer).toString("base64");
  const [client, requests] = scripted([json({ data: [{ index: 0, embedding, shape: [3, 2] }] })]);
  const [vectors] = await client.embedMulti([cat], { dimensions: 2 });
  assert.deepEqual(vectors.map((one) => [...one]), [[1, 2], [3, 4], [5, 6]]);
  const body = JSON.parse(requests[0][1].body);
  assert.deepEqual([body.multi_vector, body.dimensions, body.on_error], [true, 2, undefined]);
  // The demo model has one vector for an image.
  await assert.rejects(new Client(URL).embedMulti([cat]), { status: 400, field: "multi_vector" });
});

test("a busy server is asked again after its time", async () => {
  const busy = json({ error: { code: "overloaded", message: "full" } }, { status: 429, headers: { "retry-after": "0.01" } });
  const [client, requests] = scripted([busy, busy, json({ models: [] })], { apiKey: "secret" });
  assert.deepEqual(await client.models(), []);
  assert.equal(requests.length, 3);
  assert.equal(requests[0][0], "http://test/prefix/info");
  assert.equal(requests[0][1].headers.authorization, "Bearer secret");
  const [other] = scripted([busy, busy], { maxRetries: 1 });
  await assert.rejects(other.models(), { status: 429, code: "overloaded" });
});

test("a proxy's own words, and a server that is silent", async () => {
  const [client] = scripted([() => new Response("<html>", { status: 404, statusText: "Not Found" })]);
  await assert.rejects(client.models(), { status: 404, code: "unknown" });
  const silent = (_, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const keep = setTimeout(() => {}, 10_000);
  await assert.rejects(new Client("http://test", { fetch: silent, timeout: 20 }).models(), TimedOut);
  clearTimeout(keep);
});

test("captions come piece by piece", async () => {
  const events = 'event: token\ndata: {"text":"a "}\n\nevent: token\ndata: {"text":"dog"}\n\nevent: done\ndata: {}\n\n';
  const cut = [events.slice(0, 30), events.slice(30)].map((part) => new TextEncoder().encode(part));
  const body = () => new ReadableStream({ start: (one) => (cut.forEach((part) => one.enqueue(part)), one.close()) });
  const [client] = scripted([() => new Response(body())]);
  const pieces = [];
  for await (const piece of client.captionPieces(cat)) pieces.push(piece);
  assert.deepEqual(pieces, ["a ", "dog"]);
  const [failing] = scripted([() => new Response('event: error\ndata: {"code":"device_failed","detail":"x"}\n\n')]);
  await assert.rejects(failing.captionPieces(cat).next(), { code: "device_failed" });
});
