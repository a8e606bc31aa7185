//! Why a server does not start, or does not go on.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::task::JoinError;

use crate::{
    auth::KeyFileError, batch::Refused, error::Error, fetch, hub::HubError, model::LoadError,
    telemetry::TraceError, tls::IdentityError,
};

/// What to do where a port is taken.
fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::AddrInUse {
        ": another process listens there, perhaps another server; choose another port"
    } else {
        ""
    }
}

/// Why the server could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port could not be taken.
    #[error("cannot listen on {addr}{}", hint(source))]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A Unix socket could not be put in its place.
    #[error("cannot listen on {}", path.display())]
    BindSocket {
        /// The path asked for.
        path: PathBuf,
        /// What is in the way, or what the system said.
        source: io::Error,
    },
    /// A port that was taken could not be opened.
    #[error("cannot open a port")]
    Listen(#[source] io::Error),
    /// The decode pool's threads could not be started.
    #[error("cannot start the threads of the decode pool")]
    Pool(#[from] rayon::ThreadPoolBuildError),
    /// The client that fetches images could not be set up.
    #[error("cannot fetch images by URL")]
    Fetch(#[from] fetch::SetupError),
    /// Traces cannot be sent.
    #[error("cannot send traces")]
    Traces(#[from] TraceError),
    /// The API keys cannot be had.
    #[error("cannot ask for API keys")]
    Keys(#[from] KeyFileError),
    /// The certificate of the listeners cannot be had.
    #[error("cannot speak TLS")]
    Identity(#[from] IdentityError),
    /// The certificate cannot be used.
    #[error("cannot speak TLS")]
    Tls(#[from] rustls::Error),
    /// The model's worker thread could not be started.
    #[error("cannot start the model's worker")]
    Worker(#[source] io::Error),
    /// The list of models contradicts itself.
    #[error("{0}: {1}")]
    Models(&'static str, String),
    /// A revision of what is not on the hub.
    #[error(
        "there is a folder `{folder}`, which goes first, and has no revision `{revision}`: leave the revision \
         out, or start where there is no such folder"
    )]
    RevisionOfFolder {
        /// The source asked for.
        folder: String,
        /// The revision asked for.
        revision: String,
    },
    /// The checkpoint could not be had.
    #[error("cannot get the model `{model}`")]
    Hub {
        /// The source asked for.
        model: String,
        /// What the hub or the cache said.
        source: Box<HubError>,
    },
    /// The checkpoint could not be loaded.
    #[error("cannot load the model `{model}`")]
    Load {
        /// The source asked for.
        model: String,
        /// Names the file, and the key or tensor at fault.
        source: LoadError,
    },
    /// The model is too large for the bound on resident weights.
    #[error("the model `{model}` does not fit within --max-resident-bytes")]
    TooLarge {
        /// The model's name.
        model: String,
        /// What it needs, and what is left for it.
        source: Refused,
    },
    /// The model was loaded, but a tower fails.
    #[error("the model `{model}` failed its warm-up")]
    WarmUp {
        /// The model's name.
        model: String,
        /// What the tower said.
        source: Box<Error>,
    },
    /// A model's worker broke more often than it may.
    #[error("the worker of the model `{model}` is gone")]
    WorkerGone {
        /// The model's name.
        model: String,
    },
    /// The reflection service does not accept the compiled protocol; a defect of the build.
    #[error("the compiled gRPC protocol is not readable")]
    Grpc(#[from] tonic_reflection::server::Error),
    /// A task that runs as long as the server does came to an end.
    #[error("the {0} listener ended by itself")]
    Ended(&'static str),
    /// A task that runs as long as the server does panicked.
    #[error("a background task panicked")]
    Panicked(#[from] JoinError),
    /// The server still worked on requests when the grace period was over.
    #[error("the grace period of {grace:?} is over with {requests} requests unanswered")]
    GraceExceeded {
        /// What was granted.
        grace: Duration,
        /// What was cut off.
        requests: usize,
    },
}
