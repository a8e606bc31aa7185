//! Fetches images by URL.
//!
//! A client that sends a URL makes this server connect to a host of the client's choice, from inside the
//! server's network. So fetching is off by default. If it is on, `guard` checks the scheme, the host, every
//! address that the host's name resolves to, and all of them again for each redirect. The HTTP client connects
//! only to checked addresses, because the check is its resolver. The request identifies nobody. The response is
//! limited in bytes and time, and must begin like an image.

mod guard;
mod resolver;
mod slots;
#[cfg(test)]
mod tests;

use std::{error::Error as StdError, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
    redirect,
};

use self::slots::{Slots, Who};
pub use self::{
    guard::{Guard, Refusal},
    resolver::{Answer, Lookup, SystemLookup},
    slots::{Client, Slot},
};
use crate::{
    build_info,
    config::{self, Limit},
    preprocess::{self, Foreign},
    small_file, tls,
};

/// Maximum size of a file of certificates. Those of all public authorities have a quarter of a megabyte.
const MAX_CERTIFICATE_BYTES: u64 = 8 << 20;

/// Maximum time to connect: far more than any round trip, and less than the whole fetch, so that a host that
/// drops packets fails early.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to one host that are kept for its next image.
const IDLE_CONNECTIONS: usize = 4;
/// How long idle connections are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The number of first bytes that identify every supported format.
const SIGNATURE_BYTES: usize = 32;
/// Maximum number of bytes that are allocated before the first byte arrives, whatever length the response
/// announces.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// Why the fetcher cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file of certificates cannot be read.
    #[error("cannot read the certificates in {path}")]
    ReadCertificates {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file has no valid certificates, or the system has none.
    #[error("cannot set up the client that fetches URLs")]
    Client(#[from] reqwest::Error),
}

/// Why an image was not fetched. The text is for the client, the source for the log.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL, or one that it redirects to, may not be fetched.
    #[error(transparent)]
    Forbidden(#[from] Refusal),
    /// The response has more bytes than an image may have.
    #[error(
        "the image behind the URL has more bytes than the limit of {}",
        Limit::bytes(*.limit, "limits.max_image_bytes")
    )]
    TooManyBytes {
        /// The limit.
        limit: usize,
    },
    /// The response is not an image.
    #[error("what the URL leads to cannot be used: {0}")]
    NotAnImage(Foreign),
    /// There were too many redirects.
    #[error("the URL redirects more than {limit} times")]
    TooManyRedirects {
        /// The limit.
        limit: usize,
    },
    /// The server responded with an error status.
    #[error("the URL was answered with status {0}")]
    Status(StatusCode),
    /// The server did not respond in time.
    #[error("the URL could not be fetched within {0:?}")]
    TimedOut(Duration),
    /// The connection failed, or the response was incomplete.
    #[error("the URL could not be fetched: {what}")]
    Failed {
        /// What failed, in general terms.
        what: &'static str,
        /// The exact error.
        source: reqwest::Error,
    },
}

/// An image's bytes, and the slot that they occupy until they are decoded.
#[derive(Debug)]
pub struct Fetched {
    /// The encoded image.
    pub bytes: Bytes,
    /// Limits how many fetched images are held at once.
    pub slot: Slot,
}

/// Fetches images.
#[derive(Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    guard: Arc<Guard>,
    slots: Slots,
    config: config::Fetch,
    max_bytes: usize,
}

impl Fetcher {
    /// A fetcher of images of at most `max_bytes`, which resolves names with the system's resolver.
    ///
    /// # Errors
    /// [`SetupError`] if the certificates cannot be read.
    pub fn new(config: &config::Fetch, max_bytes: usize) -> Result<Self, SetupError> {
        let lookup = SystemLookup::new(config.max_concurrent);
        Self::with_lookup(config, max_bytes, Arc::new(lookup))
    }

    /// A fetcher that resolves names with `lookup`.
    ///
    /// # Errors
    /// [`SetupError`] if the certificates cannot be read.
    pub fn with_lookup(
        config: &config::Fetch,
        max_bytes: usize,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, SetupError> {
        let guard = Arc::new(Guard::new(config));
        let resolver = resolver::Checked::new(lookup, Arc::clone(&guard));
        tls::install_provider();
        let client = reqwest::Client::builder()
            .dns_resolver(resolver)
            // A proxy would connect instead of this server, to addresses that were not checked.
            .no_proxy()
            // Redirects are followed by this module, so that each target is checked first.
            .redirect(redirect::Policy::none())
            .referer(false)
            .default_headers(headers())
            .tls_certs_merge(certificates(config)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()?;
        let slots = Slots::new(config.max_concurrent);
        Ok(Self { client, guard, slots, config: config.clone(), max_bytes })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &config::Fetch {
        &self.config
    }

    /// Fetches the image of a URL. It waits for a slot if too many fetches run; the caller limits this wait.
    /// Slots are shared fairly among clients and sites.
    ///
    /// # Errors
    /// Any [`FetchError`].
    pub async fn fetch(&self, url: &str, client: Client) -> Result<Fetched, FetchError> {
        let url = self.guard.parse(url)?;
        let site = site(url.host_str().unwrap_or_default()).into();
        let Some(slot) = self.slots.take(Who { client, site }).await else {
            return Err(FetchError::TimedOut(Duration::ZERO));
        };
        let fetched = tokio::time::timeout(self.config.timeout, self.follow(url)).await;
        let bytes = fetched.unwrap_or(Err(FetchError::TimedOut(self.config.timeout)))?;
        Ok(Fetched { bytes, slot })
    }

    /// Requests a URL and follows its redirects.
    async fn follow(&self, mut url: Url) -> Result<Bytes, FetchError> {
        for _ in 0..=self.config.max_redirects {
            let response = self.client.get(url.clone()).send().await.map_err(failed)?;
            match redirect_target(&response) {
                None => return self.read(response).await,
                Some(target) => url = self.guard.join(&url, target)?,
            }
        }
        Err(FetchError::TooManyRedirects { limit: self.config.max_redirects })
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, FetchError> {
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let too_many = || FetchError::TooManyBytes { limit: self.max_bytes };
        let announced = usize::try_from(response.content_length().unwrap_or(0)).ok();
        let announced = announced.filter(|&bytes| bytes <= self.max_bytes).ok_or_else(too_many)?;
        let mut bytes = BytesMut::with_capacity(announced.min(MAX_RESERVED_BYTES));
        let mut looked_at = false;
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > self.max_bytes {
                return Err(too_many());
            }
            bytes.extend_from_slice(&chunk);
            if !looked_at && bytes.len() >= SIGNATURE_BYTES {
                check_signature(&bytes)?;
                looked_at = true;
            }
        }
        if !looked_at {
            check_signature(&bytes)?;
        }
        Ok(bytes.freeze())
    }
}

/// The part of a host's name that usually has one owner: the last two labels. An address is its own site.
fn site(host: &str) -> &str {
    let is_address = host.starts_with('[') || host.ends_with(|end: char| end.is_ascii_digit());
    match host.trim_end_matches('.').rmatch_indices('.').nth(1) {
        Some((at, _)) if !is_address => &host[at + 1..],
        _ => host,
    }
}

/// The headers of every request. The response's content type is not used.
fn headers() -> HeaderMap {
    let agent = HeaderValue::from_str(&format!("siglip-server/{}", build_info::VERSION));
    let agent = agent.unwrap_or_else(|_| HeaderValue::from_static("siglip-server"));
    HeaderMap::from_iter([
        (header::USER_AGENT, agent),
        (header::ACCEPT, HeaderValue::from_static("image/*")),
    ])
}

fn certificates(config: &config::Fetch) -> Result<Vec<Certificate>, SetupError> {
    let Some(path) = &config.ca_file else { return Ok(Vec::new()) };
    let pem = small_file::read(path, MAX_CERTIFICATE_BYTES)
        .map_err(|source| SetupError::ReadCertificates { path: path.clone(), source })?;
    Ok(Certificate::from_pem_bundle(&pem)?)
}

/// The target of a redirect. A redirect without a target counts as a normal response.
fn redirect_target(response: &Response) -> Option<&HeaderValue> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(header::LOCATION).filter(|_| redirects)
}

fn check_signature(head: &[u8]) -> Result<(), FetchError> {
    if preprocess::looks_like_an_image(head) {
        Ok(())
    } else {
        Err(FetchError::NotAnImage(preprocess::what_else(head)))
    }
}

/// Converts a failure of the HTTP client: this server's refusal of an address, which is a source of the error,
/// or a network error.
fn failed(error: reqwest::Error) -> FetchError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return refusal.clone().into();
        }
        cause = error.source();
    }
    let what = if error.is_timeout() {
        "it took too long to connect"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer was broken off"
    } else {
        "no answer"
    };
    // The URL may contain a signature, which must not be logged.
    FetchError::Failed { what, source: error.without_url() }
}
