//! One error type, and one table that every surface reads.
//!
//! A [`Code`] fixes the slug, the HTTP and gRPC status, whether a retry can help and the title. Problem
//! documents, `tonic::Status`, metric labels, the OpenAPI responses and the docs are all drawn from
//! [`Code::spec`], so they cannot disagree.

mod help;
mod logged;
pub mod text;

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::StatusCode;

pub use self::help::Help;

/// Why a request failed, in the terms of the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The request contradicts the API: a wrong type, a missing field, a value out of range.
    InvalidRequest,
    /// The request has no key, or an unknown one.
    Unauthorized,
    /// The request has a `Host` that the server does not accept.
    HostNotAllowed,
    /// There is no such route.
    NotFound,
    /// The named `model` is not served.
    ModelNotFound,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// The body has too many bytes, or the request or its response holds more than the server can ever hold.
    PayloadTooLarge,
    /// The request has more items than allowed.
    TooManyItems,
    /// A text has more bytes than allowed.
    TextTooLarge,
    /// JSON is nested deeper than allowed.
    JsonTooDeep,
    /// An image has more bytes than allowed.
    ImageTooLarge,
    /// An image has more pixels than allowed, by its header.
    TooManyPixels,
    /// Decoding an image would take more memory than allowed, by its header.
    DecodeTooLarge,
    /// The route does not read this kind of body.
    UnsupportedMediaType,
    /// The bytes are not an image in a supported format, or are damaged.
    UndecodableImage,
    /// A text is longer than the model reads, and truncation was switched off.
    TextTooLong,
    /// The URL may not be fetched.
    FetchForbidden,
    /// The queues are full.
    Overloaded,
    /// The URL could not be fetched.
    FetchFailed,
    /// The server is draining.
    ShuttingDown,
    /// The model is still loading, or its worker is gone.
    NotReady,
    /// The deadline passed before the response was ready.
    DeadlineExceeded,
    /// A defect of the server.
    Internal,
    /// The device that runs the model failed.
    DeviceFailed,
}

/// The meaning of a [`Code`] on each surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Machine-readable name, stable: the problem's `code`, a metric label.
    pub slug: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC status number (`google.rpc.Code`).
    pub grpc: i32,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Short human-readable summary, the same for every occurrence.
    pub title: &'static str,
}

/// gRPC status numbers, so that this layer needs no gRPC library.
mod grpc {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// The common parts of all limits on size.
const fn too_large(
    slug: &'static str,
    title: &'static str,
) -> (&'static str, StatusCode, i32, bool, &'static str) {
    (slug, StatusCode::PAYLOAD_TOO_LARGE, grpc::RESOURCE_EXHAUSTED, false, title)
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 24] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::HostNotAllowed,
        Self::NotFound,
        Self::ModelNotFound,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::TooManyItems,
        Self::TextTooLarge,
        Self::JsonTooDeep,
        Self::ImageTooLarge,
        Self::TooManyPixels,
        Self::DecodeTooLarge,
        Self::UnsupportedMediaType,
        Self::UndecodableImage,
        Self::TextTooLong,
        Self::FetchForbidden,
        Self::Overloaded,
        Self::FetchFailed,
        Self::ShuttingDown,
        Self::NotReady,
        Self::DeadlineExceeded,
        Self::Internal,
        Self::DeviceFailed,
    ];

    /// The row of the table for this code.
    #[must_use]
    pub const fn spec(self) -> Spec {
        use StatusCode as S;
        let (slug, status, grpc, retryable, title) = match self {
            Self::InvalidRequest => (
                "invalid_request",
                S::BAD_REQUEST,
                grpc::INVALID_ARGUMENT,
                false,
                "Invalid request",
            ),
            Self::Unauthorized => {
                ("unauthorized", S::UNAUTHORIZED, grpc::UNAUTHENTICATED, false, "Unauthorized")
            }
            Self::HostNotAllowed => (
                "host_not_allowed",
                S::MISDIRECTED_REQUEST,
                grpc::INVALID_ARGUMENT,
                false,
                "Host name not allowed",
            ),
            Self::NotFound => ("not_found", S::NOT_FOUND, grpc::NOT_FOUND, false, "Not found"),
            Self::ModelNotFound => {
                ("model_not_found", S::NOT_FOUND, grpc::NOT_FOUND, false, "Model not found")
            }
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                grpc::UNIMPLEMENTED,
                false,
                "Method not allowed",
            ),
            Self::PayloadTooLarge => too_large("payload_too_large", "Payload too large"),
            Self::TooManyItems => too_large("too_many_items", "Too many items"),
            Self::TextTooLarge => too_large("text_too_large", "Text too large"),
            Self::JsonTooDeep => {
                ("json_too_deep", S::BAD_REQUEST, grpc::INVALID_ARGUMENT, false, "JSON too deep")
            }
            Self::ImageTooLarge => too_large("image_too_large", "Image too large"),
            Self::TooManyPixels => too_large("too_many_pixels", "Too many pixels"),
            Self::DecodeTooLarge => too_large("decode_too_large", "Decoded image too large"),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                grpc::INVALID_ARGUMENT,
                false,
                "Unsupported media type",
            ),
            Self::UndecodableImage => (
                "undecodable_image",
                S::UNPROCESSABLE_ENTITY,
                grpc::INVALID_ARGUMENT,
                false,
                "Undecodable image",
            ),
            Self::TextTooLong => (
                "text_too_long",
                S::UNPROCESSABLE_ENTITY,
                grpc::INVALID_ARGUMENT,
                false,
                "Text too long",
            ),
            Self::FetchForbidden => (
                "fetch_forbidden",
                S::UNPROCESSABLE_ENTITY,
                grpc::INVALID_ARGUMENT,
                false,
                "Fetching this URL is forbidden",
            ),
            Self::Overloaded => {
                ("overloaded", S::TOO_MANY_REQUESTS, grpc::RESOURCE_EXHAUSTED, true, "Overloaded")
            }
            Self::FetchFailed => {
                ("fetch_failed", S::BAD_GATEWAY, grpc::UNAVAILABLE, true, "Fetch failed")
            }
            Self::ShuttingDown => {
                ("shutting_down", S::SERVICE_UNAVAILABLE, grpc::UNAVAILABLE, true, "Shutting down")
            }
            Self::NotReady => {
                ("not_ready", S::SERVICE_UNAVAILABLE, grpc::UNAVAILABLE, true, "Not ready")
            }
            Self::DeadlineExceeded => (
                "deadline_exceeded",
                S::GATEWAY_TIMEOUT,
                grpc::DEADLINE_EXCEEDED,
                true,
                "Deadline exceeded",
            ),
            Self::Internal => {
                ("internal", S::INTERNAL_SERVER_ERROR, grpc::INTERNAL, false, "Internal error")
            }
            Self::DeviceFailed => {
                ("device_failed", S::INTERNAL_SERVER_ERROR, grpc::INTERNAL, true, "Device failed")
            }
        };
        Spec { slug, status, grpc, retryable, title }
    }

    /// The machine-readable name.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        self.spec().slug
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

/// Maximum number of bytes of a message. A request may contain a name of tens of megabytes, and its error would
/// be logged and sent for every such request.
const MAX_MESSAGE_BYTES: usize = 2 << 10;
/// Maximum number of bytes of a field's path, which may contain a key of the request.
const MAX_FIELD_BYTES: usize = 256;

/// Cuts a text that is too long, after a whole character.
fn shortened(text: Cow<'static, str>, bytes: usize) -> Cow<'static, str> {
    if text.len() <= bytes {
        return text;
    }
    format!("{}...", &text[..text.floor_char_boundary(bytes)]).into()
}

/// A failure as the client will see it.
///
/// The message is for the client; `source` is for the log and is never sent. An error is cheap to clone,
/// because several requests may wait for one failed computation.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    items: Option<Arc<[Error]>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a message in lower case, without a full stop.
    ///
    /// The message is cut to `MAX_MESSAGE_BYTES`, because it may quote the request.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: shortened(message.into(), MAX_MESSAGE_BYTES),
            field: None,
            retry_after: None,
            items: None,
            source: None,
        }
    }

    /// [`Code::InvalidRequest`] at a field, named as a path into the request (`input[3].image`).
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(Code::InvalidRequest, message).with_field(field)
    }

    /// [`Code::Internal`]: the caller sees a fixed text, the log sees `source`.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "the server failed to answer; the cause is in its log")
            .with_source(source)
    }

    /// Names the part of the request that is at fault, replacing any earlier name.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(shortened(field.into(), MAX_FIELD_BYTES));
        self
    }

    /// Renames the part of the request at fault, here and in every item, because surfaces have different names
    /// for the same item.
    #[must_use]
    pub fn map_field(mut self, rename: impl Fn(&str) -> String) -> Self {
        let renamed = |field: Option<Cow<'static, str>>| field.map(|field| rename(&field).into());
        self.items = self.items.map(|items| {
            let items = items.iter().cloned();
            items.map(|item| Self { field: renamed(item.field), ..item }).collect()
        });
        self.field = renamed(self.field);
        self
    }

    /// Sets the time after which a retry can help.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Keeps the cause, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Combines the failures of several items into one error. The first one gives code, message and field, and
    /// [`Error::items`] lists all of them. It returns `None` for an empty list.
    #[must_use]
    pub fn of_items(errors: Vec<Self>) -> Option<Self> {
        let mut first = errors.first()?.clone();
        first.items = Some(errors.into());
        Some(first)
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The part of the request at fault, as a path.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The time after which a retry can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The failures of the single items, if the request had several.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        self.items.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests;
