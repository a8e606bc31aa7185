//! Which files of a model on the hub are downloaded: those that the loader reads, and no others.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{HubError, RepoId, client::RemoteFile};

/// Everything that is read beside the weights. None must be there.
pub const SMALL_FILES: [&str; 8] = [
    CONFIG,
    OPEN_CLIP_CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
];

pub(super) const CONFIG: &str = "config.json";
pub(super) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
pub(super) const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";

/// The largest that exists is a tokenizer of 34 MB.
pub(super) const MAX_SMALL_BYTES: u64 = 256 << 20;
/// Ten times the largest tower there is. A bound, so that a wrong listing cannot fill any disk.
pub(super) const MAX_WEIGHT_BYTES: u64 = 64 << 30;
/// More shards than that are no checkpoint.
const MAX_SHARDS: usize = 256;
/// How pickled weights end.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz"];

/// What to download.
pub(super) struct Plan<'f> {
    /// In the order of [`SMALL_FILES`].
    pub(super) small: Vec<&'f RemoteFile>,
    /// The names of [`SMALL_FILES`] that the model does not have.
    pub(super) absent: Vec<&'static str>,
    pub(super) weights: Weights<'f>,
}

pub(super) enum Weights<'f> {
    Single(&'f RemoteFile),
    /// The file that names the shards.
    Index(&'f RemoteFile),
}

/// # Errors
/// [`HubError::Pickle`] or [`HubError::Incomplete`].
pub(super) fn plan<'f>(id: &RepoId, files: &'f [RemoteFile]) -> Result<Plan<'f>, HubError> {
    let find = |name: &str| files.iter().find(|file| file.name == name);
    let lacks = |lacks: &str| HubError::Incomplete { id: id.to_string(), lacks: lacks.to_owned() };
    if find(CONFIG).is_none() && find(OPEN_CLIP_CONFIG).is_none() {
        return Err(lacks("it has neither config.json nor open_clip_config.json"));
    }
    let single = || find(WEIGHTS).map(Weights::Single);
    let sharded = || find(WEIGHTS_INDEX).map(Weights::Index);
    let open_clip = || find(OPEN_CLIP_WEIGHTS).map(Weights::Single);
    // Where a model has both layouts, the loader goes by open_clip's: its config.json is a stub then.
    let weights = if find(OPEN_CLIP_CONFIG).is_some() {
        open_clip().or_else(single).or_else(sharded)
    } else {
        single().or_else(sharded)
    };
    let Some(weights) = weights else {
        let pickle = files.iter().find(|file| PICKLES.iter().any(|end| file.name.ends_with(end)));
        return Err(match pickle {
            Some(file) => HubError::Pickle { id: id.to_string(), file: file.name.clone() },
            None => lacks("it has neither model.safetensors nor model.safetensors.index.json"),
        });
    };
    let (there, absent): (Vec<_>, Vec<_>) =
        SMALL_FILES.into_iter().partition(|name| find(name).is_some());
    Ok(Plan { small: there.into_iter().filter_map(find).collect(), absent, weights })
}

/// The part of `model.safetensors.index.json` that is read: tensor name to file name.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the shards in an index; none if it is not one, or leads out of its folder.
pub(super) fn shard_names(json: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    use serde::de::Error as _;
    let index: Index = serde_json::from_slice(json)?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    let wrong = |name: &&String| {
        name.contains(['/', '\\']) || name.starts_with('.') || !name.ends_with(".safetensors")
    };
    match names.iter().find(wrong) {
        Some(name) => Err(serde_json::Error::custom(format!("`{name}` is no shard's name"))),
        None if names.is_empty() || names.len() > MAX_SHARDS => {
            Err(serde_json::Error::custom(format!("it names {} shards", names.len())))
        }
        None => Ok(names),
    }
}

/// The shards that an index names.
///
/// # Errors
/// The index cannot be read, or the model lacks a shard.
pub(super) fn shards<'f>(
    id: &RepoId,
    files: &'f [RemoteFile],
    json: &[u8],
) -> Result<Vec<&'f RemoteFile>, HubError> {
    let malformed = |source| HubError::Malformed { what: WEIGHTS_INDEX.to_owned(), source };
    shard_names(json)
        .map_err(malformed)?
        .into_iter()
        .map(|name| {
            let lacks = || format!("its index names `{name}`, which it does not have");
            let found = files.iter().find(|file| file.name == name);
            found.ok_or_else(|| HubError::Incomplete { id: id.to_string(), lacks: lacks() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        names.iter().map(|name| RemoteFile::named(name)).collect()
    }

    fn chosen(names: &[&str]) -> Result<String, String> {
        let id = RepoId::parse("org/name").expect("an id");
        match plan(&id, &files(names)) {
            Ok(plan) => Ok(match plan.weights {
                Weights::Single(file) | Weights::Index(file) => file.name.clone(),
            }),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn safetensors_are_chosen_and_pickles_refused() {
        let weights = |names: &[&str]| chosen(names).expect("weights");
        assert_eq!(weights(&[CONFIG, "pytorch_model.bin", WEIGHTS]), WEIGHTS);
        assert_eq!(weights(&[CONFIG, WEIGHTS_INDEX]), WEIGHTS_INDEX);
        assert_eq!(weights(&[OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS]), OPEN_CLIP_WEIGHTS);
        let both = [CONFIG, OPEN_CLIP_CONFIG, WEIGHTS, OPEN_CLIP_WEIGHTS];
        assert_eq!(weights(&both), OPEN_CLIP_WEIGHTS);
        let refused = chosen(&[CONFIG, "pytorch_model.bin"]).expect_err("a pickle");
        assert!(refused.contains("`pytorch_model.bin`, which is not read"), "{refused}");
        assert!(chosen(&[CONFIG, "flax_model.msgpack"]).is_err());
        assert!(chosen(&[WEIGHTS]).expect_err("no config").contains("config.json"));
    }

    #[test]
    fn an_index_names_files_of_its_own_folder() {
        let names = |file: &str| {
            shard_names(format!(r#"{{"weight_map": {{"a": "{file}"}}}}"#).as_bytes()).is_ok()
        };
        assert!(names("model-00001-of-00002.safetensors"));
        for wrong in ["../a.safetensors", "/etc/a.safetensors", "a.bin", ".safetensors", "a\\\\b"] {
            assert!(!names(wrong), "{wrong}");
        }
        assert!(shard_names(br#"{"weight_map": {}}"#).is_err());
        let id = RepoId::parse("org/name").expect("an id");
        let index = br#"{"weight_map": {"a": "a.safetensors"}}"#;
        assert!(shards(&id, &files(&["a.safetensors"]), index).is_ok());
        assert!(shards(&id, &files(&["b.safetensors"]), index).is_err());
    }
}
