//! The variables that `huggingface_hub` reads, read the same way.

use std::{fmt, fs, path::PathBuf, time::Duration};

use reqwest::Url;
use secrecy::SecretString;

use super::HubError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// A token file is one line; whatever else the variable points at is not read into memory.
const MAX_TOKEN_BYTES: u64 = 4096;
/// How long the hub may take to say what a revision is. Short: a start must not hang on it.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a download may stand still.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// With the pauses after it, a hub may be away for some seconds.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where the hub and its cache are.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address.
    pub endpoint: Url,
    /// The cache folder.
    pub cache: PathBuf,
    /// What opens private and gated models.
    pub token: Option<SecretString>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// How long the hub may take to say what a revision is.
    pub api_timeout: Duration,
    /// How long a download may stand still.
    pub idle_timeout: Duration,
    /// How long after a connection that broke the next one is tried; each further pause is twice as long.
    pub retry_pause: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, offline, .. } = self;
        write!(f, "{endpoint}, cache {}, offline {offline}", cache.display())
    }
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`.
    ///
    /// # Errors
    /// A variable has a value that is none.
    pub fn from_env() -> Result<Self, HubError> {
        // What is not UTF-8 cannot be a value here; a path that is not is rare enough.
        Self::read(&|name| std::env::var(name).ok())
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        // An empty variable counts as not set, as everywhere in the server.
        let get =
            |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let home = get("HF_HOME").map(PathBuf::from).or_else(|| {
            let user =
                || Some(PathBuf::from(get("HOME").or_else(|| get("USERPROFILE"))?).join(".cache"));
            get("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(user)
                .map(|dir| dir.join("huggingface"))
        });
        let cache = get("HF_HUB_CACHE")
            .or_else(|| get("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or(HubError::NoCache)?;
        let token = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let path = get("HF_TOKEN_PATH").map(PathBuf::from);
            let path = path.or_else(|| home.as_ref().map(|home| home.join("token")))?;
            let small = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_TOKEN_BYTES);
            let text = small.then(|| fs::read_to_string(&path).ok()).flatten()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        });
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Setting {
                variable: "the token (HF_TOKEN, HF_TOKEN_PATH)",
                expected: "one word of printable characters",
            });
        }
        Ok(Self {
            endpoint: endpoint(get("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            cache,
            token: token.map(SecretString::from),
            offline: get("HF_HUB_OFFLINE")
                .is_some_and(|v| matches!(&*v.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE")),
            api_timeout: seconds("HF_HUB_ETAG_TIMEOUT", get("HF_HUB_ETAG_TIMEOUT"), API_TIMEOUT)?,
            idle_timeout: seconds(
                "HF_HUB_DOWNLOAD_TIMEOUT",
                get("HF_HUB_DOWNLOAD_TIMEOUT"),
                IDLE_TIMEOUT,
            )?,
            retry_pause: RETRY_PAUSE,
        })
    }
}

/// An address that paths can be joined to.
fn endpoint(text: &str) -> Result<Url, HubError> {
    let wrong = HubError::Setting {
        variable: "HF_ENDPOINT",
        expected: "an address that begins with https:// or http://, without a query",
    };
    match Url::parse(&format!("{}/", text.trim_end_matches('/'))) {
        Ok(url)
            if matches!(url.scheme(), "https" | "http")
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none() =>
        {
            Ok(url)
        }
        _ => Err(wrong),
    }
}

fn seconds(
    variable: &'static str,
    text: Option<String>,
    default: Duration,
) -> Result<Duration, HubError> {
    let Some(text) = text else { return Ok(default) };
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    let expected = "a number of seconds from 1 to 3600";
    seconds.map(Duration::from_secs).ok_or(HubError::Setting { variable, expected })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::read(&|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn cache(pairs: &[(&str, &str)]) -> String {
        read(pairs).expect("settings").cache.display().to_string()
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        assert_eq!(cache(&[("HOME", "/home/a")]), "/home/a/.cache/huggingface/hub");
        let xdg = [("HOME", "/home/a"), ("XDG_CACHE_HOME", "/var/x")];
        assert_eq!(cache(&xdg), "/var/x/huggingface/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HOME", "/home/a")]), "/hf/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/hf")]), "/c");
        assert!(matches!(read(&[("HF_HOME", "")]), Err(HubError::NoCache)));
    }

    #[test]
    fn the_token_comes_from_the_environment_or_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("utf-8");
        let token = |pairs: &[(&str, &str)]| {
            read(pairs).expect("settings").token.map(|token| token.expose_secret().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", home)]), None);
        fs::write(folder.path().join("token"), "from_file\n").expect("writes");
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("from_file"));
        let old = [("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "old")];
        assert_eq!(token(&old).as_deref(), Some("old"));
        let both = [("HF_HOME", home), ("HF_TOKEN", "new"), ("HUGGING_FACE_HUB_TOKEN", "old")];
        assert_eq!(token(&both).as_deref(), Some("new"));
        let other = folder.path().join("other");
        fs::write(&other, "elsewhere").expect("writes");
        let path = [("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().expect("utf-8"))];
        assert_eq!(token(&path).as_deref(), Some("elsewhere"));
        assert!(read(&[("HF_HOME", home), ("HF_TOKEN", "two words")]).is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let settings = read(&[("HF_HOME", "/h"), ("HF_TOKEN", "hf_secret")]).expect("settings");
        assert!(!format!("{settings:?}").contains("hf_secret"));
        let error = read(&[("HF_HOME", "/h"), ("HF_TOKEN", "hf_secret x")]).expect_err("a space");
        assert!(!error.to_string().contains("hf_secret"));
    }

    #[test]
    fn an_endpoint_is_an_address() {
        let endpoint = |text| read(&[("HF_HOME", "/h"), ("HF_ENDPOINT", text)]);
        let url = |text| endpoint(text).expect(text).endpoint.to_string();
        assert_eq!(url("https://hub.example/hf/"), "https://hub.example/hf/");
        assert_eq!(url("http://127.0.0.1:81"), "http://127.0.0.1:81/");
        for text in ["hub.example", "ftp://a", "https://u:p@a", "https://a?b=c", "https://"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        for (text, offline) in [("1", true), ("true", true), ("ON", true), ("0", false)] {
            let settings = read(&[("HF_HOME", "/h"), ("HF_HUB_OFFLINE", text)]);
            assert_eq!(settings.expect("settings").offline, offline, "{text}");
        }
    }
}
