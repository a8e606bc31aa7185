// What Cohere's client for Node sends and reads, in both versions of its API.
import { CohereClient, CohereClientV2, CohereError } from "cohere-ai";

const [address, texts, image] = process.argv.slice(2);
const options = { token: "unused", environment: address, maxRetries: 0 };
const [one, two] = [new CohereClient(options), new CohereClientV2(options)];
const asked = { model: "demo", texts: JSON.parse(texts), inputType: "search_document" };
const ranked = { model: "demo", query: "a cat", documents: JSON.parse(texts), topN: 2 };
const typed = await two.embed({ ...asked, embeddingTypes: ["float", "int8", "ubinary"] });
const images = await two.embed({
  model: "demo",
  images: [image],
  inputType: "image",
  embeddingTypes: ["float"],
});
let refused = null;
try {
  await two.embed({ ...asked, model: "clip", embeddingTypes: ["float"] });
} catch (error) {
  refused = error instanceof CohereError ? [error.statusCode, error.body.code] : String(error);
}
console.log(
  JSON.stringify({
    floats: (await one.embed(asked)).embeddings,
    typed: typed.embeddings,
    images: images.embeddings.float,
    ranks: [await one.rerank(ranked), await two.rerank(ranked)].map((answer) => answer.results),
    refused,
  }),
);
