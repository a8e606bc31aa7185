// What Ollama's client for Node sends and reads.
import { Ollama } from "ollama";

const [host, texts] = process.argv.slice(2);
const client = new Ollama({ host });
const many = await client.embed({ model: "demo", input: JSON.parse(texts), truncate: true, keep_alive: "5m" });
const one = await client.embeddings({ model: "demo:latest", prompt: JSON.parse(texts)[0] });
let refused = null;
try {
  await client.embed({ model: "clip", input: "a" });
} catch (error) {
  refused = [error.status_code, error.message];
}
const models = (await client.list()).models.map((model) => model.model);
console.log(JSON.stringify({ many: many.embeddings, one: one.embedding, models, refused }));
