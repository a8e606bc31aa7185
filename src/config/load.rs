//! Merges flags, environment, file and defaults, and keeps the origin of every value.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Config, check,
    file::{self, suggest},
    options::{ENV_PREFIX, LIST_SEPARATOR, OPTIONS, Spec},
};
use crate::small_file;

/// Maximum size of a config file. All options with their descriptions have about 20 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The variable that names the config file if there is no `--config`.
pub const CONFIG_ENV: &str = "SIGLIP_CONFIG";

/// Variables with the server's prefix that are not options. The build script reads and sets them, and `cargo
/// run` passes them to the program.
const OTHER_ENV: [&str; 3] = [CONFIG_ENV, "SIGLIP_BUILD_COMMIT", "SIGLIP_BUILD_TARGET"];

/// The variable that requests faults, in builds for tests.
pub(crate) const FAILPOINT_ENV: &str = "SIGLIP_FAILPOINT";

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// The value is the default.
    #[default]
    Default,
    /// A line of the config file, counted from 1.
    File(String, usize),
    /// An environment variable.
    Env(String),
    /// A flag on the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}:{line}"),
            Self::Env(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One fault of the configuration, and its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct Problem {
    origin: String,
    message: String,
}

impl Problem {
    pub(super) fn new(origin: String, message: String) -> Self {
        Self { origin, message }
    }
}

/// All faults of the configuration, so that one start shows all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_break = if index > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

/// The sources of values, without the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(OsString, OsString)>,
    /// The flags given, by name without dashes, with their values.
    pub flags: Vec<(String, String)>,
}

/// The merged configuration.
#[derive(Debug, Default)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// The origins by `section.key`. An option without an entry has its default.
    origins: HashMap<String, Origin>,
}

impl Effective {
    /// The origin of an option's value.
    #[must_use]
    pub fn origin(&self, option: &Spec) -> Origin {
        self.origins.get(&option.path()).cloned().unwrap_or_default()
    }

    /// Merges the sources over the defaults.
    ///
    /// # Errors
    /// All faults with their origins: an unknown name in the file or the environment, an invalid value, values
    /// that contradict each other.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut merge = Merge::default();
        let env = merge.environment(&sources.env);
        let named = env.iter().find(|(name, _)| name == CONFIG_ENV).map(|(_, path)| path.into());
        if let Some(path) = sources.file.clone().or(named) {
            merge.file(&path);
        }
        for option in OPTIONS.iter() {
            if let Some((name, text)) = env.iter().find(|(name, _)| *name == option.env) {
                merge.set(option, Origin::Env(name.clone()), text);
            }
        }
        for option in OPTIONS.iter() {
            // A list is set by repeating its flag.
            let given = sources.flags.iter().filter(|(flag, _)| option.flag == *flag);
            let texts: Vec<_> = given.map(|(_, text)| text.as_str()).collect();
            if !texts.is_empty() {
                let text = texts.join(LIST_SEPARATOR);
                merge.set(option, Origin::Flag(option.flag.clone()), &text);
            }
        }
        // Contradictions are only reported if every value is valid.
        if merge.problems.is_empty() {
            merge.problems = check::contradictions(&merge.effective);
        }
        if merge.problems.is_empty() { Ok(merge.effective) } else { Err(Problems(merge.problems)) }
    }
}

#[derive(Default)]
struct Merge {
    effective: Effective,
    problems: Vec<Problem>,
}

impl Merge {
    fn set(&mut self, option: &Spec, origin: Origin, text: &str) {
        match self.effective.config.set(option, text) {
            Ok(()) => {
                self.effective.origins.insert(option.path(), origin);
            }
            Err(message) => {
                // In a file, the line alone does not identify the key.
                let place = match &origin {
                    Origin::File(..) => format!("{origin}: [{}] {}", option.section, option.key),
                    _ => origin.to_string(),
                };
                self.problems.push(Problem::new(place, message));
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let text = match small_file::read_to_string(path, MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("the config file cannot be read: {error}");
                return self.problems.push(Problem::new(name, message));
            }
        };
        let (entries, problems) = file::parse(&name, &text);
        self.problems.extend(problems);
        for entry in entries {
            let known = |option: &&Spec| option.section == entry.section && option.key == entry.key;
            if let Some(option) = OPTIONS.iter().find(known) {
                self.set(option, Origin::File(name.clone(), entry.line), &entry.text);
            }
        }
    }

    /// Reads the server's own variables. An empty one counts as not set, because compose files and shell
    /// scripts leave variables out in this way.
    fn environment(&mut self, env: &[(OsString, OsString)]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
                continue;
            };
            let known = OPTIONS.iter().any(|option| option.env == name);
            // Builds without failpoints refuse this variable like any unknown name.
            if cfg!(failpoints) && name == FAILPOINT_ENV {
                continue;
            }
            if !known && !OTHER_ENV.contains(&name) {
                if !is_service_link(name) {
                    let names = OPTIONS.iter().map(|option| option.env.as_str());
                    let message = format!("there is no such option{}", suggest(name, names));
                    self.problems.push(Problem::new(format!("variable {name}"), message));
                }
                continue;
            }
            match value.to_str() {
                Some("") => {}
                Some(value) => found.push((name.to_owned(), value.to_owned())),
                None => {
                    let message = "the value is not UTF-8".to_owned();
                    self.problems.push(Problem::new(format!("variable {name}"), message));
                }
            }
        }
        found
    }
}

/// Whether Kubernetes set the variable. For a service called `siglip` (or `siglip-anything`), every pod of the
/// namespace gets `SIGLIP_SERVICE_HOST`, `SIGLIP_PORT_8080_TCP_ADDR` and similar ones.
fn is_service_link(name: &str) -> bool {
    let after = |mark: &str| name.find(mark).map(|at| &name[at + mark.len()..]);
    name.ends_with("_SERVICE_HOST")
        || after("_SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        || name.ends_with("_PORT")
        || after("_PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
