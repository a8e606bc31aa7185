//! Parses the list of models: `NAME=SOURCE@REVISION,SETTING=VALUE`, where only the source is required.

use std::{path::Path, time::Duration};

use indexmap::IndexMap;

use super::{
    Config, DType, Device, LoadTime, Model,
    codec::{Codec as _, Time},
    options::LIST_SEPARATOR,
};

/// Maximum length of a part of a hub id.
const MAX_ID_PART_BYTES: usize = 96;

/// One model to serve, with its own settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The name that requests use, unique among the models.
    pub name: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// Its options: one source, and the settings of this model.
    pub model: Model,
}

/// A parsed entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    name: Option<String>,
    source: String,
    revision: Option<String>,
    device: Option<Device>,
    dtype: Option<DType>,
    threads: Option<usize>,
    load: Option<LoadTime>,
    idle: Option<Duration>,
}

/// What an entry may set for its model, for errors.
const SETTINGS: &str = "device, dtype, threads, load, idle";

/// Whether a text has the form of a hub id, `ORG/NAME`.
#[must_use]
pub fn is_hub_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let part = |part: &str| {
        (1..=MAX_ID_PART_BYTES).contains(&part.len())
            && part.chars().all(plain)
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            // `--` stands for the slash in the cache's folder names.
            && !part.contains("--")
            && !part.contains("..")
    };
    text.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// Whether a text can name a model in requests.
fn is_name(text: &str, also: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "._:-".contains(c) || also.contains(c);
    !text.is_empty() && text.chars().all(plain) && !text.starts_with(['.', '/'])
}

/// The name of the embedded checkpoint, even if there is a folder of that name.
const EMBEDDED: &str = "demo";

/// The entries of a list. The path of an existing folder may have any characters.
///
/// # Errors
/// Says what is wrong with the first invalid entry.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    entries_among(text, &|path| path != EMBEDDED && Path::new(path).is_dir())
}

fn entries_among(text: &str, is_folder: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, String> {
    let parts: Vec<&str> = text.split(LIST_SEPARATOR).collect();
    let (mut entries, mut at) = (Vec::new(), 0);
    while at < parts.len() {
        // The longest run of parts that names a folder, because its path may contain separators.
        let folder = (at + 1..=parts.len()).rev().find_map(|end| {
            let text = parts[at..end].join(LIST_SEPARATOR);
            Some((end, folder(&text, is_folder).or_else(|| folder(text.trim(), is_folder))?))
        });
        let (end, entry) = match folder {
            Some((end, entry)) => (end, entry?),
            None => (at + 1, entry(parts[at].trim())?),
        };
        entries.push(entry);
        at = end;
    }
    Ok(entries)
}

/// An entry whose source is an existing folder: `[NAME=]DIR[,SETTING=VALUE]`.
fn folder(text: &str, is_folder: &dyn Fn(&str) -> bool) -> Option<Result<Entry, String>> {
    let last_part = text.rfind(LIST_SEPARATOR).unwrap_or_default();
    let commas = text.rmatch_indices(',').map(|(at, _)| at).filter(|&at| at > last_part);
    let cuts = std::iter::once(text.len()).chain(commas);
    let (cut, name, source) = cuts.into_iter().find_map(|cut| {
        let head = &text[..cut];
        let named = head.split_once('=').filter(|(name, _)| is_name(name, ""));
        match named {
            _ if is_folder(head) => Some((cut, None, head)),
            Some((name, path)) if is_folder(path) => Some((cut, Some(name), path)),
            _ => None,
        }
    })?;
    let mut found =
        Entry { name: name.map(str::to_owned), source: source.to_owned(), ..Entry::default() };
    for setting in text[cut..].split(',').skip(1) {
        let set = match setting.split_once('=') {
            Some((key, value)) => found.set(key, value),
            None => Err(format!("`{setting}` is not SETTING=VALUE")),
        };
        if let Err(why) = set {
            return Some(Err(format!("`{text}`: {why}")));
        }
    }
    Some(Ok(found))
}

fn entry(text: &str) -> Result<Entry, String> {
    let mut found = Entry::default();
    let mut head = String::new();
    for (index, part) in text.split(',').enumerate() {
        match part.split_once('=').filter(|_| index > 0) {
            Some((key, value)) => {
                found.set(key, value).map_err(|why| format!("`{text}`: {why}"))?
            }
            // The comma is part of a folder's name.
            None if index > 0 => head = format!("{head},{part}"),
            None => part.clone_into(&mut head),
        }
    }
    let (name, source) = match head.split_once('=') {
        Some((name, source)) if is_name(name, "") => (Some(name.to_owned()), source),
        _ => (None, &*head),
    };
    let (source, revision) = match source.split_once('@') {
        Some((id, revision)) if is_hub_id(id) => (id, Some(revision.to_owned())),
        _ => (source, None),
    };
    if source.is_empty() || revision.as_deref() == Some("") {
        return Err(if text.is_empty() {
            "must not be empty".to_owned()
        } else {
            format!("`{text}` is not [NAME=]DIR|HUB_ID[@REVISION]")
        });
    }
    Ok(Entry { name, source: source.to_owned(), revision, ..found })
}

impl Entry {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "device" => self.device = Some(value.parse()?),
            "dtype" => self.dtype = Some(value.parse()?),
            "threads" => {
                let threads = value.parse();
                self.threads =
                    Some(threads.map_err(|_| format!("`{value}` is not a whole number"))?);
            }
            "load" => self.load = Some(value.parse()?),
            "idle" => self.idle = Some(Time::parse(value)?),
            _ => return Err(format!("`{key}` is not a setting of a model: {SETTINGS}")),
        }
        Ok(())
    }
}

/// Parses a list of `ALIAS=NAME`.
///
/// # Errors
/// Says what is wrong with the first invalid entry.
pub(super) fn aliases(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &str| {
        let pair = text.trim().split_once('=').filter(|(alias, _)| is_name(alias, "/"));
        let pair = pair.filter(|(_, name)| is_name(name, "/"));
        let wrong = || format!("`{text}` is not ALIAS=NAME");
        pair.map(|(alias, name)| (alias.to_owned(), name.to_owned())).ok_or_else(wrong)
    };
    text.split(LIST_SEPARATOR).map(pair).collect()
}

/// The path of an option, and the message.
type Wrong = (&'static str, String);

impl Config {
    /// The models to serve, the default one first. There is at least one.
    ///
    /// # Errors
    /// The path of an option that contradicts another, and how. A loaded configuration has no such error.
    pub fn served(&self) -> Result<Vec<Served>, Wrong> {
        let options = &self.model;
        let entries = entries(&options.source).map_err(|why| ("model.source", why))?;
        self.check_singular(&entries)?;
        let mut served = IndexMap::<String, Served>::new();
        for entry in entries {
            let one = self.one(entry);
            if served.contains_key(&one.name) {
                let message = format!(
                    "two models are called `{}`; call one otherwise: NAME={}",
                    one.name, one.model.source
                );
                return Err(("model.source", message));
            }
            served.insert(one.name.clone(), one);
        }
        self.add_aliases(&mut served)?;
        Ok(served.into_values().collect())
    }

    /// Name and revision belong to a single model, so there must be only one model, and it must allow them.
    fn check_singular(&self, entries: &[Entry]) -> Result<(), Wrong> {
        let given = [("model.name", &self.model.name), ("model.revision", &self.model.revision)];
        for (path, _) in given.iter().filter(|(_, value)| value.is_some()) {
            if entries.len() > 1 {
                let message = "is for a single model; of several, each has its own: \
                               --model NAME=SOURCE@REVISION";
                return Err((path, message.to_owned()));
            }
        }
        if self.model.revision.is_some() && !entries.iter().all(|entry| is_hub_id(&entry.source)) {
            return Err(("model.revision", "is for a model from the hub".to_owned()));
        }
        Ok(())
    }

    fn one(&self, entry: Entry) -> Served {
        let options = &self.model;
        let last = Path::new(&entry.source).file_name().and_then(|name| name.to_str());
        let name = entry.name.as_deref().or(options.name.as_deref()).or(last);
        let name = name.unwrap_or(&entry.source).to_owned();
        let model = Model {
            name: Some(name.clone()),
            alias: None,
            revision: entry.revision.or_else(|| options.revision.clone()),
            device: entry.device.unwrap_or(options.device),
            dtype: entry.dtype.unwrap_or(options.dtype),
            threads: entry.threads.unwrap_or(options.threads),
            load: entry.load.unwrap_or(options.load),
            idle: entry.idle.unwrap_or(options.idle),
            source: entry.source,
            ..options.clone()
        };
        Served { name, aliases: Vec::new(), model }
    }

    fn add_aliases(&self, served: &mut IndexMap<String, Served>) -> Result<(), Wrong> {
        let given = self.model.alias.as_deref().map_or(Ok(Vec::new()), aliases);
        let given = given.map_err(|why| ("model.alias", why))?;
        let mut taken: Vec<String> = served.keys().cloned().collect();
        for (alias, name) in given {
            if taken.contains(&alias) {
                return Err(("model.alias", format!("`{alias}` is the name of a model already")));
            }
            let Some(one) = served.get_mut(&name) else {
                return Err(("model.alias", format!("no model is called `{name}`")));
            };
            taken.push(alias.clone());
            one.aliases.push(alias);
        }
        // Clients often use the full id of a model of the hub. If several models have the same source, the
        // first one gets it.
        for one in served.values_mut() {
            let id = &one.model.source;
            if is_hub_id(id) && !taken.contains(id) {
                taken.push(id.clone());
                one.aliases.push(id.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(source: &str, alias: Option<&str>) -> Result<Vec<Served>, Wrong> {
        let mut config = Config::default();
        source.clone_into(&mut config.model.source);
        config.model.alias = alias.map(str::to_owned);
        config.served()
    }

    fn one(source: &str) -> Served {
        served(source, None).expect(source).remove(0)
    }

    #[test]
    fn a_model_is_called_by_its_last_path_component() {
        let name = |source: &str| one(source).name;
        assert_eq!(name("demo"), "demo");
        assert_eq!(name("google/siglip-base-patch16-224"), "siglip-base-patch16-224");
        assert_eq!(name("google/siglip-base-patch16-224@main"), "siglip-base-patch16-224");
        assert_eq!(name("/models/mine/"), "mine");
        assert_eq!(name("yours=/models/mine"), "yours");
        assert_eq!(name(".."), "..");
    }

    #[test]
    fn every_part_of_an_entry_is_read() {
        let full = one(
            "big=google/siglip-so400m@v1/x,dtype=bf16,device=cuda:1,threads=3,load=lazy,idle=1m 30s",
        );
        assert_eq!((&*full.name, &*full.model.source), ("big", "google/siglip-so400m"));
        assert_eq!(full.model.revision.as_deref(), Some("v1/x"));
        let Model { device, dtype, threads, load, idle, .. } = full.model;
        assert_eq!((device, dtype, threads), (Device::Cuda(1), DType::Bf16, 3));
        assert_eq!((load, idle), (LoadTime::Lazy, Duration::from_secs(90)));
        assert_eq!(full.aliases, ["google/siglip-so400m"]);
    }

    #[test]
    fn a_folder_may_be_called_anything() {
        for folder in ["/a=b/c", "./x@y", "/a, b", "C:\\models\\x", "/data/run@2"] {
            assert_eq!(one(folder).model.source, folder);
        }
        assert_eq!(one("x=/a=b").model.source, "/a=b");
    }

    #[test]
    fn a_folder_that_exists_goes_first_whatever_its_path() {
        let folders = [
            "org/name@v1",
            "a=b",
            "a,dtype=f64",
            "/x;y",
            "/x;y;z",
            " padded ",
            "demo/",
            "org/plain",
            "/m/a",
            "x=/m/a",
            "/a b",
        ];
        let read = |text: &str| {
            let entries = entries_among(text, &|path| path != EMBEDDED && folders.contains(&path));
            let entries = entries.map_err(|why| panic!("{text}: {why}")).into_iter().flatten();
            entries.collect::<Vec<_>>()
        };
        for folder in folders {
            let entry = Entry { source: folder.to_owned(), ..Entry::default() };
            assert_eq!(read(folder), [entry], "{folder}");
            let named =
                Entry { name: Some("n".to_owned()), source: folder.to_owned(), ..Entry::default() };
            assert_eq!(read(&format!("n={folder}")), [named], "{folder}");
        }
        for folder in folders {
            let set =
                Entry { source: folder.to_owned(), dtype: Some(DType::Bf16), ..Entry::default() };
            let demo = Entry { source: "demo".to_owned(), ..Entry::default() };
            assert_eq!(read(&format!("demo;{folder},dtype=bf16;demo")), [demo.clone(), set, demo]);
        }
        let both = read("/m/a,threads=2;org/name@v2");
        assert_eq!((&*both[0].source, both[0].threads), ("/m/a", Some(2)));
        assert_eq!((&*both[1].source, both[1].revision.as_deref()), ("org/name", Some("v2")));
        let wrong =
            entries_among("/m/a,speed=3", &|path| path == "/m/a").expect_err("no such setting");
        assert_eq!(
            wrong,
            "`/m/a,speed=3`: `speed` is not a setting of a model: device, dtype, threads, load, idle"
        );
        let wrong = entries_among("/m/a,b", &|path| path == "/m/a").expect_err("no setting");
        assert_eq!(wrong, "`/m/a,b`: `b` is not SETTING=VALUE");
    }

    #[test]
    fn several_models_keep_their_order_and_their_names() {
        let all = served("demo;x=/m/x;demo2=demo,dtype=bf16", Some("a=x;org/b=demo")).expect("all");
        let names: Vec<_> = all.iter().map(|one| (&*one.name, one.aliases.join(","))).collect();
        let expected = [("demo", "org/b"), ("x", "a"), ("demo2", "")];
        assert_eq!(names, expected.map(|(name, aliases)| (name, aliases.to_owned())));
        assert_eq!((all[0].model.dtype, all[2].model.dtype), (DType::F32, DType::Bf16));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (source, alias, expected) in [
            ("", None, "must not be empty"),
            ("demo;", None, "must not be empty"),
            ("x=", None, "`x=` is not"),
            ("org/name@", None, "`org/name@` is not"),
            ("demo,dtype=f64", None, "`demo,dtype=f64`: `f64` is not an element type"),
            ("demo,load=later", None, "`demo,load=later`: `later` is neither eager nor lazy"),
            ("demo,idle=10", None, "`demo,idle=10`: "),
            ("demo,speed=3", None, "`demo,speed=3`: `speed` is not a setting"),
            ("demo;demo", None, "two models are called `demo`"),
            ("demo", Some("a"), "`a` is not ALIAS=NAME"),
            ("demo", Some("demo=demo"), "`demo` is the name of a model already"),
            ("demo", Some("a=other"), "no model is called `other`"),
        ] {
            let (_, found) = served(source, alias).expect_err(source);
            assert!(found.starts_with(expected), "{source}: {found}");
        }
    }

    #[test]
    fn hub_ids_are_told_from_folders() {
        for id in ["google/siglip2-base-patch16-224", "a/b", "Marqo/marqo-fashionSigLIP", "a/b.c_d"]
        {
            assert!(is_hub_id(id), "{id}");
        }
        for text in
            ["demo", "/a/b", "./a", "../a", "a/b/c", "a/", "a--b/c", "a/..b", "a/b ", "a/-b"]
        {
            assert!(!is_hub_id(text), "{text}");
        }
    }
}
