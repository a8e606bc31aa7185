//! Why a checkpoint could not be had.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::StatusCode;

use crate::checkpoint::content::ReadError;

/// Why a checkpoint could not be obtained. No message contains the token or a signed address.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// An environment variable has an invalid value.
    #[error("{variable} is not {expected}")]
    Setting {
        /// The variable's name. The value is not shown, because it may be a secret.
        variable: &'static str,
        /// The expected kind of value.
        expected: &'static str,
    },
    /// The place of the cache is not known.
    #[error("there is no home directory; say with HF_HOME or HF_HUB_CACHE where downloads go")]
    NoCache,
    /// The HTTPS client could not be created.
    #[error("cannot prepare the HTTPS client")]
    Client(#[source] reqwest::Error),
    /// The revision is not the name of a branch, a tag or a commit.
    #[error("`{0}` is not a revision: a branch, a tag or a commit")]
    Revision(String),
    /// The cache lacks the model, and asking the hub is forbidden.
    #[error(
        "`{id}` at `{revision}` is not in the cache ({}){}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids \
         to ask the hub",
        cache.display(),
        lacks.as_deref().map(|lacks| format!(" as a whole ({lacks})")).unwrap_or_default()
    )]
    Offline {
        /// The model's id.
        id: String,
        /// The requested revision.
        revision: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cached files lack.
        lacks: Option<String>,
    },
    /// 401 or 404 for the model itself: the hub does not tell absent from private.
    #[error(
        "the hub has no model `{id}`, or it is private and {}",
        if *token { "the token may not read it" } else { "no token is set (HF_TOKEN)" }
    )]
    UnknownModel {
        /// The model's id.
        id: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// 401 or 403 for files whose terms must be accepted.
    #[error(
        "`{id}` is gated: accept its terms on its page at {endpoint}{id}, and {}",
        if *token { "use a token of that account" } else { "set a token of that account (HF_TOKEN)" }
    )]
    Gated {
        /// The model's id.
        id: String,
        /// The hub's address.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// 401 or 403 for another reason: the token is wrong, or may not read the model.
    #[error(
        "the hub refuses `{id}` ({status}): {}",
        if *token { "the token is not valid, or may not read it" } else { "no token is set (HF_TOKEN)" }
    )]
    Refused {
        /// The model's id.
        id: String,
        /// The status, 401 or 403.
        status: StatusCode,
        /// Whether a token was sent.
        token: bool,
    },
    /// The model has no such branch, tag or commit.
    #[error("`{id}` has no revision `{revision}`")]
    UnknownRevision {
        /// The model's id.
        id: String,
        /// The requested revision.
        revision: String,
    },
    /// A listed file does not exist.
    #[error("`{id}` lists `{file}`, but does not have it")]
    UnknownFile {
        /// The model's id.
        id: String,
        /// The file's name.
        file: String,
    },
    /// The weights exist only as a pickle.
    #[error(
        "`{id}` has its weights only as `{file}`, which is not read, because a pickle can run code; \
         convert it to safetensors"
    )]
    Pickle {
        /// The model's id.
        id: String,
        /// The pickle's name.
        file: String,
    },
    /// The model is not a checkpoint that the server reads.
    #[error("`{id}` is no checkpoint that can be served: {lacks}")]
    Incomplete {
        /// The model's id.
        id: String,
        /// What it lacks.
        lacks: String,
    },
    /// The file differs from the one that was listed.
    #[error("`{file}` changed during the download: {what} is `{found}`, not `{expected}`")]
    Changed {
        /// The file's name.
        file: String,
        /// The property that differs.
        what: &'static str,
        /// The listed value.
        expected: String,
        /// The value of the response.
        found: String,
    },
    /// The connection ended early too many times.
    #[error(
        "the download of `{file}` ended after {got} of {expected} bytes; the next try continues there"
    )]
    Truncated {
        /// The file's name.
        file: String,
        /// Bytes that were received.
        got: u64,
        /// Bytes of the whole file.
        expected: u64,
        /// The error of the last connection, if it broke.
        source: Option<reqwest::Error>,
    },
    /// The bytes do not have the hash that the hub lists.
    #[error("`{file}` is damaged: its hash is {found}, the hub lists {expected}")]
    WrongHash {
        /// The file's name.
        file: String,
        /// The listed hash.
        expected: String,
        /// The hash of the downloaded bytes.
        found: String,
    },
    /// The file is larger than anything that the server would load.
    #[error("`{file}` has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The name of the file, or of the response.
        file: String,
        /// Its size.
        bytes: u64,
        /// The maximum size.
        limit: u64,
    },
    /// The response has an unexpected status.
    #[error("{host} answered {status}")]
    Status {
        /// The host that responded.
        host: String,
        /// The status.
        status: StatusCode,
        /// The response's `Retry-After`, if it has one.
        retry_after: Option<Duration>,
    },
    /// A redirect cannot be followed.
    #[error("{host} redirects {reason}")]
    Redirect {
        /// The host that redirects.
        host: String,
        /// The reason.
        reason: &'static str,
    },
    /// There was no connection, or it broke or became silent.
    #[error("no answer from {host}")]
    Unreachable {
        /// The requested host.
        host: String,
        /// The error, without the address, which may be signed.
        source: reqwest::Error,
    },
    /// The hub took longer than a start should wait.
    #[error("{host} did not answer within {after:?}")]
    TimedOut {
        /// The requested host.
        host: String,
        /// The time that was waited.
        after: Duration,
    },
    /// A response is malformed.
    #[error("the answer for {what} cannot be read")]
    Malformed {
        /// The requested thing.
        what: String,
        /// The fault of the content.
        source: ReadError,
    },
    /// The disk is full.
    #[error("{}: no space left on the disk", path.display())]
    DiskFull {
        /// The path of the file that was written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file's name.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process holds the file's lock and makes no progress.
    #[error("another process holds {} and made no progress for {waited:?}", path.display())]
    Locked {
        /// The path of the lock file.
        path: PathBuf,
        /// The time that was waited.
        waited: Duration,
    },
}

impl HubError {
    /// An error on a file of the cache.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = path.to_owned();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// An error of a connection to `host`.
    pub(super) fn unreachable(host: &str, source: reqwest::Error) -> Self {
        Self::Unreachable { host: host.to_owned(), source: source.without_url() }
    }

    /// Whether the hub did not respond, as opposed to refusing.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Truncated { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let path = Path::new("blobs/hash.incomplete");
        let full = HubError::io(path, io::ErrorKind::StorageFull.into());
        assert!(matches!(&full, HubError::DiskFull { path: named, .. } if named == path));
        let other = HubError::io(path, io::ErrorKind::PermissionDenied.into());
        assert!(matches!(other, HubError::Io { .. }));
    }
}
