//! The threads of large requests.
//!
//! To read a large body, to refuse its thousands of items one by one and to write a response of the same size takes
//! milliseconds to seconds. On threads of their own, such requests hold up neither probes nor small requests.

use std::{io, num::NonZero};

use axum::{
    extract::Request,
    http::{Method, header},
};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::grpc;

/// A body up to this length is read, answered and refused in well under a millisecond. It holds a page of text; a
/// hundred short labels are already more.
const MAX_SMALL_BYTES: u64 = 4 << 10;

/// A runtime beside the one that accepts connections.
pub(super) struct LargeRequests(Option<Runtime>);

impl LargeRequests {
    /// Starts the threads, one for each core.
    ///
    /// # Errors
    /// What the system says where it starts no threads.
    pub(super) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(cores).thread_name("large-requests").enable_all();
        // More parses at a time than this would only take the processor from each other, and from small requests.
        runtime.max_blocking_threads(2 * cores);
        runtime.build().map(|runtime| Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for LargeRequests {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // An async task may drop this, and must not wait.
            runtime.shutdown_background();
        }
    }
}

/// Whether a request may have a large body.
pub(super) fn may_be_large<B>(request: &Request<B>) -> bool {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        // Calls over gRPC tell no lengths.
        || grpc::is_probe(request.uri().path())
    {
        return false;
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_none_or(|length| length > MAX_SMALL_BYTES)
}

/// Runs `work` on the threads of large requests. If the caller drops this future, the work is dropped too.
pub(super) async fn run<T: Send + 'static>(
    threads: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match AbortOnDropHandle::new(threads.spawn(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends with the server, when nobody waits for responses any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, length: Option<&str>) -> Request<()> {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn length_decides_and_probes_are_small() {
        assert!(!may_be_large(&request("GET", "/health/ready", None)));
        assert!(!may_be_large(&request("POST", "/grpc.health.v1.Health/Check", None)));
        let live = "/inference.GRPCInferenceService/ServerLive";
        assert!(!may_be_large(&request("POST", live, None)));
        assert!(!may_be_large(&request("POST", "/v1/embeddings", Some("4096"))));
        assert!(may_be_large(&request("POST", "/v1/embeddings", Some("4097"))));
        assert!(may_be_large(&request("POST", "/v1/embeddings", None)));
        assert!(may_be_large(&request("POST", "/siglip.v1.EmbeddingService/Embed", None)));
    }
}
