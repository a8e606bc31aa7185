/** A typed client for siglip-server, on `fetch` alone: Node 20, Deno, Bun and browsers. */

import { type Failure, ServerError, failure } from "./errors.js";
import { Http, type HttpOptions } from "./http.js";

export { ConnectionFailed, type Failure, ServerError, SiglipError, TimedOut } from "./errors.js";

/** An encoded image (PNG, JPEG, ...): its bytes, or a file. */
export type Image = Uint8Array | ArrayBuffer | Blob;
/** A text, or an image. */
export type Item = string | Image;

export interface ClientOptions extends HttpOptions {
  /** The model's name; the server's default where it is absent. */
  model?: string;
  /** Most items of one request. */
  batchItems?: number;
}

export interface EmbedOptions {
  /** Keeps the first values alone. SigLIP is not trained for that: it costs accuracy. */
  dimensions?: number;
  /** Whether vectors have length 1; they do unless told otherwise. */
  normalized?: boolean;
  /** Whether a text that is too long is cut, which is the default, or refused. */
  truncate?: boolean;
  /** The resolution of images, where the model has a choice. */
  maxNumPatches?: number;
}

/** The outcome of one item: a vector, or why there is none. */
export type Row = { index: number; vector: Float32Array } | { index: number; failure: Failure };

/** Scores of every image (rows) against every text (columns). */
export interface Similarity {
  /** `sigmoid`, `softmax` or `matching`: what the probabilities are. */
  scoring: string;
  cosine: number[][];
  logit: number[][];
  probability: number[][];
}

export interface Label {
  label: string;
  index: number;
  probability: number;
  logit: number;
}

export interface Caption {
  text: string;
  token_ids: number[];
  finish_reason: "stop" | "length";
}

export interface CaptionOptions {
  prompt?: string;
  max_new_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  repetition_penalty?: number;
  seed?: number;
  num_beams?: number;
  length_penalty?: number;
  early_stopping?: boolean | "never";
}

export interface ModelInfo {
  name: string;
  revision: string | null;
  family: string;
  dimension: number;
  preprocessing_version: string;
  [field: string]: unknown;
}

interface EmbeddingRow {
  index: number;
  embedding?: string;
  /** With several vectors of an image: how many there are, and how many values each has. */
  shape?: [number, number];
  error?: object;
}

const BATCH_ITEMS = 16;

export class Client {
  readonly #http: Http;
  readonly #model: string | undefined;
  readonly #batchItems: number;

  constructor(baseUrl: string, options: ClientOptions = {}) {
    this.#http = new Http(baseUrl, options);
    this.#model = options.model;
    this.#batchItems = options.batchItems ?? BATCH_ITEMS;
  }

  /** The vectors of texts and images, mixed at will, in their order. Fails with the first item that fails. */
  async embed(items: readonly Item[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    if (!Array.isArray(items)) throw new TypeError("items are several; put a single one into an array");
    const found: Float32Array[] = [];
    for await (const row of this.#rows(items, options, "fail")) {
      if ("vector" in row) found.push(row.vector);
    }
    return found;
  }

  /** The vectors of each image, for a model that has several for an image (BLIP-2). */
  async embedMulti(
    images: readonly Image[],
    options: Pick<EmbedOptions, "dimensions" | "normalized"> = {},
  ): Promise<Float32Array[][]> {
    if (!Array.isArray(images)) throw new TypeError("images are several; put a single one into an array");
    const found: Float32Array[][] = [];
    for (let start = 0; start < images.length; start += this.#batchItems) {
      const input = await Promise.all(
        images.slice(start, start + this.#batchItems).map(async (image) => ({ image: await base64(image) })),
      );
      for (const row of await this.#ask(input, start, options, { multi_vector: true })) {
        const values = vector(row.embedding ?? "");
        const dimension = row.shape?.[1] ?? values.length;
        const count = row.shape?.[0] ?? 1;
        found.push(Array.from({ length: count }, (_, at) => values.slice(at * dimension, (at + 1) * dimension)));
      }
    }
    return found;
  }

  /** The outcome of each of any number of items as it comes, in their order. No item's failure ends it. */
  embedEach(items: Iterable<Item> | AsyncIterable<Item>, options: EmbedOptions = {}): AsyncGenerator<Row> {
    return this.#rows(items, options, "item");
  }

  async *#rows(
    items: Iterable<Item> | AsyncIterable<Item>,
    options: EmbedOptions,
    onError: "fail" | "item",
  ): AsyncGenerator<Row> {
    let start = 0;
    let batch: object[] = [];
    for await (const item of items) {
      batch.push(await sent(item));
      if (batch.length < this.#batchItems) continue;
      yield* await this.#batch(batch, start, options, onError);
      start += batch.length;
      batch = [];
    }
    if (batch.length) yield* await this.#batch(batch, start, options, onError);
  }

  /** The rows of a response, in the order of the items. */
  async #ask(input: object[], start: number, options: EmbedOptions, more: object): Promise<EmbeddingRow[]> {
    const body = this.#body({
      input,
      encoding_format: "base64",
      ...more,
      dimensions: options.dimensions,
      normalized: options.normalized,
      truncate: options.truncate,
      max_num_patches: options.maxNumPatches,
    });
    return (await this.#http.json<{ data: EmbeddingRow[] }>("v1/embeddings", body, start)).data;
  }

  async #batch(input: object[], start: number, options: EmbedOptions, onError: string): Promise<Row[]> {
    const rows = await this.#ask(input, start, options, { on_error: onError });
    return rows.map((row) => {
      const index = start + row.index;
      if (row.embedding !== undefined) return { index, vector: vector(row.embedding) };
      return { index, failure: { ...failure(row.error ?? {}, start), index } };
    });
  }

  /** Scores every image against every text. */
  async similarity(images: readonly Image[], texts: readonly string[]): Promise<Similarity> {
    return this.#http.json("v1/similarity", this.#body({ images: await Promise.all(images.map(base64)), texts }));
  }

  /** Judges every label for every image, best first. */
  async classify(
    images: readonly Image[],
    labels: readonly string[],
    options: { templates?: readonly string[]; topK?: number } = {},
  ): Promise<Label[][]> {
    const body = { images: await Promise.all(images.map(base64)), labels, templates: options.templates, top_k: options.topK };
    return (await this.#http.json<{ results: Label[][] }>("v1/classify", this.#body(body))).results;
  }

  /** What the model writes about each image, where it writes captions (BLIP). */
  async captions(images: readonly Image[], options: CaptionOptions = {}): Promise<Caption[]> {
    const body = this.#body({ images: await Promise.all(images.map(base64)), ...options });
    return (await this.#http.json<{ captions: Caption[] }>("v1/captions", body)).captions;
  }

  /** A caption piece by piece, as it is written. */
  async *captionPieces(image: Image, options: CaptionOptions = {}): AsyncGenerator<string> {
    const body = this.#body({ images: [await base64(image)], stream: true, ...options });
    const response = await this.#http.send("v1/captions", body);
    let held = "";
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) {
      held += decoder.decode(chunk, { stream: true });
      const blocks = held.split("\n\n");
      held = blocks.pop() ?? "";
      for (const block of blocks) {
        const name = /^event: ?(.*)$/m.exec(block)?.[1];
        const data: unknown = JSON.parse(/^data: ?(.*)$/m.exec(block)?.[1] ?? "{}");
        if (name === "token") yield (data as { text: string }).text;
        if (name === "error") throw new ServerError(response.status, failure(data as object));
        if (name === "done") return;
      }
    }
  }

  /** The models that are loaded, the default first. */
  async models(): Promise<ModelInfo[]> {
    return (await this.#http.json<{ models: ModelInfo[] }>("info")).models;
  }

  /** Whether the server wants traffic; false where it cannot be reached. */
  async isReady(): Promise<boolean> {
    try {
      return (await this.#http.send("health/ready")).ok;
    } catch {
      return false;
    }
  }

  /** The body of a request: what is undefined is left to the server. */
  #body(fields: object): object {
    return { model: this.#model, ...fields };
  }
}

async function sent(item: Item): Promise<object> {
  return typeof item === "string" ? { text: item } : { image: await base64(item) };
}

async function base64(image: Image): Promise<string> {
  if (typeof image === "string") throw new TypeError("an image is bytes or a Blob; read the file first");
  const bytes = image instanceof Blob ? new Uint8Array(await image.arrayBuffer()) : new Uint8Array(image);
  let binary = "";
  // Arguments of a call are bounded, so not all bytes at once.
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** The values of an embedding, which come as little-endian 32-bit floats. */
function vector(text: string): Float32Array {
  const binary = atob(text);
  const view = new DataView(new ArrayBuffer(binary.length));
  for (let at = 0; at < binary.length; at += 1) view.setUint8(at, binary.charCodeAt(at));
  return Float32Array.from({ length: binary.length / 4 }, (_, place) => view.getFloat32(4 * place, true));
}
