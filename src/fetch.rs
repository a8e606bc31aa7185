//! Pictures by URL.
//!
//! A client that names a URL makes this server connect to a place of the client's choice, from inside
//! the server's network. So it is off unless asked for, and then everything is checked that a URL can lead
//! to: its scheme and host, every address that the host's name resolves to, and the same again after each
//! redirect (`guard`). The addresses that were checked are the ones connected to: the client's resolver
//! is the check. Nothing that identifies anybody is sent, and what comes back is bounded in bytes and
//! time, and must look like a picture from its first bytes on.

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

/// Bytes of a file of certificates: all that the public authorities have are a quarter of a megabyte.
const MAX_CERTIFICATE_BYTES: u64 = 8 << 20;

/// How long a connection may take. Far more than any round trip; a host that drops packets is given up
/// before the whole time of the fetch is spent on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to one host that are kept for its next picture.
const IDLE_CONNECTIONS: usize = 4;
/// How long they are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that tell every supported format from anything else.
const SIGNATURE_BYTES: usize = 32;
/// Bytes reserved before the first of them is there, whatever the answer announces.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// Why nothing can be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file of certificates cannot be read.
    #[error("cannot read the certificates in {path}")]
    ReadCertificates {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of certificates is not one, or the system has none.
    #[error("cannot set up the client that fetches URLs")]
    Client(#[from] reqwest::Error),
}

/// Why a picture was not fetched. The text is for the caller, the source for the log.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL, or one that it redirects to, may not be fetched.
    #[error(transparent)]
    Forbidden(#[from] Refusal),
    /// More bytes than a picture may have.
    #[error(
        "the image behind the URL has more bytes than the limit of {}",
        Limit::bytes(*.limit, "limits.max_image_bytes")
    )]
    TooManyBytes {
        /// The limit.
        limit: usize,
    },
    /// It is something else.
    #[error("what the URL leads to cannot be used: {0}")]
    NotAnImage(Foreign),
    /// Redirected too often.
    #[error("the URL redirects more than {limit} times")]
    TooManyRedirects {
        /// The limit.
        limit: usize,
    },
    /// Answered, but not with a picture.
    #[error("the URL was answered with status {0}")]
    Status(StatusCode),
    /// Not answered in time.
    #[error("the URL could not be fetched within {0:?}")]
    TimedOut(Duration),
    /// The connection failed, or the answer was broken off.
    #[error("the URL could not be fetched: {what}")]
    Failed {
        /// What failed, in general terms.
        what: &'static str,
        /// What exactly.
        source: reqwest::Error,
    },
}

/// A picture's bytes, and the place that they take until they are decoded.
#[derive(Debug)]
pub struct Fetched {
    /// The encoded picture.
    pub bytes: Bytes,
    /// Bounds how many such pictures are held at once.
    pub slot: Slot,
}

/// Fetches pictures.
#[derive(Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    guard: Arc<Guard>,
    slots: Slots,
    config: config::Fetch,
    max_bytes: usize,
}

impl Fetcher {
    /// A fetcher of pictures of at most `max_bytes`, by the system's names.
    ///
    /// # Errors
    /// [`SetupError`], where a certificate is missing.
    pub fn new(config: &config::Fetch, max_bytes: usize) -> Result<Self, SetupError> {
        let lookup = SystemLookup::new(config.max_concurrent);
        Self::with_lookup(config, max_bytes, Arc::new(lookup))
    }

    /// The same, with names looked up elsewhere.
    ///
    /// # Errors
    /// [`SetupError`], where a certificate is missing.
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
            // A proxy would connect in our place, to addresses that nobody checked.
            .no_proxy()
            // Followed by hand, so that each target is checked first.
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

    /// What it was told.
    #[must_use]
    pub fn config(&self) -> &config::Fetch {
        &self.config
    }

    /// Fetches the image behind a URL. Waits for a turn where too many are fetched already; that wait is
    /// for the caller to bound. Turns are shared out over clients and sites.
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

    /// Asks for a URL, and for those that it redirects to.
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

/// The part of a host's name that one owner has, as far as names tell: the last two labels. Addresses stand for
/// themselves.
fn site(host: &str) -> &str {
    let is_address = host.starts_with('[') || host.ends_with(|end: char| end.is_ascii_digit());
    match host.trim_end_matches('.').rmatch_indices('.').nth(1) {
        Some((at, _)) if !is_address => &host[at + 1..],
        _ => host,
    }
}

/// Sent with every request. What the other side claims its answer to be is not looked at.
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

/// Where an answer redirects to. One without a place to go to is an answer like any other.
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

/// A failure of the client: our own refusal of an address, which hides below its errors, or the network.
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
    // The URL may carry a signature, which must not stand in a log.
    FetchError::Failed { what, source: error.without_url() }
}
