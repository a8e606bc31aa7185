//! Why a checkpoint could not be had.

use std::{
    error::Error as StdError,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::StatusCode;

use crate::checkpoint::content::ReadError;

/// Why a checkpoint could not be had. No message holds the token or a signed address.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A variable of the environment is wrong.
    #[error("{variable} is not {expected}")]
    Setting {
        /// Its name. Its value may be a secret.
        variable: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Nothing says where the cache is.
    #[error("there is no home directory; say with HF_HOME or HF_HUB_CACHE where downloads go")]
    NoCache,
    /// The HTTPS client could not be made.
    #[error("cannot prepare the HTTPS client")]
    Client(#[source] reqwest::Error),
    /// Not the name of a branch, a tag or a commit.
    #[error("`{0}` is not a revision: a branch, a tag or a commit")]
    Revision(String),
    /// The cache lacks it, and asking is forbidden.
    #[error(
        "`{id}` at `{revision}` is not in the cache ({}){}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids \
         to ask the hub",
        cache.display(),
        lacks.as_deref().map(|lacks| format!(" as a whole ({lacks})")).unwrap_or_default()
    )]
    Offline {
        /// The model.
        id: String,
        /// The revision asked for.
        revision: String,
        /// The cache folder.
        cache: PathBuf,
        /// Why what is there of it is not enough.
        lacks: Option<String>,
    },
    /// 401 or 404 for the model itself: the hub does not tell absent from private.
    #[error(
        "the hub has no model `{id}`, or it is private and {}",
        if *token { "the token may not read it" } else { "no token is set (HF_TOKEN)" }
    )]
    UnknownModel {
        /// The model.
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
        /// The model.
        id: String,
        /// The hub.
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
        /// The model.
        id: String,
        /// 401 or 403.
        status: StatusCode,
        /// Whether a token was sent.
        token: bool,
    },
    /// No such branch, tag or commit.
    #[error("`{id}` has no revision `{revision}`")]
    UnknownRevision {
        /// The model.
        id: String,
        /// The revision asked for.
        revision: String,
    },
    /// A file that is listed is not there.
    #[error("`{id}` lists `{file}`, but does not have it")]
    UnknownFile {
        /// The model.
        id: String,
        /// The file.
        file: String,
    },
    /// The weights are there only as a pickle.
    #[error(
        "`{id}` has its weights only as `{file}`, which is not read, because a pickle can run code; \
         convert it to safetensors"
    )]
    Pickle {
        /// The model.
        id: String,
        /// The pickle.
        file: String,
    },
    /// It is not a checkpoint that the server reads.
    #[error("`{id}` is no checkpoint that can be served: {lacks}")]
    Incomplete {
        /// The model.
        id: String,
        /// What it lacks.
        lacks: String,
    },
    /// The file is not the one that was listed a moment ago.
    #[error("`{file}` changed during the download: {what} is `{found}`, not `{expected}`")]
    Changed {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// As it was listed.
        expected: String,
        /// As it came.
        found: String,
    },
    /// The connection ended early, again and again.
    #[error(
        "the download of `{file}` ended after {got} of {expected} bytes; the next try continues there"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that are there.
        got: u64,
        /// Bytes that it has.
        expected: u64,
        /// How the last connection ended, where it broke.
        source: Option<reqwest::Error>,
    },
    /// The bytes are not what the hub lists.
    #[error("`{file}` is damaged: its hash is {found}, the hub lists {expected}")]
    WrongHash {
        /// The file.
        file: String,
        /// As listed.
        expected: String,
        /// As downloaded.
        found: String,
    },
    /// Larger than anything the server would load.
    #[error("`{file}` has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The file, or the answer.
        file: String,
        /// Its size.
        bytes: u64,
        /// What is taken.
        limit: u64,
    },
    /// An answer that the client has no use for.
    #[error("{host} answered {status}")]
    Status {
        /// Who answered.
        host: String,
        /// With what.
        status: StatusCode,
        /// When to come back, where it said so.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {reason}")]
    Redirect {
        /// Who redirects.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No connection, or one that broke or fell silent.
    #[error("no answer from {host}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// Without its address, which may be signed.
        source: reqwest::Error,
    },
    /// The hub took longer than a start should wait.
    #[error("{host} did not answer within {after:?}")]
    TimedOut {
        /// Who was asked.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// An answer that is not what it should be.
    #[error("the answer for {what} cannot be read")]
    Malformed {
        /// What was asked for.
        what: String,
        /// What it is, or where it went wrong.
        source: ReadError,
    },
    /// The disk has no room.
    #[error("{}: no space left on the disk", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the file, and does not get on with it.
    #[error("another process holds {} and made no progress for {waited:?}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
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

    /// Whether the hub did not answer, as opposed to answering no.
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

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
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
