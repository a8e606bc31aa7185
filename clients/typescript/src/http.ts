/** Requests that are tried again where that helps. */

import { ConnectionFailed, ServerError, TimedOut, errorOf } from "./errors.js";

/** Statuses that say nothing about the request itself. */
const RETRIED = new Set([429, 502, 503]);
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 10_000;

export interface HttpOptions {
  /** Sent as a bearer token. */
  apiKey?: string;
  /** Milliseconds that one try may take. */
  timeout?: number;
  /** How often a request is tried again. */
  maxRetries?: number;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export class Http {
  readonly #base: URL;
  readonly #options: Required<Omit<HttpOptions, "apiKey">> & { apiKey: string | undefined };

  constructor(baseUrl: string, options: HttpOptions) {
    if (!/^https?:\/\//.test(baseUrl)) {
      throw new TypeError(`baseUrl must begin with http:// or https://, such as http://127.0.0.1:8080, not ${baseUrl}`);
    }
    // A path stays, for servers behind a prefix.
    this.#base = new URL(baseUrl.endsWith("/") ? baseUrl : `${baseUrl}/`);
    this.#options = {
      apiKey: options.apiKey,
      timeout: options.timeout ?? 60_000,
      maxRetries: options.maxRetries ?? 5,
      fetch: options.fetch ?? fetch,
    };
  }

  /** The response to a POST of JSON, or to a GET; `start` counts the items of failures. */
  async send(path: string, body?: object, start = 0): Promise<Response> {
    for (let tries = 0; ; tries += 1) {
      const found = await this.#once(path, body);
      if (found instanceof Response && found.ok) return found;
      const isRetried = found instanceof Response ? RETRIED.has(found.status) : !(found instanceof TimedOut);
      if (!isRetried || tries >= this.#options.maxRetries) {
        throw found instanceof Response ? await errorOf(found, start) : found;
      }
      const after = found instanceof Response ? Number.parseFloat(found.headers.get("retry-after") ?? "") : Number.NaN;
      const backoff = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tries) * (0.5 + Math.random() / 2);
      if (found instanceof Response) await found.body?.cancel();
      await new Promise((done) => setTimeout(done, Number.isFinite(after) ? after * 1000 : backoff));
    }
  }

  async json<T>(path: string, body?: object, start = 0): Promise<T> {
    return (await (await this.send(path, body, start)).json()) as T;
  }

  async #once(path: string, body?: object): Promise<Response | ConnectionFailed> {
    const headers: Record<string, string> = {};
    if (body) headers["content-type"] = "application/json";
    if (this.#options.apiKey) headers["authorization"] = `Bearer ${this.#options.apiKey}`;
    const ends = AbortSignal.timeout(this.#options.timeout);
    const sent: RequestInit = { method: body ? "POST" : "GET", headers, signal: ends };
    if (body) sent.body = JSON.stringify(body);
    try {
      return await this.#options.fetch(new URL(path, this.#base), sent);
    } catch (error) {
      if (ends.aborted) return new TimedOut(`${this.#base} sent no response in time`, { cause: error });
      return new ConnectionFailed(`${this.#base} could not be reached`, { cause: error });
    }
  }
}

export { ServerError };
