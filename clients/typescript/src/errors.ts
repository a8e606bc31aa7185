/** What can go wrong, in the caller's terms. */

/** One item that failed. */
export interface Failure {
  /** The server's machine-readable name, such as `undecodable_image`. */
  code: string;
  message: string;
  /** The part of the request at fault, counted over all items of the call, such as `input[3]`. */
  field: string | undefined;
  /** The item's place among all items of the call, where it is one item that failed. */
  index: number | undefined;
}

/** Any failure of a call that reached for the server. */
export class SiglipError extends Error {}

/** The server could not be reached, or the connection broke. */
export class ConnectionFailed extends SiglipError {}

/** The server sent no response within the client's `timeout`. */
export class TimedOut extends ConnectionFailed {}

/** The server refused a request, or failed to answer it. */
export class ServerError extends SiglipError {
  readonly status: number;
  readonly code: string;
  readonly field: string | undefined;
  /** Every item that failed, where there were several. */
  readonly items: Failure[];
  /** The id to look for in the server's log. */
  readonly requestId: string | undefined;

  constructor(status: number, failure: Failure, items: Failure[] = [], requestId?: string) {
    super(`${status} ${failure.code}: ${failure.field ? `${failure.field}: ` : ""}${failure.message}`);
    this.status = status;
    this.code = failure.code;
    this.field = failure.field;
    this.items = items;
    this.requestId = requestId;
  }
}

interface Body {
  code?: string;
  detail?: string;
  message?: string;
  field?: string | null;
  param?: string | null;
  errors?: Body[];
  error?: Body | string;
}

/** A failure as the server writes it; `start` is the place of the request's first item in the call. */
export function failure(body: Body, start = 0, otherwise = ""): Failure {
  const field = body.field ?? body.param ?? undefined;
  const found = /^(input|images)\[(\d+)\](.*)$/.exec(field ?? "");
  const index = found ? start + Number(found[2]) : undefined;
  return {
    code: body.code ?? "unknown",
    message: body.detail ?? body.message ?? otherwise,
    field: found ? `${found[1]}[${index}]${found[3]}` : field,
    index,
  };
}

/** The error of a response that is a failure: a problem document, OpenAI's envelope, or a proxy's own words. */
export async function errorOf(response: Response, start = 0): Promise<ServerError> {
  let body: Body = {};
  try {
    const read: unknown = await response.json();
    if (typeof read === "object" && read !== null) body = read;
  } catch {
    // No JSON: the status has to do.
  }
  const inner = typeof body.error === "object" ? body.error : body;
  const items = (inner.errors ?? []).map((one) => failure(one, start));
  const id = response.headers.get("x-request-id") ?? undefined;
  return new ServerError(response.status, failure(inner, start, response.statusText), items, id);
}
