//! Selects the files of a model that are downloaded: only those that the loader reads.

use super::{HubError, RepoId, client::RemoteFile};
use crate::checkpoint::{
    CONFIG, OPEN_CLIP_CONFIG, SMALL_FILES, WEIGHTS_INDEX,
    layout::{self, Layout, LayoutError, WEIGHT_FILES, Weights},
};

/// Maximum number of bytes of weights, ten times the largest tower, so that a wrong listing cannot fill a disk.
pub(super) const MAX_WEIGHT_BYTES: u64 = 64 << 30;

/// The small files that the model has, which are downloaded, and the names of those that it lacks.
///
/// # Errors
/// [`HubError::Pickle`] or [`HubError::Incomplete`] if the model cannot be served with any configuration.
pub(super) fn small<'f>(
    id: &RepoId,
    files: &'f [RemoteFile],
) -> Result<(Vec<&'f RemoteFile>, Vec<&'static str>), HubError> {
    let find = |name: &str| files.iter().find(|file| file.name == name);
    if find(CONFIG).is_none() && find(OPEN_CLIP_CONFIG).is_none() {
        return Err(refused(id, LayoutError::NoConfig));
    }
    // A repository without weights for either layout can be refused before any download.
    let names = || files.iter().map(|file| file.name.as_str());
    if let Err(error) = Layout::OpenClip.weights(names()) {
        return Err(refused(id, error));
    }
    let there = SMALL_FILES.into_iter().filter_map(find).collect();
    let all = SMALL_FILES.into_iter().chain(WEIGHT_FILES);
    Ok((there, all.filter(|name| find(name).is_none()).collect()))
}

/// The first file of the weights, and whether it is an index.
///
/// * `config`: the content of `config.json`, if the model has it
///
/// # Errors
/// [`HubError::Pickle`] or [`HubError::Incomplete`].
pub(super) fn weights<'f>(
    id: &RepoId,
    files: &'f [RemoteFile],
    config: Option<&[u8]>,
) -> Result<(&'f RemoteFile, Weights), HubError> {
    let names = || files.iter().map(|file| file.name.as_str());
    let has_open_clip = names().any(|name| name == OPEN_CLIP_CONFIG);
    let chosen = Layout::of(config, has_open_clip).and_then(|layout| layout.weights(names()));
    let chosen = chosen.map_err(|error| refused(id, error))?;
    let first = chosen.first();
    let found = files.iter().find(|file| file.name == first);
    let absent = || HubError::UnknownFile { id: id.to_string(), file: first.to_owned() };
    found.map(|file| (file, chosen)).ok_or_else(absent)
}

/// The shards that an index names.
///
/// # Errors
/// Fails if the index cannot be read, or the model lacks a shard.
pub(super) fn shards<'f>(
    id: &RepoId,
    files: &'f [RemoteFile],
    json: &[u8],
) -> Result<Vec<&'f RemoteFile>, HubError> {
    let malformed = |source| HubError::Malformed { what: WEIGHTS_INDEX.to_owned(), source };
    layout::shards(json)
        .map_err(malformed)?
        .into_iter()
        .map(|name| {
            let lacks = || format!("its index names `{name}`, which it does not have");
            let found = files.iter().find(|file| file.name == name);
            found.ok_or_else(|| HubError::Incomplete { id: id.to_string(), lacks: lacks() })
        })
        .collect()
}

fn refused(id: &RepoId, error: LayoutError) -> HubError {
    let id = id.to_string();
    match error {
        LayoutError::Pickle(file) => HubError::Pickle { id, file },
        error => HubError::Incomplete { id, lacks: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{OPEN_CLIP_WEIGHTS, WEIGHTS};

    /// A configuration that transformers reads by itself.
    const OWN: &[u8] = br#"{"model_type": "siglip"}"#;
    /// A configuration of code that wraps open_clip.
    const WRAPPER: &[u8] = br#"{"model_type": "siglip", "auto_map": {"AutoModel": "a.B"}}"#;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        names.iter().map(|name| RemoteFile::named(name)).collect()
    }

    fn chosen(names: &[&str], config: Option<&[u8]>) -> Result<String, String> {
        let (id, files) = (RepoId::parse("org/name").expect("an id"), files(names));
        small(&id, &files).map_err(|error| error.to_string())?;
        let chosen = weights(&id, &files, config);
        chosen.map(|(file, _)| file.name.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn safetensors_are_chosen_and_pickles_refused() {
        let weights = |names: &[&str], config| chosen(names, config).expect("weights");
        assert_eq!(weights(&[CONFIG, "pytorch_model.bin", WEIGHTS], Some(OWN)), WEIGHTS);
        assert_eq!(weights(&[CONFIG, WEIGHTS_INDEX], Some(OWN)), WEIGHTS_INDEX);
        assert_eq!(weights(&[OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS], None), OPEN_CLIP_WEIGHTS);
        let both = [CONFIG, OPEN_CLIP_CONFIG, WEIGHTS, OPEN_CLIP_WEIGHTS];
        assert_eq!(weights(&both, Some(OWN)), WEIGHTS);
        assert_eq!(weights(&both, Some(WRAPPER)), OPEN_CLIP_WEIGHTS);
        let refused = chosen(&[CONFIG, "pytorch_model.bin"], Some(OWN)).expect_err("a pickle");
        assert!(refused.contains("`pytorch_model.bin`, which is not read"), "{refused}");
        assert!(chosen(&[CONFIG, "flax_model.msgpack"], Some(OWN)).is_err());
        assert!(chosen(&[WEIGHTS], None).expect_err("no config").contains("config.json"));
        let other = chosen(&[CONFIG, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS], Some(OWN));
        assert!(other.expect_err("the other's").contains("neither is there"));
    }

    #[test]
    fn a_shard_that_is_not_listed_is_missing() {
        let id = RepoId::parse("org/name").expect("an id");
        let index = br#"{"weight_map": {"a": "a.safetensors"}}"#;
        assert!(shards(&id, &files(&["a.safetensors"]), index).is_ok());
        assert!(shards(&id, &files(&["b.safetensors"]), index).is_err());
    }
}
