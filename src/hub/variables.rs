//! The variables of `huggingface_hub`, and what the server does with each of them.

use std::fmt::Write as _;

/// What the server does with a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It has the same meaning as in Python.
    Honoured,
    /// It is not read, so the behaviour differs from Python's.
    Ignored,
    /// It is not read, and has nothing to change here.
    Needless,
}

/// A variable that users of `huggingface_hub` may have set.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// What the server does with it.
    pub handling: Handling,
    /// Its meaning, or why it has none here.
    pub meaning: &'static str,
}

/// Every variable that `huggingface_hub` 2.4 reads and that concerns downloads.
pub const VARIABLES: [Variable; 41] = {
    use Handling::{Honoured, Ignored, Needless};
    const fn variable(name: &'static str, handling: Handling, meaning: &'static str) -> Variable {
        Variable { name, handling, meaning }
    }
    const PROXY: &str = "a proxy, as in curl; `http://`, `https://` or `socks5://`";
    const CHUNKS: &str =
        "files come over plain HTTPS, in one stream each, without the chunk store's protocol";
    const SILENT: &str = "no telemetry is sent";
    const OFFLINE: &str = "`1`, `ON`, `YES` or `TRUE`: only the cache is used; the first of the two that is set counts";
    [
        variable(
            "HF_HOME",
            Honoured,
            "the folder of cache and token; by default `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`",
        ),
        variable("XDG_CACHE_HOME", Honoured, "where `HF_HOME` is by default"),
        variable("HF_HUB_CACHE", Honoured, "where models are; by default `$HF_HOME/hub`"),
        variable(
            "HUGGINGFACE_HUB_CACHE",
            Honoured,
            "the older name of `HF_HUB_CACHE`, which goes first",
        ),
        variable("HF_TOKEN", Honoured, "the token for private and gated models"),
        variable(
            "HUGGING_FACE_HUB_TOKEN",
            Honoured,
            "the older name of `HF_TOKEN`, which goes first",
        ),
        variable("HF_TOKEN_PATH", Honoured, "a file with the token; by default `$HF_HOME/token`"),
        variable("HF_HUB_DISABLE_IMPLICIT_TOKEN", Honoured, "`1`: no token is sent"),
        variable("HF_ENDPOINT", Honoured, "another hub; by default `https://huggingface.co`"),
        variable("HF_HUB_OFFLINE", Honoured, OFFLINE),
        variable("TRANSFORMERS_OFFLINE", Honoured, OFFLINE),
        variable("HF_HUB_ETAG_TIMEOUT", Honoured, "whole seconds that a lookup may take (10)"),
        variable(
            "HF_HUB_DOWNLOAD_TIMEOUT",
            Honoured,
            "whole seconds that a download may stand still (30; Python: 10)",
        ),
        variable(
            "HF_HUB_DISABLE_PROGRESS_BARS",
            Honoured,
            "`1`: `siglip-server download` draws no bars",
        ),
        variable(
            "HF_HUB_DISABLE_SYMLINKS",
            Honoured,
            "`1`: snapshots hold hard links, or copies where there are none; also done where a file system has no symbolic links",
        ),
        variable("HTTPS_PROXY", Honoured, PROXY),
        variable("HTTP_PROXY", Honoured, PROXY),
        variable("ALL_PROXY", Honoured, PROXY),
        variable("NO_PROXY", Honoured, "hosts that are asked without a proxy"),
        variable(
            "SSL_CERT_FILE",
            Honoured,
            "certificates to trust in place of the system's; Mozilla's are trusted beside them",
        ),
        variable("SSL_CERT_DIR", Honoured, "the same, as a folder"),
        variable("REQUESTS_CA_BUNDLE", Ignored, "set `SSL_CERT_FILE`"),
        variable("CURL_CA_BUNDLE", Ignored, "set `SSL_CERT_FILE`"),
        variable(
            "TRANSFORMERS_CACHE",
            Ignored,
            "transformers 5 does not read it either; set `HF_HUB_CACHE`",
        ),
        variable("HF_OIDC_RESOURCE", Ignored, "tokens are not exchanged; set `HF_TOKEN`"),
        variable("HF_HUB_ENABLE_HF_TRANSFER", Ignored, CHUNKS),
        variable("HF_XET_HIGH_PERFORMANCE", Ignored, CHUNKS),
        variable("HF_XET_CACHE", Ignored, CHUNKS),
        variable("HF_XET_NUM_CONCURRENT_RANGE_GETS", Ignored, CHUNKS),
        variable(
            "HF_HUB_USER_AGENT_ORIGIN",
            Ignored,
            "requests name `siglip-server` and its version",
        ),
        variable("HF_DEBUG", Ignored, "set `--log-filter siglip_server::hub=debug`"),
        variable("HF_HUB_VERBOSITY", Ignored, "set `--log-filter`"),
        variable("HUGGINGFACE_CO_STAGING", Ignored, "set `HF_ENDPOINT`"),
        variable("HF_HUB_DISABLE_XET", Needless, CHUNKS),
        variable(
            "HF_HUB_DISABLE_SHARED_BLOBS",
            Needless,
            "files that Python stored once for several models are read; none are stored so",
        ),
        variable("HF_HUB_DISABLE_SYMLINKS_WARNING", Needless, "there is no such warning"),
        variable("HF_HUB_DISABLE_EXPERIMENTAL_WARNING", Needless, "there is no such warning"),
        variable("HF_HUB_DISABLE_UPDATE_CHECK", Needless, "nothing looks for updates"),
        variable("HF_HUB_DISABLE_TELEMETRY", Needless, SILENT),
        variable("DISABLE_TELEMETRY", Needless, SILENT),
        variable("DO_NOT_TRACK", Needless, SILENT),
    ]
};

/// The table for readers, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut out = String::from("| variable | honoured | meaning |\n|---|---|---|\n");
    for Variable { name, handling, meaning } in VARIABLES {
        let honoured = match handling {
            Handling::Honoured => "yes",
            Handling::Ignored => "no",
            Handling::Needless => "no need",
        };
        // Writing to a string cannot fail.
        writeln!(out, "| `{name}` | {honoured} | {meaning} |").unwrap_or_default();
    }
    out
}
