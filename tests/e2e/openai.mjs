// What OpenAI's client for Node sends and reads; it asks for base64 by itself.
import OpenAI from "openai";

const [baseURL, texts] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const answer = await client.embeddings.create({ model: "demo", input: JSON.parse(texts) });
const models = [];
for await (const model of client.models.list()) {
  models.push(model.id);
}
let refused = null;
try {
  await client.embeddings.create({ model: "clip", input: "a" });
} catch (error) {
  refused = error.code;
}
console.log(JSON.stringify({ vectors: answer.data.map((row) => row.embedding), models, refused }));
