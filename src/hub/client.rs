//! The hub's HTTP interface: the commit and the files of a revision, and their bytes.

use std::time::Duration;

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap},
    redirect,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tracing::warn;

use super::{HubError, RepoId, Settings, cache};
use crate::{
    checkpoint::content::{self, ReadError},
    tls,
};

/// Maximum number of redirects. The way from the hub to its storage is one; a renamed model adds another.
const MAX_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The header with the commit of a response.
const COMMIT: &str = "x-repo-commit";
/// Maximum size of a listing: enough for ten thousand files.
const MAX_LISTING_BYTES: u64 = 16 << 20;

/// The hash that the hub lists for a file. It names the blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// SHA-256 of the bytes, for large files.
    Sha256(String),
    /// SHA-1 of git's header and the bytes, for small files.
    GitSha1(String),
}

impl Hash {
    /// Parses hexadecimal digits, which an `ETag` may have in quotes.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start_matches("W/").trim_matches('"');
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (hex, text.len()) {
            (true, 64) => Some(Self::Sha256(text.to_owned())),
            (true, 40) => Some(Self::GitSha1(text.to_owned())),
            _ => None,
        }
    }

    /// Whether the other hash is of the same kind and different.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self != other
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::GitSha1(text) => text,
        }
    }
}

/// A file as the hub lists it. Mirrors may leave out optional fields; [`Client::describe`] then asks for them.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: Option<u64>,
    pub(super) hash: Option<Hash>,
}

impl RemoteFile {
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), size: None, hash: None }
    }
}

/// The commit and the files of a revision.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct RevisionInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let (size, hash) = match sibling.lfs {
            Some(lfs) => (Some(lfs.size), Hash::parse(&lfs.sha256)),
            None => (sibling.size, sibling.blob_id.as_deref().and_then(Hash::parse)),
        };
        Self { name: sibling.rfilename, size, hash }
    }
}

/// A response, after its redirects.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The headers of the hub's own response about the file, before the redirect to its storage.
    hub: HeaderMap,
    /// The host that sent the response.
    pub(super) host: String,
}

impl Answer {
    fn hub_header(&self, name: &str) -> Option<&str> {
        self.hub.get(name).and_then(|value| value.to_str().ok())
    }

    /// The hash that the hub itself sends for the file.
    pub(super) fn hash(&self) -> Option<Hash> {
        self.hub_header("x-linked-etag").or_else(|| self.hub_header("etag")).and_then(Hash::parse)
    }

    /// The commit that the hub's response belongs to.
    pub(super) fn commit(&self) -> Option<&str> {
        self.hub_header(COMMIT)
    }
}

/// A client of one hub.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<SecretString>,
    api_timeout: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        tls::install_provider();
        // Mozilla's roots are added to the system's, because a small container image has none.
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .filter_map(|der| reqwest::Certificate::from_der(der).ok());
        let http = reqwest::Client::builder()
            .user_agent(concat!("siglip-server/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(settings.idle_timeout)
            // This module follows redirects itself, because the token goes only to the hub, and the hub's own
            // headers are needed.
            .redirect(redirect::Policy::none())
            .tls_certs_merge(roots)
            .build()
            .map_err(HubError::Client)?;
        let mut token = settings.token.clone();
        if token.is_some() && !may_carry_token(&settings.endpoint) {
            warn!("HF_ENDPOINT is not https, so the token is not sent");
            token = None;
        }
        let (endpoint, api_timeout) = (settings.endpoint.clone(), settings.api_timeout);
        Ok(Self { http, endpoint, token, api_timeout })
    }

    /// The commit and the files of a revision.
    pub(super) async fn listing(&self, id: &RepoId, revision: &str) -> Result<Listing, HubError> {
        let quoted = revision.replace('/', "%2F");
        let url = self.url(&format!("api/models/{id}/revision/{quoted}?blobs=true"))?;
        let host = host(&url);
        let ask = async {
            let answer = self.send(Method::GET, url, 0).await?;
            if answer.response.status() != StatusCode::OK {
                return Err(self.refusal(id, &answer, Asked::Revision(revision)));
            }
            read_bounded(answer, "the listing", MAX_LISTING_BYTES).await
        };
        let bytes = match tokio::time::timeout(self.api_timeout, ask).await {
            Ok(read) => read?,
            Err(_) => return Err(HubError::TimedOut { host, after: self.api_timeout }),
        };
        let what = format!("`{id}` at `{revision}`");
        let malformed = |source| HubError::Malformed { what: what.clone(), source };
        let info = content::json(&bytes).map_err(malformed)?;
        let info: RevisionInfo = serde_json::from_value(info).map_err(|error| {
            malformed(ReadError::new(format!("it is not a listing of the hub's: {error}")))
        })?;
        if !cache::is_commit(&info.sha) || cache::is_commit(revision) && info.sha != revision {
            let what = "the commit";
            let (expected, found) = (revision.to_owned(), info.sha);
            return Err(HubError::Changed { file: id.to_string(), what, expected, found });
        }
        Ok(Listing { commit: info.sha, files: info.siblings.into_iter().map(Into::into).collect() })
    }

    /// Size and hash of a file, requested if the listing does not have them.
    pub(super) async fn describe(
        &self,
        id: &RepoId,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<(u64, Hash), HubError> {
        if let (Some(size), Some(hash)) = (file.size, &file.hash) {
            return Ok((size, hash.clone()));
        }
        let url = self.file_url(id, commit, &file.name)?;
        let answer = self.send(Method::HEAD, url, 0).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.refusal(id, &answer, Asked::File(&file.name)));
        }
        let size = answer.hub_header("x-linked-size").map_or_else(
            || answer.response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok(),
            |text| text.parse().ok(),
        );
        size.zip(answer.hash()).ok_or_else(|| HubError::Incomplete {
            id: id.to_string(),
            lacks: format!("the hub tells no size and hash of `{}`", file.name),
        })
    }

    /// Requests a file's bytes from `offset` on. The response is 200 with all bytes, or 206.
    pub(super) async fn open(
        &self,
        id: &RepoId,
        commit: &str,
        (name, offset): (&str, u64),
    ) -> Result<Answer, HubError> {
        let answer = self.send(Method::GET, self.file_url(id, commit, name)?, offset).await?;
        match answer.response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(answer)
            }
            _ => Err(self.refusal(id, &answer, Asked::File(name))),
        }
    }

    fn file_url(&self, id: &RepoId, commit: &str, name: &str) -> Result<Url, HubError> {
        self.url(&format!("{id}/resolve/{commit}/{name}"))
    }

    fn url(&self, path: &str) -> Result<Url, HubError> {
        // Ids, revisions and names were checked, so joining them cannot fail.
        let (variable, expected) = ("HF_ENDPOINT", "an address");
        self.endpoint.join(path).map_err(|_| HubError::Setting { variable, expected })
    }

    /// Sends a request and follows its redirects. Only the hub sees the token.
    async fn send(&self, method: Method, url: Url, offset: u64) -> Result<Answer, HubError> {
        let (mut url, mut hub) = (url, None);
        for _ in 0..=MAX_REDIRECTS {
            let host = host(&url);
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                // Sizes and ranges must refer to the uncompressed file.
                .header(header::ACCEPT_ENCODING, "identity");
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            if let Some(token) = &self.token
                && url.origin() == self.endpoint.origin()
            {
                request = request.bearer_auth(token.expose_secret());
            }
            let sent = request.send().await;
            let response = sent.map_err(|source| HubError::unreachable(&host, source))?;
            let headers = response.headers();
            // For a renamed model, the hub redirects to itself before it sends headers about the file.
            if !hub.as_ref().is_some_and(|hub: &HeaderMap| hub.contains_key(COMMIT)) {
                hub = Some(headers.clone());
            }
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED
            {
                return Ok(Answer { response, hub: hub.unwrap_or_default(), host });
            }
            let refused = |reason| HubError::Redirect { host: host.clone(), reason };
            let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| refused("to no address"))?;
            if !matches!(next.scheme(), "https" | "http")
                || url.scheme() == "https" && next.scheme() != "https"
            {
                return Err(refused("away from https"));
            }
            url = next;
        }
        Err(HubError::Redirect { host: host(&url), reason: "too often" })
    }

    /// Converts an unsuccessful response to an error.
    fn refusal(&self, id: &RepoId, answer: &Answer, asked: Asked<'_>) -> HubError {
        let (id, token) = (id.to_string(), self.token.is_some());
        let status = answer.response.status();
        let code = answer.hub_header("x-error-code").unwrap_or_default();
        match (status, code, asked) {
            (_, "GatedRepo", _) => {
                HubError::Gated { id, endpoint: self.endpoint.to_string(), token }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, "RepoNotFound", _) => {
                HubError::UnknownModel { id, token }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, ..) => {
                HubError::Refused { id, status, token }
            }
            (StatusCode::NOT_FOUND, "RevisionNotFound", Asked::Revision(revision)) => {
                HubError::UnknownRevision { id, revision: revision.to_owned() }
            }
            (StatusCode::NOT_FOUND, _, Asked::Revision(_)) => HubError::UnknownModel { id, token },
            (StatusCode::NOT_FOUND, _, Asked::File(file)) => {
                HubError::UnknownFile { id, file: file.to_owned() }
            }
            _ => {
                let seconds = answer.response.headers().get(header::RETRY_AFTER);
                let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                HubError::Status { host: answer.host.clone(), status, retry_after }
            }
        }
    }
}

/// The purpose of a request, for its error message.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Revision(&'a str),
    File(&'a str),
}

/// Host and port. No other part of an address is ever shown, because it may contain a signature.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the token may be sent: over plain HTTP others could read it, except on loopback.
fn may_carry_token(endpoint: &Url) -> bool {
    let loopback = |host: &str| {
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    };
    endpoint.scheme() == "https" || endpoint.host_str().is_some_and(loopback)
}

async fn read_bounded(mut answer: Answer, what: &str, limit: u64) -> Result<Vec<u8>, HubError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = answer.response.chunk().await;
        match chunk.map_err(|source| HubError::unreachable(&answer.host, source))? {
            None => return Ok(bytes),
            Some(chunk) => bytes.extend_from_slice(&chunk),
        }
        if bytes.len() as u64 > limit {
            let (file, bytes) = (what.to_owned(), bytes.len() as u64);
            return Err(HubError::TooLarge { file, bytes, limit });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_from_tags() {
        let (sha1, sha256) = ("a".repeat(40), "0".repeat(64));
        assert_eq!(Hash::parse(&format!("\"{sha1}\"")), Some(Hash::GitSha1(sha1.clone())));
        assert_eq!(Hash::parse(&format!("W/\"{sha1}\"")), Some(Hash::GitSha1(sha1)));
        assert_eq!(Hash::parse(&sha256), Some(Hash::Sha256(sha256)));
        for text in ["", "abc", &"../".repeat(20), &"G".repeat(40)] {
            assert_eq!(Hash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_token_travels_encrypted_or_not_at_all() {
        for (endpoint, may) in [
            ("https://huggingface.co/", true),
            ("http://127.0.0.1:80/", true),
            ("http://[::1]:80/", true),
            ("http://localhost/", true),
            ("http://mirror.example/", false),
            ("http://127.0.0.1.example/", false),
        ] {
            assert_eq!(may_carry_token(&Url::parse(endpoint).expect("a URL")), may, "{endpoint}");
        }
    }
}
