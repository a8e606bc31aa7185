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
                "The request contradicts the API: a field is missing, misspelt, of a wrong type or out of range, the \
                 body is not JSON, base64 has a wrong character, or an image stands where a text is wanted.",
                "Read the message: it names the field and, for a misspelt name, the one that was probably meant. The \
                 pages at `/docs` list every field. An image is sent as a data URI or in base64, never as a path.",
            ),
            Self::Unauthorized => (
                "The server asks for API keys, and the request has none, or one that is not in its file of keys.",
                "Send the key as `Authorization: Bearer KEY`. Operators: the file is `auth.keys_file`; a change is \
                 read within a second, and the log says where a file could not be read.",
            ),
            Self::HostNotAllowed => (
                "The request's `Host` is a name under which the server does not answer. A server on a loopback address \
                 takes `localhost` and addresses alone, so that no web site can reach it through a name of its own.",
                "Use `localhost` or the address. Operators: add the name with `--allowed-host NAME`.",
            ),
            Self::NotFound => (
                "There is no route with this path.",
                "Take the path that the message suggests. A base URL ends in `/v1` for OpenAI's clients, and in nothing \
                 for most others; `docs/compatibility.md` lists what each client needs.",
            ),
            Self::ModelNotFound => (
                "The `model` of the request is not served here. Another model's vectors would be wrong without a sign \
                 of it, so none are given.",
                "Take one of the names in the message (`GET /v1/models`), or leave `model` away for the default. \
                 Operators: `--model-alias NAME=MODEL` serves a model under a further name.",
            ),
            Self::MethodNotAllowed => (
                "The path exists, but not for this method: a POST was sent as a GET, or the other way round.",
                "Take a method that the `allow` header lists. A redirect from `http` to `https` turns a POST into a \
                 GET with many clients: use the final URL.",
            ),
            Self::PayloadTooLarge => (
                "The body, the answer or the parts of a form are more than the server takes at once.",
                "Split the request, or use `POST /v1/bulk/embeddings`, which takes rows without an end. Operators: the \
                 message names the option, such as `limits.max_body_bytes`; `/info` lists all limits.",
            ),
            Self::TooManyItems => (
                "The request has more texts, images, labels or stored vectors than one request may have.",
                "Split the request, or use `POST /v1/bulk/embeddings`. Operators: the message names the option, such as \
                 `limits.max_items`.",
            ),
            Self::TextTooLarge => (
                "A text has more bytes than the server reads. No model here reads more than a few hundred words, so such \
                 a text is often a file that was sent as a text.",
                "Send an image as an image. Split long documents into passages. Operators: `limits.max_text_bytes`.",
            ),
            Self::JsonTooDeep => (
                "Arrays and objects of the JSON stand in each other deeper than the server reads.",
                "No request of the API needs it: look for a value that was encoded twice. Operators: \
                 `limits.max_json_depth`.",
            ),
            Self::ImageTooLarge => (
                "An image's file, or what is behind its URL, has more bytes than the server reads.",
                "Resize the image before it is sent: the model reads a few hundred pixels a side. Operators: \
                 `limits.max_image_bytes`.",
            ),
            Self::TooManyPixels => (
                "An image has more pixels than the server decodes. Its header says so, and nothing was decoded.",
                "Resize the image before it is sent: the model reads a few hundred pixels a side. Operators: \
                 `limits.max_image_pixels`.",
            ),
            Self::DecodeTooLarge => (
                "Decoding an image would take more memory than the server gives to one. Its header says so.",
                "Save the image in a plainer form: 8 bits a channel, no more than four channels, as PNG or JPEG. \
                 Operators: `limits.max_decode_bytes`.",
            ),
            Self::UnsupportedMediaType => (
                "The body is neither what its content type says nor anything that this route reads, or it is compressed.",
                "Send `application/json`, a form or an image's bytes, as the message lists, without \
                 `Content-Encoding`. An empty body is often a file that was not found.",
            ),
            Self::UndecodableImage => (
                "The bytes are no image of a supported format, or they are damaged or cut short. The message names what \
                 they are where they are recognised: a camera's raw file, a page of HTML, a Git LFS pointer.",
                "Convert the image to PNG, JPEG or WebP. Look at what was sent: a download that failed is often a page \
                 of HTML under the name of an image. `/info` lists the formats (`image_formats`).",
            ),
            Self::TextTooLong => (
                "A text has more tokens than the model reads, and the request forbids cutting it (`truncate: false`).",
                "Shorten the text, or leave `truncate` at its default: the response then marks texts that were cut.",
            ),
            Self::FetchForbidden => (
                "The image is a URL, and the server fetches none, or none from there: the address is private, the host \
                 is not allowed, or the scheme is not `https`.",
                "Download the image and send its bytes in base64. Operators: `--fetch` switches fetching on, the options \
                 of `[fetch]` say from where.",
            ),
            Self::Overloaded => (
                "The server has as much work as it takes, or the API key has as many requests in flight as it may have. \
                 Nothing of the request was done.",
                "Wait as many seconds as `Retry-After` says and send it again; send less at once. Operators: more \
                 replicas or processors; `siglip_queue_oldest_seconds` tells how far behind the server is.",
            ),
            Self::FetchFailed => (
                "The host behind an image's URL could not be found or reached, answered with an error, or was too slow.",
                "Check the URL from the server's network, and try again. Operators: `fetch.timeout`; the log has the \
                 cause.",
            ),
            Self::ShuttingDown => (
                "The server was told to stop: it finishes what it accepted and takes nothing new.",
                "Send the request again, to another replica where there are several. Operators: `listen.drain_delay` \
                 gives load balancers the time to notice.",
            ),
            Self::NotReady => (
                "The model is still loading, comes back after it was unloaded, or could not be loaded (the message says \
                 why); or a worker that broke is being replaced.",
                "Try again after `Retry-After`, or in a moment. Wait for `GET /health/ready` before the first request. \
                 Operators: if it stays so, the log says what the load or the worker failed at.",
            ),
            Self::DeadlineExceeded => (
                "The answer was not there when the request's deadline passed: `limits.request_timeout`, or less where \
                 the request asked for less (`x-request-timeout-ms`).",
                "Send fewer items a request rather than the same again, or use `POST /v1/bulk/embeddings`, which has no \
                 deadline for the whole. `Server-Timing` says which stage took the time.",
            ),
            Self::Internal => (
                "A defect of the server.",
                "Report it with the `request_id`: the log has the cause under that id. Sending the same again gives the \
                 same answer.",
            ),
            Self::DeviceFailed => (
                "The processor or GPU that runs the model failed, by lack of memory for example.",
                "Try again. Operators: the log has the cause; a smaller `batch.max_image_rows` needs less memory. After \
                 several failures the server exits, so that it is started anew.",
            ),
        };
        Help { cause, fix }
    }
}
