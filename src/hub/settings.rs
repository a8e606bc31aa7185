//! Reads the variables of `huggingface_hub` in the same way.

mod expand;

use std::{cell::Cell, fmt, path::PathBuf, time::Duration};

use reqwest::Url;
use secrecy::SecretString;

use tracing::{info, warn};

use self::expand::Environment;
use super::{
    HubError,
    variables::{Handling, VARIABLES},
};
use crate::small_file;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Maximum size of a token file, which is one line. A larger file is not read into memory.
const MAX_TOKEN_BYTES: u64 = 4096;
/// Maximum time of a request for a revision. It is short, because a start must not hang.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without progress of a download.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause before a retry. With the longer pauses after it, the hub may be unreachable for some
/// seconds.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The places of the hub and its cache, and related settings.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address.
    pub endpoint: Url,
    /// The cache folder.
    pub cache: PathBuf,
    /// The token for private and gated models.
    pub token: Option<SecretString>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// Whether progress bars may be drawn.
    pub progress: bool,
    /// Whether snapshots hold symbolic links.
    pub symlinks: bool,
    /// Maximum time of a request for a revision.
    pub api_timeout: Duration,
    /// Maximum time without progress of a download.
    pub idle_timeout: Duration,
    /// The pause before the first retry after a broken connection; each further pause is twice as long.
    pub retry_pause: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, offline, .. } = self;
        write!(f, "{endpoint}, cache {}, offline {offline}", cache.display())
    }
}

impl Settings {
    /// Reads the environment. [`VARIABLES`] lists the variables and their meanings.
    ///
    /// # Errors
    /// Fails if a variable has an invalid value.
    pub fn from_env() -> Result<Self, HubError> {
        let unreadable = Cell::new(None);
        let variable = |name: &'static str| match std::env::var(name) {
            Ok(value) => Some(value),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                unreadable.set(Some(name));
                None
            }
        };
        let any = |name: &str| std::env::var(name).ok();
        let settings = Self::read(&Sources { variable: &variable, any: &any, home: &home })?;
        if let Some(variable) = unreadable.take() {
            return Err(HubError::Setting { variable, expected: "UTF-8" });
        }
        let ignored =
            VARIABLES.iter().filter(|it| it.handling == Handling::Ignored).map(|it| it.name);
        let ignored: Vec<_> = ignored.filter(|name| std::env::var_os(name).is_some()).collect();
        if !ignored.is_empty() {
            info!(variables = ignored.join(", "), "set, but not used here: see docs/operations.md");
        }
        Ok(settings)
    }

    fn read(sources: &Sources<'_>) -> Result<Self, HubError> {
        // An empty variable counts as not set, as everywhere in the server.
        let set = |name| (sources.variable)(name).filter(|value| !value.trim().is_empty());
        let get = |name| set(name).map(|value| value.trim().to_owned());
        let is_true =
            |value: String| matches!(&*value.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE");
        let flag = |name| get(name).is_some_and(is_true);
        let environment = Environment { variable: sources.any, home: sources.home };
        let expand = |path: String| {
            let expanded = environment.expand(&path);
            if expanded.starts_with('~') || expanded.contains('$') {
                warn!(
                    path = expanded,
                    "a path of the hub's cache names a user or a variable that is not there"
                );
            }
            PathBuf::from(expanded)
        };
        let usual_home = || {
            let cache = set("XDG_CACHE_HOME").or_else(|| {
                let user = environment.own_home().or_else(|| (sources.any)("USERPROFILE"))?;
                Some(format!("{}/.cache", user.trim_end_matches('/')))
            })?;
            Some(format!("{cache}/huggingface"))
        };
        let home = set("HF_HOME").or_else(usual_home).map(&expand);
        let below_home = |name| home.as_ref().map(|home| home.join(name));
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.map(expand).or_else(|| below_home("hub")).ok_or(HubError::NoCache)?;
        let token = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let path = set("HF_TOKEN_PATH").map(expand).or_else(|| below_home("token"))?;
            let text = small_file::read_to_string(&path, MAX_TOKEN_BYTES).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let token = if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Setting {
                variable: "the token (HF_TOKEN, HF_TOKEN_PATH)",
                expected: "one word of printable characters",
            });
        }
        let offline = get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"));
        let idle_timeout = "HF_HUB_DOWNLOAD_TIMEOUT";
        Ok(Self {
            endpoint: endpoint(get("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            cache,
            token: token.map(SecretString::from),
            offline: offline.is_some_and(is_true),
            progress: !flag("HF_HUB_DISABLE_PROGRESS_BARS"),
            symlinks: !flag("HF_HUB_DISABLE_SYMLINKS"),
            api_timeout: seconds("HF_HUB_ETAG_TIMEOUT", get("HF_HUB_ETAG_TIMEOUT"), API_TIMEOUT)?,
            idle_timeout: seconds(idle_timeout, get(idle_timeout), IDLE_TIMEOUT)?,
            retry_pause: RETRY_PAUSE,
        })
    }
}

/// The sources of the settings.
struct Sources<'s> {
    /// The variables of [`VARIABLES`].
    variable: &'s dyn Fn(&'static str) -> Option<String>,
    /// Any variable, for paths that name it.
    any: &'s dyn Fn(&str) -> Option<String>,
    /// The home directory of a user, by name; of the process's user for the empty name.
    home: &'s dyn Fn(&str) -> Option<String>,
}

/// The home directory of a user in the system's list of users.
#[cfg(unix)]
fn home(name: &str) -> Option<String> {
    use nix::unistd::{Uid, User};
    let user = if name.is_empty() { User::from_uid(Uid::current()) } else { User::from_name(name) };
    user.ok()??.dir.into_os_string().into_string().ok().filter(|home| !home.is_empty())
}

/// Other systems have no such list.
#[cfg(not(unix))]
fn home(_: &str) -> Option<String> {
    None
}

/// Parses an address to which paths can be appended.
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
    let expected = "a whole number of seconds";
    match text.parse::<u32>() {
        // Zero means the default, as in Python.
        Ok(0) => Ok(default),
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => Err(HubError::Setting { variable, expected }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, HubError> {
        let any = |name: &str| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let home = |name: &str| (name == "b").then(|| "/home/b".to_owned());
        Settings::read(&Sources { variable: &|name| any(name), any: &any, home: &home })
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
        let old = [("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")];
        assert_eq!(cache(&old), "/old");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/new"), old[0]]), "/new");
    }

    #[test]
    fn paths_are_expanded_as_python_does() {
        let home = ("HOME", "/home/a");
        for (variable, path, expected) in [
            ("HF_HUB_CACHE", "~/hub", "/home/a/hub"),
            ("HF_HUB_CACHE", "~b/hub", "/home/b/hub"),
            ("HF_HUB_CACHE", "$HOME/hub", "/home/a/hub"),
            ("HF_HUB_CACHE", "${HOME}/hub", "/home/a/hub"),
            ("HUGGINGFACE_HUB_CACHE", "~/hub", "/home/a/hub"),
            ("HF_HOME", "~/hf", "/home/a/hf/hub"),
            ("HF_HOME", "$HOME/hf", "/home/a/hf/hub"),
            ("XDG_CACHE_HOME", "~/x", "/home/a/x/huggingface/hub"),
            ("XDG_CACHE_HOME", "$HOME/x", "/home/a/x/huggingface/hub"),
            // An unknown name is left unchanged.
            ("HF_HUB_CACHE", "/a$b/hub", "/a$b/hub"),
            ("HF_HUB_CACHE", " /a b ", " /a b "),
        ] {
            assert_eq!(cache(&[home, (variable, path)]), expected, "{variable}={path}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("utf-8");
        fs::write(folder.path().join("t"), "from_file").expect("writes");
        for path in ["~/t", "$HOME/t"] {
            let settings = read(&[("HOME", home), ("HF_TOKEN_PATH", path)]).expect("settings");
            assert!(settings.token.is_some(), "{path}");
        }
    }

    #[test]
    fn every_variable_that_is_read_is_in_the_list() {
        // The HTTP and TLS libraries read these variables.
        let elsewhere =
            ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"];
        let asked = std::cell::RefCell::new(std::collections::BTreeSet::from(elsewhere));
        let variable = |name: &'static str| {
            asked.borrow_mut().insert(name);
            None
        };
        let home = |_: &str| Some("/nobody".to_owned());
        Settings::read(&Sources { variable: &variable, any: &|_| None, home: &home })
            .expect("defaults");
        let honoured = VARIABLES.iter().filter(|it| it.handling == Handling::Honoured);
        assert_eq!(asked.into_inner(), honoured.map(|it| it.name).collect());
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), VARIABLES.len(), "each stands there once");
    }

    #[test]
    fn switches_and_times_are_read_as_python_does() {
        let home = ("HF_HOME", "/h");
        let of = |pairs: &[(&str, &str)]| read(&[&[home], pairs].concat()).expect("settings");
        for (pairs, offline) in [
            (&[("TRANSFORMERS_OFFLINE", "1")][..], true),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
            (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "yes")], true),
        ] {
            assert_eq!(of(pairs).offline, offline, "{pairs:?}");
        }
        let token = ("HF_TOKEN", "hf_x");
        assert!(of(&[token, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")]).token.is_some());
        assert!(of(&[token, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token.is_none());
        assert!(of(&[]).progress && !of(&[("HF_HUB_DISABLE_PROGRESS_BARS", "1")]).progress);
        assert!(of(&[]).symlinks && !of(&[("HF_HUB_DISABLE_SYMLINKS", "true")]).symlinks);
        let timeout = |text| of(&[("HF_HUB_ETAG_TIMEOUT", text)]).api_timeout;
        assert_eq!((timeout("0"), timeout("7200")), (API_TIMEOUT, Duration::from_secs(7200)));
        for text in ["-1", "1.5", "soon"] {
            let read = read(&[home, ("HF_HUB_DOWNLOAD_TIMEOUT", text)]);
            assert!(read.is_err(), "{text}");
        }
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
