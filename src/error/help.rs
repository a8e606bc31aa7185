//! The cause and the remedy of each code, for the page on errors.

use super::Code;

/// The cause and the remedy of a code, in plain sentences. Code is in backticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Help {
    /// The cause.
    pub cause: &'static str,
    /// What the client can do, or the operator.
    pub fix: &'static str,
}

impl Code {
    /// The cause and the remedy of the code.
    #[must_use]
    pub const fn help(self) -> Help {
        let (cause, fix) = match self {
            Self::InvalidRequest => (
                "The request does not match the API: a field is missing, misspelt, of a wrong type or out of range, \
                 the body is not JSON, base64 has an invalid character, or an image was sent in place of a text.",
                "Read the message: it names the field and, for a misspelt name, the name that was probably meant. \
                 The pages at `/docs` list every field. An image is sent as a data URI or in base64, never as a \
                 path.",
            ),
            Self::Unauthorized => (
                "The server needs an API key, and the request has none, or one that is not in the server's file of \
                 keys.",
                "Send the key as `Authorization: Bearer KEY`. Operators: the file is `auth.keys_file`. The server \
                 reads a changed file within a second. If it cannot read the file, the log says so.",
            ),
            Self::HostNotAllowed => (
                "The server does not accept the host name in the request's `Host` header. A server on a loopback \
                 address accepts only `localhost` and IP addresses, so that no web site can reach it through its \
                 own host name.",
                "Use `localhost` or the IP address. Operators: add the name with `--allowed-host NAME`.",
            ),
            Self::NotFound => (
                "There is no route with this path.",
                "Use the path that the message suggests. For OpenAI's clients the base URL ends in `/v1`, for most \
                 others it has no path. `docs/compatibility.md` lists what each client needs.",
            ),
            Self::ModelNotFound => (
                "The server has no model with the name in `model`. It does not use another model instead, because \
                 the vectors would be wrong and nobody would notice.",
                "Use one of the names in the message (`GET /v1/models`), or omit `model` for the default model. \
                 Operators: `--model-alias NAME=MODEL` adds another name for a model.",
            ),
            Self::MethodNotAllowed => (
                "The path exists, but not for this method: for example, a GET was sent in place of a POST.",
                "Use a method that the `allow` header lists. With many clients, a redirect from `http` to `https` \
                 turns a POST into a GET: use the final URL.",
            ),
            Self::PayloadTooLarge => (
                "The body, the response or the number of form parts exceeds a limit.",
                "Split the request, or use `POST /v1/bulk/embeddings`, which takes any number of rows. Operators: \
                 the message names the option, such as `limits.max_body_bytes`. `/info` lists all limits.",
            ),
            Self::TooManyItems => (
                "The request has more texts, images, labels or stored vectors than allowed.",
                "Split the request, or use `POST /v1/bulk/embeddings`. Operators: the message names the option, \
                 such as `limits.max_items`.",
            ),
            Self::TextTooLarge => (
                "A text has more bytes than allowed. No model reads more than a few hundred words, so such a text \
                 is often a file that was sent as a text.",
                "Send an image as an image. Split long documents into passages. Operators: `limits.max_text_bytes`.",
            ),
            Self::JsonTooDeep => (
                "Arrays and objects in the JSON are nested too deep.",
                "No request of the API needs this depth: look for a value that was encoded twice. Operators: \
                 `limits.max_json_depth`.",
            ),
            Self::ImageTooLarge => (
                "The file of an image, sent or fetched by URL, has more bytes than allowed.",
                "Resize the image before you send it: the model reads only a few hundred pixels in each direction. \
                 Operators: `limits.max_image_bytes`.",
            ),
            Self::TooManyPixels => (
                "An image has more pixels than allowed. This is known from its header, so the image was not \
                 decoded.",
                "Resize the image before you send it: the model reads only a few hundred pixels in each direction. \
                 Operators: `limits.max_image_pixels`.",
            ),
            Self::DecodeTooLarge => (
                "Decoding an image would need more memory than allowed for one image. This is known from its \
                 header.",
                "Save the image in a simpler form: 8 bits per channel and at most four channels, as PNG or JPEG. \
                 Operators: `limits.max_decode_bytes`.",
            ),
            Self::UnsupportedMediaType => (
                "The body does not match its content type, the route does not accept this content type, or the body \
                 is compressed.",
                "Send `application/json`, a form or an image's bytes, as the message says, without \
                 `Content-Encoding`. An empty body is often a file that was not found.",
            ),
            Self::UndecodableImage => (
                "The bytes are not an image of a supported format, or they are damaged or incomplete. If the type \
                 of the file is recognised, the message names it: for example a camera's raw file, an HTML page, or \
                 a Git LFS pointer.",
                "Convert the image to PNG, JPEG or WebP. Check the file that was sent: after a failed download, it \
                 is often an HTML page with the name of an image. `/info` lists the formats (`image_formats`).",
            ),
            Self::TextTooLong => (
                "A text has more tokens than the model reads, and the request does not allow truncation (`truncate: \
                 false`).",
                "Shorten the text, or use the default for `truncate`: the response then marks truncated texts.",
            ),
            Self::FetchForbidden => (
                "The image is a URL, and the server does not fetch images, or not from this URL: the address is \
                 private, the host is not allowed, or the scheme is not `https`.",
                "Download the image and send its bytes in base64. Operators: `--fetch` enables fetching, and the \
                 options of `[fetch]` set the allowed hosts and networks.",
            ),
            Self::Overloaded => (
                "The server has as much work as it accepts, or the API key has its maximum number of requests in \
                 flight. The request was not processed.",
                "Wait the number of seconds in `Retry-After` and send the request again. Send fewer requests at the \
                 same time. Operators: add replicas or processors. `siglip_queue_oldest_seconds` shows how long \
                 requests wait.",
            ),
            Self::FetchFailed => (
                "The host in an image's URL could not be found or reached, responded with an error, or was too \
                 slow.",
                "Check the URL from the server's network, and try again. Operators: `fetch.timeout`. The log has \
                 the cause.",
            ),
            Self::ShuttingDown => (
                "The server is shutting down: it finishes the requests that it accepted and accepts no new ones.",
                "Send the request again, to another replica if there are several. Operators: `listen.drain_delay` \
                 gives load balancers time to notice.",
            ),
            Self::NotReady => (
                "The model is still loading, is being loaded again after it was unloaded, or could not be loaded \
                 (then the message says why). Or a failed worker is being replaced.",
                "Try again after the time in `Retry-After`, or after a short time. Wait for `GET /health/ready` \
                 before the first request. Operators: if the error stays, the log has the reason.",
            ),
            Self::DeadlineExceeded => (
                "The response was not ready before the request's deadline: `limits.request_timeout`, or a shorter \
                 time that the request set (`x-request-timeout-ms`).",
                "Send fewer items per request instead of the same request again, or use `POST /v1/bulk/embeddings`, \
                 which has no deadline for the whole stream. `Server-Timing` shows which stage took the time.",
            ),
            Self::Internal => (
                "A defect of the server.",
                "Report it with the `request_id`: the log has the cause under this id. The same request will fail \
                 again.",
            ),
            Self::DeviceFailed => (
                "The processor or GPU that runs the model failed, for example because of too little memory.",
                "Try again. Operators: the log has the cause. A smaller `batch.max_image_rows` needs less memory. \
                 After several failures the server exits, so that it is restarted.",
            ),
        };
        Help { cause, fix }
    }
}
