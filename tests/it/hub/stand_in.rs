//! A fake hub with one model. Its storage is on another port, as with the real hub.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// The model's name.
pub(super) const ID: &str = "org/name";
/// The commits of its branch, in order.
pub(super) const COMMITS: [&str; 2] =
    ["1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"];
/// Bytes of the weights.
pub(super) const WEIGHT_BYTES: usize = 300_000;

/// A file of the model.
#[derive(Clone)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: Bytes,
    /// Whether it is in the storage.
    large: bool,
}

impl File {
    pub(super) fn small(name: &str, bytes: impl Into<Bytes>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.into(), large: false }
    }

    pub(super) fn large(name: &str, bytes: impl Into<Bytes>) -> Self {
        Self { large: true, ..Self::small(name, bytes) }
    }

    /// The hash that the hub lists.
    pub(super) fn hash(&self) -> String {
        let mut context = if self.large {
            digest::Context::new(&digest::SHA256)
        } else {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", self.bytes.len()).as_bytes());
            context
        };
        context.update(&self.bytes);
        context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How the fake hub misbehaves.
#[derive(Default, Clone)]
pub(super) struct Rules {
    /// The token that files need.
    pub(super) token: Option<&'static str>,
    /// The status of the listing.
    pub(super) listing_status: Option<u16>,
    /// Whether the listing never responds.
    pub(super) mute: bool,
    /// Whether the listing omits sizes and hashes.
    pub(super) bare_listing: bool,
    /// The commit in the responses for files.
    pub(super) other_commit: Option<&'static str>,
    /// Whether the responses for files have another hash.
    pub(super) other_hash: bool,
    /// The storage ends its responses at this byte of the file.
    pub(super) cut_at: Option<usize>,
    /// For this many responses.
    pub(super) cuts: usize,
    /// The storage stops sending at this byte, but does not close the connection.
    pub(super) silent: bool,
    /// The storage sends every file from its start.
    pub(super) ignores_ranges: bool,
    /// The storage sends other bytes.
    pub(super) damages: bool,
    /// The hub sends small files from another path, with other tags.
    pub(super) relocates: bool,
    /// The hub redirects to this other address.
    pub(super) redirects_to: Option<&'static str>,
}

/// A received request.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at_storage: bool,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) range: Option<String>,
}

struct Inner {
    files: Mutex<Vec<File>>,
    commit: Mutex<usize>,
    rules: Mutex<Rules>,
    seen: Mutex<Vec<Seen>>,
    storage: SocketAddr,
}

/// The running fake hub.
pub(super) struct StandIn {
    pub(super) url: String,
    inner: Arc<Inner>,
    servers: [JoinHandle<()>; 2],
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop();
    }
}

impl StandIn {
    pub(super) async fn start() -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let storage = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", hub.local_addr().expect("an address"));
        let weights: Vec<u8> = (0..WEIGHT_BYTES).map(|i| (i * 7 % 251) as u8).collect();
        let inner = Arc::new(Inner {
            files: Mutex::new(vec![
                File::small(".gitattributes", "*.safetensors filter=lfs"),
                File::small("README.md", "# A model"),
                File::small("config.json", "{}"),
                File::small("preprocessor_config.json", r#"{"size": 4}"#),
                File::large("tokenizer.json", r#"{"version": "1.0"}"#),
                File::large("pytorch_model.bin", "a pickle"),
                File::large("model.safetensors", weights),
            ]),
            commit: Mutex::new(0),
            rules: Mutex::default(),
            seen: Mutex::default(),
            storage: storage.local_addr().expect("an address"),
        });
        let hub_router = Router::new()
            .route("/api/models/{org}/{name}/revision/{revision}", get(listing))
            .route("/{org}/{name}/resolve/{commit}/{file}", get(resolve))
            .route("/api/resolve-cache/{file}", get(relocated))
            .with_state(Arc::clone(&inner));
        let storage_router =
            Router::new().route("/{hash}", get(store)).with_state(Arc::clone(&inner));
        let serve = |listener, router: Router| {
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") })
        };
        Self { url, inner, servers: [serve(hub, hub_router), serve(storage, storage_router)] }
    }

    /// Stops the hub.
    pub(super) fn stop(&self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }

    pub(super) fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.inner.rules.lock());
    }

    pub(super) fn files(&self, change: impl FnOnce(&mut Vec<File>)) {
        change(&mut self.inner.files.lock());
    }

    pub(super) fn file(&self, name: &str) -> File {
        let files = self.inner.files.lock();
        files.iter().find(|file| file.name == name).cloned().expect("the file is there")
    }

    /// Moves the branch to the next commit.
    pub(super) fn push(&self) {
        *self.inner.commit.lock() += 1;
    }

    /// The requests since the last call.
    pub(super) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.inner.seen.lock())
    }
}

impl Inner {
    fn note(&self, at_storage: bool, method: &Method, path: String, headers: &HeaderMap) {
        let header = |name| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        let (token, range) = (header(header::AUTHORIZATION), header(header::RANGE));
        let method = method.clone();
        self.seen.lock().push(Seen { at_storage, method, path, token, range });
    }
}

fn refusal(status: u16, code: &'static str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("x-error-code", code)], "{\"error\": \"no\"}").into_response()
}

async fn listing(
    State(inner): State<Arc<Inner>>,
    Path((org, name, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    inner.note(false, &Method::GET, format!("listing {revision}"), &headers);
    let rules = inner.rules.lock().clone();
    if rules.mute {
        std::future::pending::<()>().await;
    }
    if let Some(status) = rules.listing_status {
        return refusal(status, "");
    }
    if format!("{org}/{name}") != ID {
        // The real hub does not distinguish missing and private models.
        return refusal(401, "RepoNotFound");
    }
    let commit = COMMITS[*inner.commit.lock()];
    if !["main", "a/b", commit].contains(&&*revision) {
        return refusal(404, "RevisionNotFound");
    }
    let describe = |file: &File| -> Value {
        if rules.bare_listing {
            return json!({"rfilename": file.name});
        }
        let size = file.bytes.len();
        let mut entry = json!({"rfilename": file.name, "size": size, "blobId": "a".repeat(40)});
        if file.large {
            entry["lfs"] = json!({"sha256": file.hash(), "size": size, "pointerSize": 134});
        } else {
            entry["blobId"] = json!(file.hash());
        }
        entry
    };
    let siblings: Vec<_> = inner.files.lock().iter().map(describe).collect();
    axum::Json(json!({"id": ID, "sha": commit, "siblings": siblings})).into_response()
}

async fn resolve(
    State(inner): State<Arc<Inner>>,
    Path((_, _, commit, name)): Path<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    inner.note(false, &method, name.clone(), &headers);
    let rules = inner.rules.lock().clone();
    if let Some(token) = rules.token {
        match headers.get(header::AUTHORIZATION).map(|value| value.to_str().expect("text")) {
            None => return refusal(401, "GatedRepo"),
            Some(sent) if sent != format!("Bearer {token}") => return refusal(403, ""),
            Some(_) => {}
        }
    }
    let file = inner.files.lock().iter().find(|file| file.name == name).cloned();
    let Some(file) = file else { return refusal(404, "EntryNotFound") };
    let hash = if rules.other_hash { "b".repeat(40) } else { file.hash() };
    let commit = rules.other_commit.unwrap_or(&commit);
    let head = [("x-repo-commit", commit.to_owned()), ("etag", format!("\"{hash}\""))];
    if !file.large && rules.relocates {
        let location = [("location", format!("/api/resolve-cache/{name}"))];
        return (StatusCode::TEMPORARY_REDIRECT, head, location).into_response();
    }
    if !file.large {
        return (head, file.bytes).into_response();
    }
    let linked = [
        ("x-linked-etag", format!("\"{hash}\"")),
        ("x-linked-size", file.bytes.len().to_string()),
        (
            "location",
            rules.redirects_to.map_or_else(
                || format!("http://{}/{}?signature=secret", inner.storage, file.hash()),
                str::to_owned,
            ),
        ),
    ];
    (StatusCode::FOUND, head, linked).into_response()
}

async fn relocated(
    State(inner): State<Arc<Inner>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    inner.note(false, &Method::GET, format!("relocated {name}"), &headers);
    let file = inner.files.lock().iter().find(|file| file.name == name).cloned();
    let Some(file) = file else { return refusal(404, "EntryNotFound") };
    ([("etag", format!("\"{}\"", "c".repeat(40)))], file.bytes).into_response()
}

async fn store(
    State(inner): State<Arc<Inner>>,
    Path(hash): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let file = inner.files.lock().iter().find(|file| file.hash() == hash).cloned();
    let Some(file) = file else { return StatusCode::NOT_FOUND.into_response() };
    if method == Method::HEAD {
        return StatusCode::OK.into_response();
    }
    inner.note(true, &method, file.name.clone(), &headers);
    let mut rules = inner.rules.lock().clone();
    let mut bytes = file.bytes.to_vec();
    if rules.damages {
        bytes[0] ^= 1;
    }
    let range = headers.get(header::RANGE).filter(|_| !rules.ignores_ranges);
    let start = range.map_or(0, |range| {
        let text = range.to_str().expect("text").trim_start_matches("bytes=");
        text.trim_end_matches('-').parse::<usize>().expect("an open range")
    });
    let (size, rest) = (bytes.len(), bytes.split_off(start));
    let (status, range) = if range.is_some() {
        (StatusCode::PARTIAL_CONTENT, format!("bytes {start}-{}/{size}", size - 1))
    } else {
        (StatusCode::OK, String::new())
    };
    if rules.cuts == 0 || size < rules.cut_at.unwrap_or(usize::MAX) {
        rules.cut_at = None;
    }
    let Some(cut_at) = rules.cut_at else {
        return (status, [(header::CONTENT_RANGE, range)], rest).into_response();
    };
    inner.rules.lock().cuts -= 1;
    let (length, sent) = (rest.len(), rest[..cut_at.saturating_sub(start)].to_vec());
    let begin = stream::iter([Ok(Bytes::from(sent))]);
    let end = stream::once(async move {
        if rules.silent {
            std::future::pending::<()>().await;
        }
        // The data so far is flushed when the body has no more data for a moment.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the storage breaks off"))
    });
    let body = Body::from_stream(futures::StreamExt::chain(begin, end));
    let head = [(header::CONTENT_RANGE, range), (header::CONTENT_LENGTH, length.to_string())];
    (status, head, body).into_response()
}
